"""Every variable of the environment, and what becomes of a bad value."""

from __future__ import annotations

import re

import pytest

from trainingrun_operator.core.destinations import Destination
from trainingrun_operator.settings import FOUND, DashboardSettings, Settings, SettingsError, load, load_dashboard

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD = {
    "agent_image": ("registry.example/operator:1", "registry.example/operator:1"),
    "agent_pull_policy": ("Always", "Always"),
    "agent_resources": ('{"limits": {"cpu": "1"}}', {"limits": {"cpu": "1"}}),
    "agent_quiet_seconds": ("2.5", 2.5),
    "auto_stop_loss": ("0.25", 0.25),
    "auto_stop_action": ("Stop", "Stop"),
    "hold_after_seconds": ("1", 1.0),
    "image_error_seconds": ("2", 2.0),
    "unschedulable_seconds": ("10", 10.0),
    "stale_after_seconds": ("3", 3.0),
    "termination_look_seconds": ("0.5", 0.5),
    "node_removal_seconds": ("5", 5.0),
    "terminal_pod_seconds": ("6", 6.0),
    "evictable_after_seconds": ("11", 11.0),
    "recheck_seconds": ("7", 7.0),
    "status_seconds": ("8", 8.0),
    "curve_seconds": ("13", 13.0),
    "list_seconds": ("9", 9.0),
    "allowed_destinations": (
        '[{"bucket": "models", "prefix": "a/b"}]',
        (Destination(bucket="models", segments=("a", "b")),),
    ),
    "run_selector": ("team=vision", "team=vision"),
    "watch_namespaces": ("vision,nlp", "vision,nlp"),
    "release_nodes": ("false", False),
    "lease_name": ("another", "another"),
    "lease_namespace": ("operators", "operators"),
    "lease_seconds": ("12", 12),
    "pod_name": ("operator-x7k2p", "operator-x7k2p"),
    "webhook_url": ("https://ops.example/events", "https://ops.example/events"),
    "webhook_secret": (SECRET, SECRET),
    "webhook_events": ("dev.trainingrun.run.ended", "dev.trainingrun.run.ended"),
    "port": ("9090", 9090),
    "gpu_exporter": ("http://dcgm.gpu-operator.svc:9400/metrics", "http://dcgm.gpu-operator.svc:9400/metrics"),
    "log_level": ("debug", "DEBUG"),
}


PAGE = "the address of a page, http://host:port/path"
NAMED_OTHERWISE = {"agent_quiet_seconds": "TRAININGRUN_AGENT_SETTLE_SECONDS"}


def variable(name):
    return NAMED_OTHERWISE.get(name, f"TRAININGRUN_{name.upper()}")


def test_every_setting_is_in_the_table():
    assert Settings.model_fields.keys() - FOUND == GOOD.keys()


@pytest.mark.parametrize("name", sorted(FOUND))
def test_what_is_found_cannot_be_set(name):
    assert load({variable(name): '["Mine"]'}) == Settings()


@pytest.mark.parametrize("name", GOOD)
def test_a_variable_sets_its_setting_and_no_other(name):
    text, value = GOOD[name]
    loaded = load({variable(name): text})
    assert getattr(loaded, name) == value
    others = [other for other in GOOD if other != name]
    assert [getattr(loaded, other) for other in others] == [getattr(Settings(), other) for other in others]


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_variable_is_an_absent_one(name):
    assert load({variable(name): ""}) == Settings()


def test_numbers_keep_their_kind():
    loaded = load({variable(name): text for name, (text, _) in GOOD.items()})
    assert [type(getattr(loaded, name)) for name in GOOD] == [type(value) for _, value in GOOD.values()]


def test_variables_of_others_are_not_read():
    assert load({"PORT": "1", "TRAININGRUN_AGENT_CONFIG": "{}", "PATH": "/bin"}) == Settings()


def test_without_an_argument_it_is_the_process_environment(monkeypatch):
    monkeypatch.setenv("TRAININGRUN_PORT", "9091")
    assert load().port == 9091


NUMBER, WHOLE = "a number, 0 or more", "a whole number, 0 or more"
SECONDS = [name for name, (_, value) in GOOD.items() if isinstance(value, float)]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "5s", "1,5"])
def test_what_is_no_number_is_refused_with_variable_value_and_what_was_expected(name, text):
    with pytest.raises(SettingsError) as caught:
        load({variable(name): text})
    assert str(caught.value) == f"{variable(name)} is {text!r}: expected {NUMBER}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("port", "http", WHOLE, id="a port in words"),
        pytest.param("port", "80.5", WHOLE, id="half a port"),
        pytest.param("port", "-1", WHOLE, id="a negative port"),
        pytest.param("lease_seconds", "0", "a whole number, 1 or more", id="a Lease of no time"),
        pytest.param("lease_seconds", "1.5", WHOLE, id="a Lease of half a second"),
        pytest.param("agent_resources", "{cpu: 1}", "a JSON object", id="resources in YAML"),
        pytest.param("agent_resources", "[1]", "a JSON object", id="resources as a list"),
        pytest.param("allowed_destinations", "{}", "a JSON list of destinations", id="destinations that are no list"),
        pytest.param(
            "allowed_destinations",
            '[{"bucket": ""}]',
            "a JSON list of destinations (item 0: bucket is '': string should have at least 1 character)",
            id="a destination that cannot be meant",
        ),
        pytest.param("auto_stop_action", "stop", "Shadow or Stop", id="an action in lower case"),
        pytest.param("auto_stop_action", "Off", "Shadow or Stop", id="an action that does not exist"),
        pytest.param("agent_pull_policy", "Sometimes", "Always, IfNotPresent or Never", id="a pull policy"),
        pytest.param("release_nodes", "yes", "true or false", id="a yes"),
        pytest.param("gpu_exporter", "dcgm:9400", PAGE, id="an exporter without a scheme"),
        pytest.param("gpu_exporter", "https://dcgm:9400/metrics", PAGE, id="an exporter with TLS"),
        pytest.param("gpu_exporter", "http://dcgm:port/", PAGE, id="an exporter with a port that is no number"),
        pytest.param("log_level", "LOUD", "DEBUG, INFO, WARNING, ERROR or CRITICAL", id="a log level"),
    ],
)
def test_a_bad_value_is_refused_with_variable_value_and_what_was_expected(name, text, expected):
    with pytest.raises(SettingsError) as caught:
        load({variable(name): text})
    assert str(caught.value) == f"{variable(name)} is {text!r}: expected {expected}"


@pytest.mark.parametrize("url", ["ops.example", "ftp://ops.example", "https://", "https://[::1", "https://ops:x/"])
def test_a_webhook_that_is_no_address_is_refused_without_quoting_it(url):
    with pytest.raises(SettingsError) as caught:
        load({"TRAININGRUN_WEBHOOK_URL": url})
    assert str(caught.value) == "TRAININGRUN_WEBHOOK_URL is not an address: expected https://host/path"


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        pytest.param("whsec_sesame", "Incorrect padding", id="no base64"),
        pytest.param("whsec_c2VzYW1l", "6 bytes instead of 24 to 64", id="too short"),
        pytest.param(f"{SECRET} whsec_c2VzYW1l", "6 bytes instead of 24 to 64", id="the second of two"),
    ],
)
def test_a_secret_that_signs_nothing_is_refused_without_quoting_it(secret, why):
    with pytest.raises(SettingsError) as caught:
        load({"TRAININGRUN_WEBHOOK_SECRET": secret})
    assert str(caught.value) == (
        f"TRAININGRUN_WEBHOOK_SECRET cannot be used ({why}): expected 24 to 64 random bytes in base64, after whsec_"
    )


def test_an_event_that_does_not_exist_is_refused():
    with pytest.raises(
        SettingsError, match=r"has 'run\.ended': expected one or more of dev\.trainingrun\.run\.ended, "
    ):
        load({"TRAININGRUN_WEBHOOK_EVENTS": "dev.trainingrun.data.lost,run.ended"})


def test_address_and_secret_of_the_webhook_are_in_no_log():
    loaded = load({"TRAININGRUN_WEBHOOK_URL": "https://ops.example/token", "TRAININGRUN_WEBHOOK_SECRET": SECRET})
    assert "token" not in repr(loaded)
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "namespaces"),
    [
        pytest.param("", (), id="all"),
        pytest.param("vision", ("vision",), id="one"),
        pytest.param(" vision, nlp,,vision ", ("vision", "nlp"), id="each once, whatever is between them"),
    ],
)
def test_namespaces_are_separated_by_commas(text, namespaces):
    assert load({"TRAININGRUN_WATCH_NAMESPACES": text}).namespaces == namespaces


def test_the_first_bad_value_is_said():
    with pytest.raises(SettingsError, match="TRAININGRUN_PORT"):
        load({"TRAININGRUN_PORT": "x", "TRAININGRUN_LOG_LEVEL": "LOUD"})


# -- the dashboard --------------------------------------------------------------------------------------------


def test_a_dashboard_of_which_nothing_is_said_listens_on_loopback_and_asks_who_it_is():
    assert load_dashboard({}) == DashboardSettings(
        host="127.0.0.1", port=8081, origins=(), anonymous=False, log_level="INFO"
    )


def test_the_dashboard_reads_what_is_set():
    environ = {
        "TRAININGRUN_DASHBOARD_HOST": "10.0.0.7",
        "TRAININGRUN_DASHBOARD_PORT": "9000",
        "TRAININGRUN_DASHBOARD_ORIGINS": "https://Runs.Example.com/, http://inside:8080,https://a:443,http://[FD00::1]",
        "TRAININGRUN_DASHBOARD_ANONYMOUS": "true",
        "TRAININGRUN_LOG_LEVEL": "debug",
    }
    origins = ("https://runs.example.com", "http://inside:8080", "https://a", "http://[fd00::1]")
    assert load_dashboard(environ) == DashboardSettings(
        host="10.0.0.7", port=9000, origins=origins, anonymous=True, log_level="DEBUG"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DASHBOARD_PORT", "http", "expected a whole number, 0 or more"),
        ("DASHBOARD_ORIGINS", "runs.example.com", "expected scheme and host as the address bar shows them"),
        ("DASHBOARD_ORIGINS", "https://runs.example.com/path", "expected scheme and host"),
        ("DASHBOARD_ORIGINS", "https://a:port", "expected scheme and host"),
        ("DASHBOARD_ORIGINS", "https://ada@a", "expected scheme and host"),
        ("DASHBOARD_ANONYMOUS", "yes", "expected true or false"),
        ("LOG_LEVEL", "loud", "expected DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ],
)
def test_a_setting_of_the_dashboard_that_cannot_be_used_is_named(name, value, expected):
    with pytest.raises(SettingsError, match=re.escape(expected)) as caught:
        load_dashboard({f"TRAININGRUN_{name}": value})
    assert f"TRAININGRUN_{name}" in str(caught.value)

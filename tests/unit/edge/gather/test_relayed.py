"""A real agent, with the configuration that the operator gives its pod, beside a training: which page a reading is of, and who has asked for it."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import POD_UID, make_run, make_status, template

from trainingrun_operator.agent import relay, serve
from trainingrun_operator.api.exchange import AGENT_CONFIG_ENV, AgentConfig, AgentReport
from trainingrun_operator.api.status import Effective
from trainingrun_operator.core import manifests
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.reading import PROMETHEUS, Reading
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.metrics.prometheus import make_session
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Tools

REPORT = AgentReport(pod_uid=POD_UID, files=3)
BOTH_AT_ONCE, ONE_AFTER_THE_OTHER = {"agent": 1}, {"agent": 1, "metrics": 1}
STEPS = {"/metrics": 1, "/other": 2}
"""By path, what the page says."""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine cuts no page."""
    monkeypatch.setattr(relay, "SECONDS", 60)
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 60)


@contextmanager
def training(base, host="127.0.0.1", port=0):
    """A training whose pages say `base` and the step of their path; gives its port."""

    def answer_all():
        while True:
            try:
                there, _ = listening.accept()
            except OSError:
                return
            with there:
                path = there.recv(65536).split()[1].decode()
                page = f"training_loss 0.5\ntraining_step {base + STEPS[path]}\nother_loss 0.75\n".encode()
                there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page)

    with socket.create_server((host, port)) as listening:
        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def agent(run, *, without=()):
    """The agent of a pod that is built for this run; gives its port. `without`: fields that its release does not have."""
    container = manifests.pod_template(run, Defaults())["spec"]["initContainers"][1]
    (value,) = [one["value"] for one in container["env"] if one["name"] == AGENT_CONFIG_ENV]
    stored = {key: one for key, one in json.loads(value).items() if key not in without}
    page = relay.page(AgentConfig.parse(stored).metrics_page)
    served = serve.start(0, lambda: REPORT.model_dump_json(by_alias=True), relayed=page)
    try:
        yield served.port
    finally:
        served.close()


async def polled(run, agent_port, host="127.0.0.1"):
    """Step and loss of one poll, and the requests that it took."""
    pod: Any = SimpleNamespace(host=host, name="bert-0", uid=POD_UID, rank=0)
    before = calls.made()
    async with make_session() as session:
        sources = Sources.of(Tools(session, cast("Any", None)))
        report, reading = await PodPages(session, sources, agent_port=agent_port, agent_timeout_seconds=60).poll(
            run, pod
        )
    assert report == REPORT
    assert isinstance(reading, Reading), reading
    made = {api: number - before[api] for api, number in calls.made().items() if number != before[api]}
    return reading.step, reading.loss, made


def run_of(metrics, **fields):
    return make_run(spec={"metrics": metrics}, **fields)


async def test_a_poll_of_an_unchanged_run_is_one_request():
    with training(100) as port, agent(run := run_of({"port": port})) as agent_port:
        assert await polled(run, agent_port) == (101, 0.5, BOTH_AT_ONCE)


@pytest.mark.parametrize(
    ("built", "now", "step", "made"),
    [
        pytest.param({"port": "old"}, {"port": "new"}, 201, ONE_AFTER_THE_OTHER, id="another port"),
        pytest.param({"port": "old"}, {"port": "old", "path": "/other"}, 102, ONE_AFTER_THE_OTHER, id="another path"),
        pytest.param({"port": "new", "path": "/other"}, {"port": "old"}, 101, ONE_AFTER_THE_OTHER, id="both"),
        pytest.param({"port": "old", "source": "Files"}, {"port": "old"}, 101, ONE_AFTER_THE_OTHER, id="another source"),
        pytest.param({"port": "old", "source": "Auto"}, {"port": "old"}, 101, BOTH_AT_ONCE, id="Auto, then the page"),
        pytest.param({"port": "old", "path": "/a/../other"}, {"port": "old"}, 101, ONE_AFTER_THE_OTHER, id="a corrected path"),
    ],
)  # fmt: skip
async def test_after_a_change_of_the_spec_the_reading_is_of_the_new_page(built, now, step, made):
    """The pod keeps the page that it was built with, and both pages are served."""
    with training(100) as old, training(200) as new:
        ports = {"old": old, "new": new}
        before, after = (run_of({**one, "port": ports[one["port"]]}) for one in (built, now))
        with agent(before) as agent_port:
            assert await polled(after, agent_port) == (step, 0.5, made)
            assert await polled(after, agent_port) == (step, 0.5, made), "So it is at each poll."


async def test_after_a_change_back_it_is_one_request_again():
    with training(100) as old, training(200) as new, agent(before := run_of({"port": old})) as agent_port:
        assert await polled(run_of({"port": new}), agent_port) == (201, 0.5, ONE_AFTER_THE_OTHER)
        assert await polled(before, agent_port) == (101, 0.5, BOTH_AT_ONCE)


async def test_other_names_are_looked_for_on_the_page_that_is_relayed():
    with training(100) as port, agent(run_of({"port": port})) as agent_port:
        run = run_of({"port": port, "names": {"loss": ["other_loss"]}})
        assert await polled(run, agent_port) == (101, 0.75, BOTH_AT_ONCE)


async def test_the_agent_of_an_older_release_answers_with_its_report_and_the_training_is_asked():
    with training(100) as port, agent(run := run_of({"port": port}), without=("metricsPage",)) as agent_port:
        assert await polled(run, agent_port) == (101, 0.5, ONE_AFTER_THE_OTHER)


async def test_a_pod_on_its_nodes_network_relays_nothing():
    """The operator does not ask such a pod; an agent does not read for others either."""
    wanted = template()
    wanted["spec"]["hostNetwork"] = True
    with training(100) as port:
        run = make_run(spec={"template": wanted, "metrics": {"port": port}})
        with agent(run) as agent_port:
            assert await polled(run, agent_port) == (101, 0.5, ONE_AFTER_THE_OTHER)


async def test_auto_that_has_chosen_the_page_takes_one_request():
    effective = Effective(metrics_source=PROMETHEUS, metrics_source_note="It is the first source with loss and step.")
    with training(100) as port:
        run = run_of({"port": port, "source": "Auto"}, status=make_status(effective=effective))
        with agent(run_of({"port": port, "source": "Auto"})) as agent_port:
            assert await polled(run, agent_port) == (101, 0.5, BOTH_AT_ONCE)


async def test_each_rank_has_the_page_of_its_own_training():
    """All ranks have one configuration, and pods of one port at addresses of their own."""
    with ExitStack() as stack:
        port = stack.enter_context(training(100, "127.0.0.1"))
        stack.enter_context(training(200, "127.0.0.2", port))
        stack.enter_context(training(300, "127.0.0.3", port))
        run = run_of({"port": port})
        agent_port = stack.enter_context(agent(run))
        for rank in range(3):
            polled_ = await polled(run, agent_port, f"127.0.0.{rank + 1}")
            assert polled_ == (100 * (rank + 1) + 1, 0.5, BOTH_AT_ONCE)

"""The source of a run is what its spec names, else what was recorded, else Auto for a run that no operator has seen; nothing of it depends on when an object was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import make_observed, make_run, make_status, spec_dict

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import Effective, NodeStatus, TrainingRunStatus
from trainingrun_operator.core import metric_source
from trainingrun_operator.core.facts.reading import AUTO, FILES, LOGS, PROMETHEUS, PUSH
from trainingrun_operator.core.status import observed_fields, render
from trainingrun_operator.core.track import Track

ROOT = Path(__file__).parents[3]
OLD: dict[str, Any] = {"phase": "Running", "conditions": []}
"""What an operator wrote before a source could be named."""


def run_of(metrics: dict[str, Any] | None = None, status: dict[str, Any] | None = None):
    return make_run(spec={"metrics": metrics or {}}, status=TrainingRunStatus.parse(status or {}))


def recorded(source, note="", **fields):
    return {**OLD, "effective": {"metricsSource": source, "metricsSourceNote": note}, **fields}


@pytest.mark.parametrize(
    ("metrics", "status", "source"),
    [
        pytest.param({}, {}, AUTO, id="a new run"),
        pytest.param({}, {"nodes": [{"name": "n", "uid": "u"}]}, AUTO, id="of which a killed operator has recorded a node alone"),
        pytest.param({}, OLD, PROMETHEUS, id="a run of a release before there were settings in force"),
        pytest.param({}, {**OLD, "effective": {"autoStopLoss": 0.3}}, PROMETHEUS, id="a run of a release before there were sources"),
        pytest.param({}, recorded(PROMETHEUS), PROMETHEUS, id="a run of a release whose default was the page"),
        pytest.param({}, recorded(AUTO), AUTO, id="a new run at its second look"),
        pytest.param({}, recorded(LOGS, "why"), AUTO, id="Auto has taken the log"),
        pytest.param({}, recorded(PROMETHEUS, "why"), AUTO, id="Auto has taken the page"),
        pytest.param({}, recorded(FILES), FILES, id="the spec named another source, and names none now"),
        pytest.param({}, recorded("Mine"), AUTO, id="the spec named a source that is none of this operator's, and names none now"),
        pytest.param({"port": 9090}, {}, PROMETHEUS, id="a new run that names the port"),
        pytest.param({"path": "/m"}, {}, PROMETHEUS, id="the path"),
        pytest.param({"names": {"step": ["s"]}}, {}, PROMETHEUS, id="a name"),
        pytest.param({"names": {"loss": ['loss{split="train"}']}}, {}, PROMETHEUS, id="a label"),
        pytest.param({"port": 8000, "path": "/metrics"}, {}, AUTO, id="the defaults are written"),
        pytest.param({"container": "train", "logs": {"patterns": ["x"]}}, {}, AUTO, id="what is not about a page"),
        pytest.param({"port": 9090}, recorded(AUTO), PROMETHEUS, id="the port is named before anything was taken"),
        pytest.param({"port": 9090}, recorded(LOGS, "why"), AUTO, id="the port is named when the log is taken"),
        pytest.param({"port": 9090}, recorded(PUSH), PUSH, id="the port is named, and was of no use before"),
    ],
)  # fmt: skip
def test_of_a_spec_that_names_none(metrics, status, source):
    assert metric_source.of(run_of(metrics, status)) == source


@pytest.mark.parametrize("status", [{}, OLD, recorded(AUTO), recorded(LOGS, "why"), recorded("Mine")], ids=str)
@pytest.mark.parametrize("source", [PROMETHEUS, PUSH, FILES, LOGS, AUTO, "Mine"])
@pytest.mark.parametrize("port", [8000, 9090])
def test_what_the_spec_names_is_the_source(status, source, port):
    assert metric_source.of(run_of({"source": source, "port": port}, status)) == source


@pytest.mark.parametrize(
    ("metrics", "status", "source"),
    [
        ({}, {}, AUTO),
        ({}, recorded(LOGS, "why"), LOGS),
        ({}, recorded(FILES), FILES),
        ({}, OLD, PROMETHEUS),
        ({"source": AUTO}, recorded(LOGS, "why"), LOGS),
        ({"source": AUTO}, recorded(LOGS), AUTO),
        ({"source": PUSH}, recorded(LOGS, "why"), PUSH),
    ],
)
def test_what_is_read_is_what_auto_has_taken(metrics, status, source):
    assert metric_source.taken(run_of(metrics, status)) == source


# -- at the looks -------------------------------------------------------------------------------------------------


def look(metrics, status, track=None):
    """Look at a run with this stored status; return the status that is stored then."""
    run = make_run(spec={"metrics": metrics}, status=TrainingRunStatus.parse(status))
    seen = make_observed(run=run, **({"track": track} if track is not None else {}))
    return {**status, **observed_fields(render(seen))}


def source_in(status):
    return status["effective"]["metricsSource"], status["effective"]["metricsSourceNote"]


def test_the_first_look_records_the_choice_and_every_later_one_keeps_it():
    first = look({}, {})
    assert source_in(first) == (AUTO, "")
    assert source_in(look({}, first)) == (AUTO, "")
    taken = look({}, first, Track(source=LOGS, source_note="why"))
    assert source_in(taken) == (LOGS, "why")
    assert source_in(look({}, taken, Track(source=PROMETHEUS, source_note="later"))) == (LOGS, "why")


@pytest.mark.parametrize("status", [OLD, {**OLD, "effective": {"autoStopLoss": 0.3}}, recorded(PROMETHEUS)], ids=str)
def test_a_run_of_an_earlier_release_keeps_the_page_however_its_object_is_written_now(status):
    """Its object has the source, or lacks it: of a release without the field, or after `kubectl replace`."""
    by_log = Track(source=LOGS, source_note="why")
    for metrics in ({}, {"source": PROMETHEUS}, {}, {"source": PROMETHEUS}):
        status = look(metrics, status, by_log)
        assert source_in(status) == (PROMETHEUS, "")


def test_a_page_that_a_new_run_names_is_recorded_and_stays():
    first = look({"port": 9090}, {})
    assert source_in(first) == (PROMETHEUS, "")
    assert source_in(look({}, first)) == (PROMETHEUS, "")


def test_an_operator_that_is_killed_before_it_has_written_the_status_makes_the_same_choice():
    node = NodeStatus(name="gpu-1", uid="n").dump()
    assert source_in(look({}, {"nodes": [node]})) == source_in(look({}, {})) == (AUTO, "")


def test_a_run_that_an_operator_of_an_earlier_release_looks_at_in_between_keeps_the_page():
    """A rollback: to that operator an object without a source has the page, and it records that."""
    status = look({}, {}, Track(source=LOGS, source_note="why"))
    assert source_in(status) == (LOGS, "why")
    status["effective"] = Effective(metrics_source=PROMETHEUS).dump()
    assert source_in(look({}, status)) == (PROMETHEUS, "")


def test_the_api_server_adds_no_source_to_an_object():
    """Neither when it is written nor when it is read. So earlier operators take their own default, which was Prometheus."""
    crd = yaml.safe_load((ROOT / "crds" / "trainingrun.dev_trainingruns.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    metrics = schema["properties"]["spec"]["properties"]["metrics"]
    assert "source" not in metrics["default"]
    assert "default" not in metrics["properties"]["source"]
    assert "source" not in metrics.get("required", ())


def test_the_operator_reads_no_source_out_of_an_object_that_names_none():
    assert "source" not in TrainingRunSpec.parse(spec_dict()).dump()["metrics"]
    assert make_run(status=make_status()).spec.metrics.source is None

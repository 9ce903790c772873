"""How long a training has run, over pods, suspensions and restarts of the operator, and the limit of that time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import exited_pod, make_agent, make_observed, make_pod, make_rank, make_run, make_status, template

from trainingrun_operator.api.exchange import Upload
from trainingrun_operator.api.status import Shadow, Trained
from trainingrun_operator.core import duration
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin, RecordEvent
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules import chain, limit
from trainingrun_operator.core.status import render


def at(minutes, seconds=0):
    return f"2026-01-02T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z"


def seen_at(minutes, pod=None, *, trained=None, spec=None, **fields):
    run = make_run(spec=spec or {}, status=make_status(trained=trained))
    ranks = (make_rank(pod=pod, report=fields.pop("agent", make_agent())),)
    return replace(make_observed(run=run, **fields), ranks=ranks, wall=at(minutes))


def started(minutes, **fields):
    return make_pod(started_at=at(minutes), **fields)


EARLIER_POD = Trained(seconds=600, last_seconds=600, pod_uid="earlier", started_at=at(0))
THIS_POD = Trained(seconds=900, last_seconds=300, pod_uid=make_pod().uid, started_at=at(20))


@pytest.mark.parametrize(
    ("seen", "total"),
    [
        pytest.param(seen_at(10), 0, id="no pod"),
        pytest.param(seen_at(10, make_pod(training=Training.NOT_STARTED, started_at="")), 0, id="a pod that has not started"),
        pytest.param(seen_at(30, started(20)), 600, id="the first pod"),
        pytest.param(seen_at(30, started(20), trained=EARLIER_POD), 1200, id="the second pod, without the time between them"),
        pytest.param(seen_at(30, started(20), trained=THIS_POD), 1200, id="the same pod some minutes later"),
        pytest.param(seen_at(99, exited_pod(started_at=at(20), ended_at=at(30)), trained=THIS_POD), 1200, id="a pod whose training has ended"),
        pytest.param(seen_at(99, exited_pod(started_at=at(20)), trained=THIS_POD), 900, id="a pod whose end is not known"),
        pytest.param(seen_at(40, started(35), trained=THIS_POD), 1200, id="started again in the same pod"),
        pytest.param(seen_at(99, trained=THIS_POD), 900, id="suspended, without a pod"),
        pytest.param(seen_at(21, started(20), trained=THIS_POD), 900, id="a clock that was set back"),
        pytest.param(seen_at(10, started(20)), 0, id="a clock that is behind the node's"),
        pytest.param(seen_at(30, make_pod(started_at="yesterday"), trained=EARLIER_POD), 600, id="a time that is none"),
        pytest.param(seen_at(30, started(20), trained=EARLIER_POD.model_copy(update={"seconds": 315_360_000})), 315_360_000, id="ten years"),
        pytest.param(seen_at(30, started(20), trained=THIS_POD.model_copy(update={"seconds": 5})), 600, id="a status that somebody changed by hand"),
    ],
)  # fmt: skip
def test_the_time_of_a_training_is_summed_over_its_pods(seen, total):
    assert duration.seconds(seen) == total
    after = render(seen).trained
    assert (after.seconds if after is not None else 0) == total


def test_a_restart_of_the_operator_changes_nothing():
    before = seen_at(30, started(20), trained=EARLIER_POD)
    again = replace(before, run=replace(before.run, status=render(before)), wall=at(40))
    assert duration.seconds(again) == 1800


LIMIT = {"maxDurationSeconds": 1200}
SLOW_UPLOAD = make_agent(
    uploads=(Upload(incarnation=1, generation=1, seconds=100), Upload(incarnation=1, generation=2, seconds=30))
)


@pytest.mark.parametrize(
    ("spec", "agent", "end"),
    [
        pytest.param({}, make_agent(), None, id="no limit"),
        pytest.param({"maxDurationSeconds": 7200}, make_agent(), 7080, id="the grace before it"),
        pytest.param({"maxDurationSeconds": 7200}, SLOW_UPLOAD, 6980, id="the grace and the longest upload before it"),
        pytest.param({"maxDurationSeconds": 7200}, None, 7080, id="an agent that does not answer"),
        pytest.param({"maxDurationSeconds": 7200}, make_agent(uploads=(Upload(incarnation=1, generation=1, seconds=float("nan")),)), 7080, id="an upload of no time"),
        pytest.param({"maxDurationSeconds": 100}, make_agent(), 75, id="a quarter of it at most"),
        pytest.param({"maxDurationSeconds": 7200, "shutdown": {"graceSeconds": 0}}, make_agent(), 7200, id="no grace"),
    ],
)  # fmt: skip
def test_the_run_ends_early_enough_to_save(spec, agent, end):
    assert duration.ends_after(seen_at(30, started(20), spec=spec, agent=agent)) == end


@pytest.mark.parametrize(
    ("spec", "seen", "reason"),
    [
        pytest.param({}, (30, started(20)), None, id="no limit"),
        pytest.param(LIMIT, (30, started(20)), "WithinLimit", id="well within it"),
        pytest.param(LIMIT, (37, started(20)), "NearLimit", id="near to it"),
        pytest.param(LIMIT, (38, started(20)), "LimitReached", id="a grace before it"),
        pytest.param(LIMIT, (99, exited_pod(1, started_at=at(20), ended_at=at(38))), "LimitReached", id="between two pods"),
    ],
)  # fmt: skip
def test_the_limit_of_the_time(spec, seen, reason):
    found = limit.max_duration(seen_at(*seen, spec=spec))
    assert (found and found.reason) == reason
    assert found is None or found.fires == (reason == "LimitReached")


def test_the_limit_ends_the_run_with_the_time_as_evidence():
    (begin,) = [one for one in decide(seen_at(40, started(20), spec=LIMIT)).effects if isinstance(one, Begin)]
    stop = begin.termination
    assert (stop.status, stop.rule, stop.actor) == ("max_duration", "maxDuration", "maxDuration")
    assert [(one.what, one.value) for one in stop.evidence] == [("trainedSeconds", "1200")]


def test_a_run_without_a_workload_has_no_limit():
    assert limit.max_duration(seen_at(40, spec=LIMIT, trained=THIS_POD, workload=None)) is None


def warned(seen):
    return [one for one in decide(seen).effects if isinstance(one, RecordEvent) and one.reason == "MaxDurationNear"]


def test_an_event_warns_once_before_the_limit():
    near = seen_at(37, started(20), spec=LIMIT)
    (event,) = warned(near)
    assert event.warning
    assert "60 s" in event.message
    assert "1200" in event.message
    assert warned(seen_at(30, started(20), spec=LIMIT)) == []
    status = render(near)
    assert status.trained is not None
    assert status.trained.warned_at == near.wall
    again = replace(near, run=replace(near.run, status=status))
    assert warned(again) == []
    raised = replace(again, run=make_run(spec={"maxDurationSeconds": 7200}, status=status))
    after = render(raised).trained
    assert after is not None
    assert after.warned_at is None


def test_a_rule_that_only_reports_says_what_it_would_have_saved():
    spec = {
        "template": template(
            containers=[{"name": "train", "image": "a", "resources": {"limits": {"nvidia.com/gpu": 4}}}]
        )
    }
    seen = seen_at(80, started(20), spec=spec)
    shadow = Shadow(rule="plateau", would_stop_at=at(50), value="0.5", trained_seconds=1800, saved_gpu_hours=0)
    old = Shadow(rule="older", would_stop_at=at(50), value="0.5")
    known = replace(seen, run=replace(seen.run, status=make_status(shadow=(shadow, old))))
    assert [one.saved_gpu_hours for one in chain.shadows(known, ())] == [2.0, None]

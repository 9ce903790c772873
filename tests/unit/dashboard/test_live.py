"""What an open page of a run is told: its state, its curve and its log, as they change."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import people
import pytest
from builders import NAME, NAMESPACE, RUN_UID, make_spec
from fakes import RUN, ApiError, stored_run
from people import Someone, curve_map, ended, run_status, stopping

from trainingrun_operator.api.curve import POINTS_MAX, VALUE_POINTS_MAX, VALUES_MAX
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.dashboard import feeds, stream
from trainingrun_operator.dashboard.curve import drawn, drawn_values, points_of, values_of
from trainingrun_operator.dashboard.stream import Event, merged
from trainingrun_operator.dashboard.tail import LINE_MAX, LOG_LINES, Tail

ADA = Someone("ada")
EVENTS = f"/runs/{NAMESPACE}/{NAME}/events"
POD = f"{NAME}-x7k2p"
CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}-curve"
LOG = f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/log"


def point(step, loss):
    return {"at": f"2026-01-02T03:{step // 60:02d}:{step % 60:02d}Z", "step": step, "epoch": step / 100, "loss": loss}


POINTS = [point(0, 2.5), point(50, 1.0), point(100, 0.25)]


@pytest.fixture
def opened(visit):
    """The open page of a stored run."""

    @asynccontextmanager
    async def page(*stored, **logs):
        async with people.cluster(*stored, ada=ADA) as cluster:
            cluster.logs.update({name.replace("_", "-"): text for name, text in logs.items()})
            async with visit(cluster) as visitor, visitor.events(EVENTS) as events:
                yield events, cluster

    return page


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "CURVE_SECONDS", 0.05)


# -- its state ------------------------------------------------------------------------------------------------


async def test_a_stop_is_followed_to_its_end_without_a_reload(opened):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        assert "Stop training" in (await page.wait("part", '"actions"'))["html"]
        await page.wait("well")
        await cluster.tell("MODIFIED", stored_run(status=run_status(), spec={"stop": True}))
        assert "Stopping…" in (await page.wait("part", '"actions"'))["html"]
        assert (await page.wait("announce"))["text"] == "bert: Stopping"
        await cluster.tell("MODIFIED", stored_run(status=run_status("Stopping", termination=stopping("Saving"))))
        assert 'aria-current="step"' in (await page.wait("part", '"stop"'))["html"]
        assert (await page.wait("announce"))["text"] == "bert: Stopping, Saving"
        await cluster.tell("MODIFIED", stored_run(status=ended("user_stop", "Stopped", "Stopped by hand.")))
        assert (await page.wait("part", '"actions"'))["html"].strip() == ""
        assert (await page.wait("announce"))["text"] == "bert: Stopped by user"
    assert cluster.lines("GET").count(f"GET {RUN}") == 1, "After that it is watched."


async def test_only_what_changed_is_sent_again(opened):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        await page.wait("well")
        page.seen.clear()
        await cluster.tell("MODIFIED", stored_run(status=run_status(progress={"loss": "0.4"})))
        await page.wait("part", "0.4")
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held", termination=stopping("Held"))))
        await page.wait("announce")
    parts = [data["id"] for name, data in page.seen if name == "part"]
    assert parts[0] == "numbers"
    assert "checkpoint" not in parts


async def test_a_run_that_is_deleted_or_replaced_is_said_to_be_gone(opened):
    for kind, uid in (("DELETED", RUN_UID), ("ADDED", "another")):
        async with opened(stored_run(status=run_status())) as (page, cluster):
            await page.wait("well")
            await cluster.tell(kind, stored_run(status=run_status(), uid=uid))
            assert (await page.wait("gone"))["text"].startswith("This TrainingRun was deleted")


async def test_a_run_that_was_never_there_is_said_to_be_gone(opened):
    async with opened() as (page, _):
        assert (await page.wait("gone"))["text"].startswith("The object does not exist.")


async def test_a_run_of_a_newer_operator_is_said_to_be_one(opened):
    async with opened(stored_run(status={"nodes": [{"name": "n", "uid": "u", "phase": "Frozen"}]})) as (page, _):
        assert "a newer operator" in (await page.wait("gone"))["text"]


async def test_trouble_is_told_and_the_page_comes_back(opened, soon):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        await page.wait("well")
        cluster.refuse(f"GET {RUN}", ApiError(500, "InternalError", "etcd is away"))
        cluster.people.pop("ada")
        await cluster.tell(
            "ERROR", {**stored_run(), "code": 500, "reason": "InternalError", "message": "the watch broke"}
        )
        assert "the watch broke" in (await page.wait("trouble"))["text"]
        assert (await page.wait("trouble"))["login"], "By then the token has expired."


# -- its curve ------------------------------------------------------------------------------------------------


async def test_the_curve_is_what_the_operator_keeps_and_is_read_again(opened, soon):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        assert (await page.wait("curve"))["summary"] == "No loss is recorded yet."
        cluster.put(curve_map(POINTS))
        curve = await page.wait("curve")
        assert (curve["x"], curve["loss"], curve["threshold"]) == ([0, 50, 100], [2.5, 1.0, 0.25], 0.3)
        done = ended("auto_low_loss", "Succeeded", "x", evidence=[{"what": "loss", "value": "0.25", "step": 100}])
        await cluster.tell("MODIFIED", stored_run(status=done))
        curve = await page.wait("curve", "Auto-stopped")
        assert (curve["deciding"], curve["stop"]) == ([[100, 0.25]], {"at": 100, "words": "Auto-stopped (low loss)"})


async def test_the_curve_of_a_run_that_has_ended_is_read_a_few_times_more_and_then_no_more(opened, soon):
    """Its last points may be written after its end, and a run without a loss has no curve at all."""
    done = ended("user_stop", "Stopped", "Stopped by hand.")
    async with opened(stored_run(status=done)) as (page, cluster):
        await page.wait("curve")
        cluster.put(curve_map(POINTS))
        assert (await page.wait("curve"))["x"] == [0, 50, 100]
        await asyncio.sleep(feeds.CURVE_SECONDS * (feeds.LAST_READS + 3))
        read = cluster.lines("GET").count(f"GET {CONFIG_MAP}")
        await asyncio.sleep(feeds.CURVE_SECONDS * 3)
        assert cluster.lines("GET").count(f"GET {CONFIG_MAP}") == read == feeds.LAST_READS


async def test_a_curve_that_may_not_be_read_says_so(opened, soon):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        await page.wait("curve")
        cluster.refuse(f"GET {CONFIG_MAP}", ApiError(403, "Forbidden", "no"))
        said = (await page.wait("curve"))["summary"]
    assert said == "You may not read ConfigMaps in namespace ml, which hold the curve. The API server says: no"


def status_of(**fields):
    return TrainingRunStatus.parse(run_status(**{"progress": None, **fields}))


def kept(*losses):
    return points_of(curve_map([point(step, loss) for step, loss in losses]))


KEPT = kept((0, 2.5), (50, 1.0), (100, 0.25))


def test_a_summary_says_the_curve_in_a_sentence():
    assert drawn(KEPT, status_of())["summary"] == (
        "The loss went from 2.5 at step 0 to 0.25 at step 100; the lowest was 0.25 at step 100. The threshold is 0.3."
    )


def test_steps_that_were_taken_again_count_once_and_in_order():
    curve = drawn(kept((0, 2.0), (100, 1.0), (50, 1.6), (100, 0.9)), status_of())
    assert (curve["x"], curve["loss"]) == ([0, 50, 100], [2.0, 1.6, 0.9])


@pytest.mark.parametrize(
    ("progress", "x"),
    [
        pytest.param({"step": 130, "loss": "0.2"}, [0, 50, 100, 130], id="newer"),
        pytest.param({"step": 90, "loss": "0.2"}, [0, 50, 100], id="older, after a restart"),
        pytest.param({"step": 130, "loss": "nan"}, [0, 50, 100], id="no number"),
        pytest.param({"step": 130}, [0, 50, 100], id="no loss"),
        pytest.param({"loss": "0.2"}, [0, 50, 100], id="no step"),
    ],
)
def test_what_the_status_says_comes_after_what_was_kept(progress, x):
    assert drawn(KEPT, status_of(progress={"lastObservationTime": "2026-01-02T03:04:00Z", **progress}))["x"] == x


def test_the_step_of_a_checkpoint_is_no_reading_of_the_loss():
    progress = {"lastObservationTime": "2026-01-02T03:04:00Z", "step": 130, "loss": "0.2"}
    assert drawn(KEPT, status_of(progress=progress, termination=stopping("Done")))["x"] == [0, 50, 100]


def test_a_threshold_that_is_off_is_not_drawn_and_a_shadow_is_called_one():
    off = run_status()["effective"] | {"autoStopAction": "Off"}
    assert drawn(KEPT, status_of(effective=off))["threshold"] is None
    assert drawn(KEPT, status_of(effective=off | {"autoStopAction": "Shadow"}))["shadow"]
    assert drawn(KEPT, TrainingRunStatus())["threshold"] is None


def test_a_stop_is_drawn_where_the_run_was():
    evidence = [
        {"what": "stopFile", "value": "STOP"},
        {"what": "loss", "value": "nan", "step": 1},
        {"what": "loss", "value": "?", "step": 1},
    ]
    by_hand = stopping("Saving", evidence=evidence)
    curve = drawn(KEPT, status_of(termination=by_hand, progress={"step": 1180}))
    assert (curve["stop"], curve["deciding"]) == ({"at": 1180, "words": "decided to stop"}, [])
    assert drawn(KEPT, status_of(termination=by_hand))["stop"] is None
    suspended = stopping("Done", status="suspended")
    assert drawn(KEPT, status_of(termination=suspended, progress={"step": 1180}))["stop"] is None, "It may go on."


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {"data": {"curve.json": "no JSON"}},
        {"data": {"curve.json": "[]"}},
        {"data": {"curve.json": '{"points": 7}'}},
        {"data": {"curve.json": '{"points": [7, {"loss": 1}, {"at": "x", "step": 1, "loss": NaN}, {"at": "x", "step": "a", "loss": 1}]}'}},
    ],
)  # fmt: skip
def test_a_curve_that_cannot_be_read_is_none(stored):
    assert points_of(stored) == ()


def test_a_curve_that_somebody_else_wrote_is_no_longer_than_one_of_ours():
    assert len(kept(*((step, 1.0) for step in range(3 * POINTS_MAX)))) == POINTS_MAX


# -- other values ---------------------------------------------------------------------------------------------

ACCURACY: dict[str, Any] = {
    "name": "accuracy",
    "points": [{"at": "2026-01-02T03:00:00Z", "step": step, "value": step / 200} for step in (0, 50, 150)],
}
TARGET = {"name": "good", "metric": "accuracy", "goal": "Maximize", "threshold": {"value": 0.9}}


def others(*values):
    """The ConfigMap with curves of other values."""
    return {"data": {"curve.json": json.dumps({"points": POINTS, "values": list(values)})}}


async def test_the_page_gets_the_curves_of_all_values_that_are_kept(opened, soon):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        assert (await page.wait("curve"))["values"] == []
        cluster.put(curve_map(POINTS) | others(ACCURACY))
        (value,) = (await page.wait("curve", "accuracy"))["values"]
    assert (value["name"], value["x"], value["loss"]) == ("accuracy", [0, 50, 150], [0.0, 0.25, 0.75])


@pytest.mark.parametrize(
    ("rule", "threshold", "shadow"),
    [
        pytest.param(TARGET, 0.9, False, id="of a rule"),
        pytest.param({**TARGET, "action": "Shadow"}, 0.9, True, id="of a rule that only reports"),
        pytest.param({**TARGET, "metric": "eval_accuracy"}, None, False, id="of another value"),
        pytest.param({"metric": "accuracy", "nonFinite": {}}, None, False, id="none"),
    ],
)
def test_a_value_is_drawn_with_the_threshold(rule, threshold, shadow):
    (value,) = drawn_values(values_of(others(ACCURACY)), make_spec(stopRules=[rule]), status_of())
    assert (value["threshold"], value["shadow"]) == (threshold, shadow)


def test_the_samples_of_a_value_that_decided_are_drawn_on_its_curve_alone():
    evidence = [{"what": "accuracy", "value": "0.75", "step": 150}]
    done = status_of(termination=stopping("Saving", evidence=evidence))
    (value,) = drawn_values(values_of(others(ACCURACY)), make_spec(stopRules=[TARGET]), done)
    assert (value["deciding"], value["stop"]) == ([[150, 0.75]], {"at": 150, "words": "decided to stop"})
    assert drawn(KEPT, done)["deciding"] == []
    assert value["summary"] == (
        "accuracy went from 0 at step 0 to 0.75 at step 150; the lowest was 0 at step 0, the highest 0.75 at step 150. The threshold is 0.9."
    )


@pytest.mark.parametrize(
    "value",
    [
        7,
        {"name": "accuracy"},
        {"name": "", "points": ACCURACY["points"]},
        {"name": "loss", "points": ACCURACY["points"]},
        {"name": "n" * 129, "points": ACCURACY["points"]},
        {"name": "accuracy", "points": [{"at": "x", "step": 1, "value": "NaN"}]},
        {"name": "accuracy", "points": ACCURACY["points"] * VALUE_POINTS_MAX},
    ],
    ids=["no object", "no points", "no name", "the loss", "a long name", "no number", "too long"],
)
def test_a_curve_of_a_value_that_cannot_be_read_hides_no_other(value):
    assert [one.name for one in values_of(others(value, {**ACCURACY, "name": "reward"}))] == ["reward"]


def test_of_two_curves_with_one_name_the_first_counts_and_there_are_no_more_than_ours():
    twice = others(ACCURACY, {**ACCURACY, "points": ACCURACY["points"][:1]})
    assert [len(one.points) for one in values_of(twice)] == [3]
    assert len(values_of(others(*({**ACCURACY, "name": f"v{n}"} for n in range(3 * VALUES_MAX))))) == VALUES_MAX


# -- its log --------------------------------------------------------------------------------------------------


async def test_the_log_is_followed(opened):
    async with opened(stored_run(status=run_status()), bert_x7k2p="step 1\nstep 2\n") as (page, cluster):
        assert (await page.wait("log"))["note"] == f"{POD}, container train"
        assert (await page.wait("log"))["lines"] == ["step 1", "step 2"]
        (asked,) = [sent for sent in cluster.sent if sent.path == LOG]
    assert asked.query == {"container": "train", "tailLines": str(LOG_LINES), "follow": "true"}


async def test_a_container_that_has_not_started_is_waited_for(opened, soon):
    async with opened(stored_run(status=run_status())) as (page, cluster):
        assert (await page.wait("log", "started"))["note"] == "The container has not started yet."
        cluster.logs[POD] = "at last\n"
        assert (await page.wait("log", "at last"))["lines"] == ["at last"]


async def test_without_a_pod_the_log_says_why_there_is_none(opened):
    async with opened(stored_run(status={"phase": "Pending"})) as (page, cluster):
        assert (await page.wait("log"))["note"] == "No pod has started yet."
        await cluster.tell("MODIFIED", stored_run(status=ended("failed", "Failed", "x")))
        assert (await page.wait("log"))["note"] == "The pods and their logs are gone."


async def test_of_a_pod_that_was_replaced_the_next_ones_log_follows(opened):
    second = [{"name": "bert-2", "uid": "second", "phase": "Running"}]
    async with opened(stored_run(status=run_status()), bert_2="again\n") as (page, cluster):
        cluster.refuse(f"GET {LOG}", ApiError(404, "NotFound", "gone"))
        await page.wait("well")
        await cluster.tell("MODIFIED", stored_run(status=run_status(pods=second)))
        assert (await page.wait("log", "again"))["lines"] == ["again"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (["10 %\r20 %\r30 %"], ["30 %"]),
        (["windows\r"], ["windows"]),
        (["\x1b[32mgreen\x1b[0m \x1b]0;title\x07done\x08"], ["green done"]),
        (["x" * (LINE_MAX + 1)], ["x" * LINE_MAX + f"… ({LINE_MAX + 1} characters)"]),
        (["old"] * 5 + ["new"] * LOG_LINES, ["… 5 lines not shown …", *["new"] * LOG_LINES]),
    ],
    ids=["a progress bar", "a foreign line end", "colours", "a line without an end", "more than anybody reads"],
)
def test_lines_are_shown_as_people_can_read_them(raw, shown):
    tail = Tail()
    tail.add("".join(f"{line}\n" for line in raw))
    assert tail.take() == shown


# -- streams --------------------------------------------------------------------------------------------------


async def never():
    await asyncio.Event().wait()
    yield Event("never", {})


async def test_a_stream_that_has_nothing_to_say_says_that_it_is_still_there(monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    told = merged([never()])
    assert [await anext(told) for _ in range(3)] == [b"retry: 3000\n\n", b": still here\n\n", b": still here\n\n"]
    await told.aclose()


async def test_a_source_that_fails_does_not_take_the_others_along(caplog):
    async def fails():
        yield Event("said", {"line": "first"})
        raise RuntimeError("broken")

    async def speaks():
        yield Event("said", {"line": "a\nb"})

    told = [one async for one in merged([fails(), speaks()])]
    assert told[1:] == [b'event: said\ndata: {"line":"first"}\n\n', b'event: said\ndata: {"line":"a\\nb"}\n\n']
    assert "event source of a page failed" in caplog.text


def pumps():
    return [task for task in asyncio.all_tasks() if "pump" in repr(task.get_coro())]


async def test_a_page_that_is_closed_leaves_nothing_behind(visit):
    async with people.cluster(stored_run(status=run_status()), ada=ADA) as cluster, visit(cluster) as ada:
        cluster.logs[POD] = "step 1\n"
        async with ada.events(EVENTS) as page:
            await page.wait("log", "step 1")
            assert pumps()
        async with asyncio.timeout(10):
            while pumps():  # noqa: ASYNC110 - nobody tells when a connection was noticed to be closed
                await asyncio.sleep(0.02)

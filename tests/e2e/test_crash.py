"""A training that crashes: saved behind its gate, replaced, restored; and failed when its attempts are spent."""

from __future__ import annotations

import pytest
from e2e.runs import condition_of, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# A crash of digits.py is exit code 1; the is 3.
WITH_3 = ["sh", "-c", 'digits.py "$@" || exit 3', "train"]
# It shows its page of metrics, at step 0, and crashes: once the agent has read it for the operator, and again, should that have come too late.
# What was read of it is in no status: another operator would not know.
ONE_PAGE = """
from http.server import BaseHTTPRequestHandler, HTTPServer
PAGE = b"training_loss 2.5\\ntraining_step 0\\n"
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)
with HTTPServer(("", 8000), Page) as server:
    for _ in range(2):
        server.handle_request()
raise SystemExit("no step was made")
"""
CRASHING = ("--epochs", "1", "--batch", "36", "--step-seconds", "0.1", "--save-every", "10", "--crash-at-step", "15")


def test_a_crashed_pod_is_saved_and_replaced_and_its_training_goes_on_from_the_checkpoint(space):
    run = space.run("crash", *CRASHING, command=WITH_3, backoffLimit=1)
    first = run.wait_training()["metadata"]
    run.log.wait("crash at step 15, as asked")
    told = run.wait_event("Restarting")
    assert "exit code 3" in told["message"]
    assert "1 of 1 restarts" in told["message"]
    assert f"crash-{first['uid']}" in [commit.termination_id for commit in run.commits()], (
        "What the crashed pod left was committed before it was replaced."
    )
    second = run.wait_training(but=(first["name"],))["metadata"]
    assert second["uid"] != first["uid"]
    run.log.wait("resumed from checkpoint-10 at step 10")
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["checkpoint"]["step"] == 40
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == 2, "One crash, one replacement."
    run.assert_ended_once()


def test_without_an_attempt_left_the_run_has_failed_with_log_and_exit_code_and_its_checkpoint_is_proven(space):
    run = space.run("spent", *CRASHING, command=WITH_3, backoffLimit=0)
    run.wait_training()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert "with exit code 3" in status["terminationMessage"]
    assert "crash at step 15, as asked" in status["termination"]["lastLogLines"]
    assert "as asked" not in status["terminationMessage"], "Everybody may read the message."
    assert condition_of(status, "Succeeded") == {
        **condition_of(status, "Succeeded"),
        "status": "False",
        "reason": "Failed",
    }
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 10
    assert len(space.audit("create", "pods")) == 1, "No exit code started another pod."
    run.assert_ended_once()


def test_attempts_are_counted_over_all_pods(space):
    # Resumed from its last step, it has nothing left to do, and leaves with 3 again.
    always = ("--epochs", "1", "--batch", "144", "--step-seconds", "0.05", "--exit-code", "3")
    run = space.run("thrice", *always, backoffLimit=2)
    status = run.wait_settled()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert "crashed 3 times (backoffLimit 2), last with exit code 3" in status["terminationMessage"]
    assert status["termination"]["evidence"] == [{"what": "exitCode", "value": "3"}]
    finished, succeeded = condition_of(status, "Finished"), condition_of(status, "Succeeded")
    assert (finished["status"], finished["reason"]) == ("True", "Failed")
    assert (succeeded["status"], succeeded["reason"]) == ("False", "Failed")
    told = sorted(event["message"].rpartition("replaced ")[2] for event in run.events("Restarting"))
    assert told == ["(1 of 2 restarts).", "(2 of 2 restarts)."]
    assert len(space.audit("create", "pods")) == 3, "Two attempts more, and no third."
    run.assert_checkpoint_proven(status)
    assert "dataLoss" not in status["checkpoint"]
    crashes = [commit.termination_id for commit in run.commits() if (commit.termination_id or "").startswith("crash-")]
    assert len(set(crashes)) == 2, "What each pod left was committed before it was replaced."


def test_a_crash_before_any_checkpoint_does_not_hold_the_run(space):
    run = space.run("early", command=["sh", "-c", "echo no such option >&2; exit 2"], backoffLimit=0)
    status = run.wait_finished()
    assert status["terminationStatus"] == "failed"
    assert "exit code 2" in status["terminationMessage"]
    assert "no such option" in status["termination"]["lastLogLines"]
    assert condition_of(status, "CheckpointSaved")["reason"] == "NothingFound"
    assert all(state_of(pod, "train") != "running" for pod in run.pods())


def test_a_fatal_pattern_in_its_log_is_not_tried_again(space):
    said = ["sh", "-c", "echo 'CUDA error: device-side assert triggered, token=hunter2' >&2; exit 1"]
    run = space.run("fatal", command=said, crash={"fatalLogPatterns": ["out of memory", "^CUDA error"]})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert status["termination"]["reason"] == "FatalLogPattern"
    assert status["termination"]["evidence"][-1] == {"what": "logPattern", "value": "^CUDA error"}
    assert "CUDA error: device-side assert triggered" in status["terminationMessage"], (
        "Words for it are the operator's."
    )
    assert "hunter2" not in status["terminationMessage"], "The log is not quoted."
    assert len(space.audit("create", "pods")) == 1, "No other attempt."


def test_crashes_in_a_row_without_a_step_forward_are_the_end(steady_operator, space):
    crash = {"sameStepLimit": 2}
    run = space.run("stuck", command=["python3", "-c", ONE_PAGE], backoffLimit=9, crash=crash)
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert status["termination"]["reason"] == "NoStepForward"
    assert (status["crashes"]["step"], status["crashes"]["withoutStep"]) == (0, 2)
    assert len(space.audit("create", "pods")) == 2, "One attempt more, and no third."

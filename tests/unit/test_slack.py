"""The receiver that is given as an example: it believes only the operator, tells Slack once, and calls nobody in the channel."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from builders import make_observed, make_run, make_status, make_stop

from trainingrun_operator.api.notification import CONTENT_TYPE, EventType
from trainingrun_operator.api.status import CheckpointStatus, Phase, Progress
from trainingrun_operator.core.notification import due
from trainingrun_operator.core.signature import keys_of, signed

FOLDER = Path(__file__).parents[2] / "manifests" / "slack"
SECRET, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


RECEIVER: Any = ModuleType("slack_receiver")
exec(compile((FOLDER / "receiver.py").read_text(encoding="utf-8"), "receiver.py", "exec"), vars(RECEIVER))  # noqa: S102 - ours


class Slack(BaseHTTPRequestHandler):
    """Takes messages, or says that it does not."""

    server: Any

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def place():
    slack: Any = ThreadingHTTPServer(("127.0.0.1", 0), Slack)
    slack.messages, slack.answers = [], []
    url = f"http://127.0.0.1:{slack.server_address[1]}/services/T0/B0/x"
    with serving(slack), serving(RECEIVER.Receiver(("127.0.0.1", 0), url, SECRET)) as receiver:
        yield SimpleNamespace(slack=slack, port=receiver.server_address[1])


def event_of(kind=EventType.RUN_ENDED, **stop):
    phase = {EventType.CHECKPOINT_HELD: Phase.HELD}.get(kind, Phase.DONE)
    status = make_status(
        termination=make_stop(phase, **stop),
        termination_message="Loss 0.2931 < 0.5 at step 1200. Checkpoint checkpoint-1200 is saved.",
        progress=Progress(loss="0.2931", step=1200),
        checkpoint=CheckpointStatus(uri="s3://bucket/runs/x"),
    )
    return next(event for event in due(make_observed(run=make_run(status=status)), status) if event.type is kind)


def post(place, event, *, secret=SECRET, at=None, body=None):
    body = event.body() if body is None else body
    headers = signed(keys_of(secret), event.id, int(time.time()) if at is None else at, body)
    connection = HTTPConnection("127.0.0.1", place.port, timeout=10)
    connection.request("POST", "/", body, headers | {"Content-Type": CONTENT_TYPE})
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_end_of_a_run_is_a_message_in_the_channel(place):
    assert post(place, event_of()) == 204
    assert place.slack.messages == [
        {
            "text": "Auto-stopped (low loss): ml/bert",
            "blocks": [
                {
                    "type": "section",
                    "text": {
                        "type": "mrkdwn",
                        "text": ":white_check_mark: *Auto-stopped (low loss)*: `ml/bert`\n"
                        "Loss 0.2931 &lt; 0.5 at step 1200. Checkpoint checkpoint-1200 is saved.",
                    },
                },
                {
                    "type": "context",
                    "elements": [
                        {
                            "type": "mrkdwn",
                            "text": "step 1200 · loss 0.2931 · checkpoint s3://bucket/runs/x · by autoStopLoss",
                        }
                    ],
                },
            ],
        }
    ]


@pytest.mark.parametrize(
    ("event", "begins"),
    [
        pytest.param(event_of(status="auto_complete"), ":white_check_mark: *Training complete*", id="complete"),
        pytest.param(event_of(status="user_stop"), ":large_orange_square: *Stopped by user*", id="stopped by user"),
        pytest.param(event_of(status="failed"), ":x: *Failed*", id="failed"),
        pytest.param(event_of(status="something_new"), ":x: *Failed*", id="a status of a later version"),
        pytest.param(event_of(EventType.CHECKPOINT_HELD, hold_reason="No bucket."), ":warning: *Checkpoint held", id="held"),
        pytest.param(event_of(EventType.DATA_LOST, data_loss="Step 7."), ":rotating_light: *Data lost*", id="lost"),
    ],
)  # fmt: skip
def test_each_event_has_its_look(event, begins):
    (section, *_) = RECEIVER.message(json.loads(event.body()))["blocks"]
    assert section["text"]["text"].startswith(begins)


def test_every_type_of_event_has_a_look():
    assert RECEIVER.LOOKS.keys() | {EventType.RUN_ENDED} == set(EventType)


def test_a_training_calls_nobody_in_the_channel():
    said = json.dumps(RECEIVER.message(json.loads(event_of(EventType.DATA_LOST, data_loss="<!channel> & co").body())))
    assert "&lt;!channel&gt; &amp; co" in said
    assert "<!" not in said


def test_long_words_are_cut_to_what_slack_takes():
    event = json.loads(event_of(EventType.DATA_LOST, data_loss="x" * 4000).body())
    assert len(RECEIVER.message(event)["blocks"][0]["text"]["text"]) < 3000


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"secret": OTHER}, id="another secret"),
        pytest.param({"at": 1_700_000_000}, id="an old message again"),
    ],
)
def test_whoever_is_not_the_operator_is_not_believed(place, how):
    assert post(place, event_of(), **how) == 401
    assert place.slack.messages == []


def test_a_message_that_was_changed_on_its_way_is_not_believed():
    event = event_of()
    headers = signed(keys_of(SECRET), event.id, 1000, event.body())
    assert RECEIVER.is_signed(headers, event.body(), SECRET, 1000)
    assert not RECEIVER.is_signed(headers, event.body().replace(b"bert", b"gpt4"), SECRET, 1000)
    assert not RECEIVER.is_signed({**headers, "webhook-id": "x"}, event.body(), SECRET, 1000)
    assert not RECEIVER.is_signed({}, event.body(), SECRET, 1000)


def test_while_one_secret_replaces_another_both_are_believed():
    event = event_of()
    headers = signed(keys_of(f"{OTHER} {SECRET}"), event.id, 1000, event.body())
    assert RECEIVER.is_signed(headers, event.body(), SECRET, 1000)
    assert RECEIVER.is_signed(signed(keys_of(OTHER), event.id, 1000, event.body()), event.body(), f"{SECRET} {OTHER}", 1000)  # fmt: skip


def test_what_is_told_twice_is_one_message(place):
    assert [post(place, event_of()) for _ in range(3)] == [204] * 3
    assert len(place.slack.messages) == 1


def test_what_slack_does_not_take_the_operator_is_asked_to_tell_again(place):
    place.slack.answers.append(500)
    assert [post(place, event_of()) for _ in range(2)] == [502, 204]
    assert len(place.slack.messages) == 2


@pytest.mark.parametrize("body", [b"[]", b"{", b"{}"])
def test_what_is_no_event_is_refused(place, body):
    assert post(place, event_of(), body=body) == 400


def test_a_body_without_end_is_refused(place):
    assert post(place, event_of(), body=b"x" * (RECEIVER.BODY_MAX + 1)) == 413


def test_the_manifest_runs_that_file_with_the_secrets_that_the_page_makes():
    deployment, service = yaml.safe_load_all((FOLDER / "slack.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1].endswith(f"/{FOLDER.joinpath('receiver.py').name}")
    assert {each["name"] for each in container["env"]} == {"SLACK_URL", "WEBHOOK_SECRET"}
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()

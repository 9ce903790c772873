"""The installation's webhook is told of every end, signed, under one id for each, also by an operator that is killed while it tells."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.own_operator import Beside, OwnOperator
from receiving import received
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parent / "in_pod" / "receiver.py"
PORT = 9200
SECRET = base64.b64encode(bytes(range(32))).decode()
STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2")
NOTHING_TO_SAVE = {"mode": "Disabled", "destination": None, "s3": None}
SECONDS = 300
WRITTEN_DOWN = "patch /status/notified"
KILLS = {
    "quiet": None,
    "early": ("advance Done", "after"),
    "told": (WRITTEN_DOWN, "before"),
    "noted": (WRITTEN_DOWN, "after"),
}
"""At which effect of which run the operator of all of them is killed."""


def end(space, own, name):
    """A run from its beginning to its end."""
    image = {"image": space.ground["TRAININGRUN_IMAGE"]}
    run = space.run(name, *STUB, container=image, labels=own.labels, checkpoint=NOTHING_TO_SAVE)
    run.wait_step(2, timeout=SECONDS)
    run.merge({"spec": {"stop": True, "stopReason": "enough"}})
    run.wait(lambda status: status.get("notified"), f"the end of {name} is told and written down", SECONDS)
    return run


def messages(own, run=None):
    """All, or those of a run, in order."""
    received = own.ask(PORT, "received")
    return [one for one in received if run is None or json.loads(one["body"])["data"]["uid"] == run.uid]


def event_in(message):
    """What a receiver makes of a message, as of when it was signed: it is looked at minutes later."""
    headers = message["headers"]
    return received(headers, message["body"].encode(), f"whsec_{SECRET}", at=int(headers["webhook-timestamp"]))


def test_every_end_is_told_under_one_id_whenever_the_operator_is_killed(space):
    env = {
        "TRAININGRUN_WEBHOOK_URL": f"http://127.0.0.1:{PORT}/events",
        "TRAININGRUN_WEBHOOK_SECRET": f"whsec_{SECRET}",
    }
    own = OwnOperator.open(space, env=env, beside=Beside(SCRIPT, {"REFUSALS": "1"}))
    halts = {name: own.halt(name, *kill) for name, kill in KILLS.items() if kill}
    with ThreadPoolExecutor(len(KILLS)) as pool:
        runs = dict(zip(KILLS, pool.map(lambda name: end(space, own, name), KILLS), strict=True))
    assert all(own.halted(halt) for halt in halts.values()), own.state()["halts"]

    for name, run in runs.items():
        told, status = messages(own, run), run.status
        ids = {one["headers"]["webhook-id"] for one in told}
        assert ids == {f"{status['termination']['id']}-run-ended"} == set(status["notified"]), name
        assert any(one["taken"] for one in told), name
        for event in map(event_in, told):
            assert (event.get_specversion(), event.get_type()) == ("1.0", "dev.trainingrun.run.ended")
            assert event.get_id() in ids
            data = event.get_data()
            assert (data["status"], data["phase"]) == ("user_stop", "Stopped")
            assert data["message"] == status["terminationMessage"]
            assert "(enough)" in data["message"]
    assert len(messages(own, runs["told"])) > 1, "What was not written down was told again, under the same id."
    assert [one["taken"] for one in messages(own)].count(False) == 1, "What was not taken was told again."

    before = len(messages(own))
    own.kill()
    last = end(space, own, "last")
    eventually(lambda: messages(own, last), "the last one is told", SECONDS)
    assert len(messages(own)) == before + len(messages(own, last)), "An operator that starts tells nothing twice."

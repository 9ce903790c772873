"""The API server is away, busy, forgets where a watch was, or a watch goes silent: the run ends as if nothing had been (scaled down from minutes)."""

from __future__ import annotations

import time

import pytest
from e2e.own_operator import OwnOperator
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "5")
LIST_SECONDS = 2
AWAY_SECONDS = 15
LIVENESS_SECONDS = 60
"""The chart's periodSeconds, failureThreshold times."""


@pytest.fixture
def own(space):
    return OwnOperator.open(space, env={"TRAININGRUN_LIST_SECONDS": str(LIST_SECONDS)})


def training(space, own):
    run = space.run("x", *STUB, container={"image": space.ground["TRAININGRUN_IMAGE"]}, labels=own.labels)
    run.wait_condition("CheckpointSaved")
    return run


def stopped(run):
    run.merge({"spec": {"stop": True}})


def assert_ended_well(run):
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()


def assert_alive(own):
    """As the kubelet looks: one page that does not come in time is not yet a reason to restart, several in a row are."""
    told = "a restart would not bring the API server back"
    eventually(lambda: own.page("livez").startswith("ok"), told, LIVENESS_SECONDS)


def test_an_api_server_that_is_away_is_waited_for_and_is_no_reason_to_restart(space, own):
    run = training(space, own)
    own.break_api("away")
    stopped(run)
    until = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < until:
        assert_alive(own)
        time.sleep(1)
    assert not run.status.get("termination"), "Nothing could be written."
    own.break_api()
    assert_ended_well(run)
    assert own.state()["starts"] == 1, "The same process went on."


def test_an_api_server_that_is_away_in_mid_stop_is_waited_for(space, own):
    run = training(space, own)
    halt = own.halt("x", "advance Saving", "after", do="freeze")
    stopped(run)
    eventually(lambda: own.frozen(halt), "the stop stands in Saving")
    own.break_api("away")
    own.thaw(halt)
    time.sleep(AWAY_SECONDS)
    own.break_api()
    assert_ended_well(run)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("gone", id="every watch is answered 410"),
        pytest.param("busy", id="one of five requests is answered 429"),
    ],
)
def test_a_run_ends_while_the_api_server_is_in_trouble(space, own, trouble):
    run = training(space, own)
    own.break_api(trouble)
    stopped(run)
    assert_ended_well(run)
    assert_alive(own)


def test_a_watch_that_goes_silent_is_made_good_by_lists_and_told_by_liveness(space, own):
    run = training(space, own)
    own.break_api("silent")
    stopped(run)
    assert_ended_well(run)
    eventually(lambda: own.page("livez") == "", "liveness says that a restart would help")

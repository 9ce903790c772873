"""`make chaos`: thousands of stories with faults at random; and that it sees what it is there to see."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.__main__ import story_seed
from chaos.scenario import NEVER, Fault, Scenario, drawn
from chaos.story import Account, Story
from chaos.tally import Tally

from trainingrun_operator.core import decide as deciding
from trainingrun_operator.core import release
from trainingrun_operator.core.facts.bucket import Verified
from trainingrun_operator.core.facts.pod import Pod
from trainingrun_operator.core.stop import ending, proving, termination

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

TESTS = Path(__file__).parents[1]
LAST = re.compile(
    r"chaos: runs=(\d+) faults=(\d+) lost_bytes=(\d+) double_deletes=(\d+) double_releases=(\d+) unconverged=(\d+) seed=(\d+)"
)


def campaign(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "chaos", *map(str, arguments)], cwd=TESTS, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"seed {seed}") for seed in range(1, 11)])
def test_of_a_thousand_runs_none_loses_doubles_or_sticks(seed):
    ended = campaign("--runs", 100, "--seed", seed, "--jobs", 1)
    said = LAST.fullmatch(ended.stdout.splitlines()[-1])
    assert said is not None, ended.stderr
    runs, faults, *bad, its_seed = map(int, said.groups())
    assert (runs, bad, its_seed, ended.returncode) == (100, [0, 0, 0, 0], seed, 0), ended.stdout
    assert faults > 300


def test_a_story_of_a_campaign_is_told_again_by_its_seed_alone():
    again = story_seed(story_seed(1, 42), 0)
    assert drawn(again) == drawn(story_seed(1, 42))
    ended = campaign("--runs", 1, "--seed", again)
    assert "Advance" in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith(f"seed={again}")


def test_two_campaigns_share_no_story():
    assert not {story_seed(1, i) for i in range(1000)} & {story_seed(2, i) for i in range(1000)}


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account(lost_bytes=1), id="lost bytes"),
        pytest.param(Account(double_deletes=1), id="a pod deleted twice"),
        pytest.param(Account(double_releases=1), id="a machine released twice"),
        pytest.param(Account(complaints=("stuck",)), id="a story without an end"),
    ],
)
def test_a_campaign_is_good_only_without(account):
    assert Tally().plus(Account(faults=9)).good
    assert not Tally().plus(account).good


# -- what a broken operator does is seen --------------------------------------------------------------------------


def test_a_final_commit_of_an_older_pod_would_hide_a_loss(monkeypatch):
    scenario = Scenario("crashes", agent_away=(75, 140), evicted_at=100, deleted_at=100)
    assert Story(scenario).tell().good
    monkeypatch.setattr(proving, "_trained_after", lambda seen, proven: False)
    assert Story(scenario).tell().lost_bytes > 0


def test_letting_go_of_a_crashed_pod_unsaved_is_a_loss(monkeypatch):
    scenario = Scenario("crashes", bucket_away=(40, 90))
    assert Story(scenario).tell().good
    monkeypatch.setattr(Pod, "waits_behind_gate", False)
    assert not Story(scenario).tell().good
    monkeypatch.undo()
    monkeypatch.setattr(deciding, "_replace", deciding._open_gates)
    assert Story(scenario).tell().lost_bytes > 0


def test_deleting_without_reading_back_is_complained_of(monkeypatch):
    scenario = Scenario("exit", spoilt=tuple(range(2, 6)))
    assert Story(scenario).tell().good
    verify = proving.verify

    def believe(seen, stop):
        wrong = seen.answer
        sound = Verified(wrong.key, "", "", replace_commit(seen)) if wrong is not None else wrong
        return verify(replace(seen, answer=sound), stop)

    def replace_commit(seen):
        return seen.verified.commit.model_copy(update={"final": True})

    monkeypatch.setattr(proving, "verify", believe)
    complaints = Story(scenario).tell().complaints
    assert any("without a proven checkpoint" in complaint for complaint in complaints)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        pytest.param({"_training_seconds": lambda seen: 0, "AGENT_LEAST_SECONDS": 20, "UPLOADS": 0}, "while it saved", id="the training's time"),
        pytest.param({"AGENT_LEAST_SECONDS": 5, "UPLOADS": 0}, "while its last checkpoint was sent", id="the agent's"),
    ],
)  # fmt: skip
def test_a_grace_that_cuts_off_a_save_is_complained_of(monkeypatch, broken, complaint):
    scenario = Scenario(
        "user stop",
        stop_mode="LastCheckpoint",
        leaves_after=NEVER,
        saves_when_told=True,
        saves_for=30,
        upload_seconds=20,
    )
    assert Story(scenario).tell().good
    for name, value in broken.items():
        monkeypatch.setattr(ending, name, value)
    assert any(complaint in said for said in Story(scenario).tell().complaints)


def test_trainings_that_ignore_sigterm_and_that_save_on_it_are_among_the_stories():
    scenarios = [drawn(story_seed(1, number)) for number in range(100)]
    assert sum(one.ignores_sigterm for one in scenarios) > 15
    assert sum(one.saves_when_told and one.saves_for > 0 and not one.ignores_sigterm for one in scenarios) > 5


def test_a_machine_that_goes_under_a_guest_is_complained_of(monkeypatch):
    scenario = Scenario("exit", guest=(30, 300))
    assert Story(scenario).tell().good
    monkeypatch.setattr(release, "_occupied", lambda facts: "")
    complaints = Story(scenario).tell().complaints
    assert any("the guest" in complaint for complaint in complaints)


def test_a_job_that_comes_after_the_end_would_be_left(monkeypatch):
    scenario = Scenario("user stop while pending", faults=((1, Fault("paused", 40)),))
    assert Story(scenario).tell().good
    settle = termination._settle

    def blind(seen):
        finished = replace(seen.workload, finished=True) if seen.workload is not None else None
        return settle(replace(seen, workload=finished))

    monkeypatch.setattr(termination, "_settle", blind)
    assert Story(scenario).tell().complaints

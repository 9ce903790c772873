"""Two ranks write into one bucket: killed at any write, replaced while the old one goes on, asked at different moments.

The agent's own code plans, ships and commits; only the bucket is in memory. Whatever happens, no key is written over, no commit lacks a rank or
mixes checkpoints, and two ranks that are left alone end with a commit of what both hold.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from objects import Door, KilledError, Objects

from trainingrun_operator.agent.config import Pace, PodMemory, Task
from trainingrun_operator.agent.ledger import Ledger
from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.ship import Shipper
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig, SaveRequest
from trainingrun_operator.checkpoints.documents import Claim, PodRef
from trainingrun_operator.checkpoints.keys import Layout, incarnation_of_claim, order_of_commit
from trainingrun_operator.checkpoints.proof import (
    Found,
    check_whole,
    checked_commit,
    checked_manifest,
    complaint_about,
)

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

RANKS = (0, 1)
LAST_STEP = 99
TURNS = 40
"""More than any two ranks need to settle: a turn to claim, to ship, to commit, and one for each generation that another writer has spoilt."""
LAYOUT = Layout.of("s3://runs/prefix", "team", "llm", "uid")
PACE = Pace(scan=0, backoff_max=0, fence=0, ranks_max=0)


@dataclass
class Pod:
    """One pod's folders, and the agent process in it."""

    objects: Objects
    rank: int
    name: str
    volume: Path
    control: Path
    alive: bool = True
    asked: SaveRequest | None = None
    ending: bool = False
    door: Door = field(init=False)
    ledger: Ledger = field(init=False)
    shipper: Shipper = field(init=False)

    def __post_init__(self) -> None:
        self.control.mkdir()
        self.volume.mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        config = AgentConfig(
            namespace="team",
            run="llm",
            run_uid="uid",
            path=str(self.volume),
            destination="s3://runs/prefix",
            quiet_seconds=0,
            world_size=len(RANKS),
        )
        task = Task(config, PodRef(name=self.name, uid=f"uid-{self.name}", rank=self.rank, world_size=len(RANKS)))
        memory = PodMemory(self.control, task.pod.uid)
        self.door = Door(self.objects)
        self.ledger = Ledger(self.door, task, memory)
        board = Board(task.pod, 0)
        self.shipper = Shipper(task, self.door, self.ledger, Watcher(config, "STOP_TRAINING"), board, PACE)
        self.alive = True
        self.shipper.ask(self.asked, None)

    def turn(self) -> None:
        if not self.alive or not self.shipper._goes_on():
            return
        self.shipper.ask(self.asked, None)
        if self.ending:
            self.shipper.terminate()
        try:
            self.shipper._turn()
        except KilledError:
            self.alive = False

    def save(self, step: int, text: str) -> None:
        folder = self.volume / f"step_{step}"
        folder.mkdir(exist_ok=True)
        (folder / "weights.dat").write_text(f"rank {self.rank} step {step} {text}")
        (folder / "more.dat").write_text(f"rank {self.rank} step {step}")

    @property
    def fenced(self) -> bool:
        return self.shipper._fenced


@pytest.fixture(autouse=True)
def quiet():
    """Kills and fences are logged, as they should be. Not in the machine: it is also built without being torn down."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class TwoRanks(RuleBasedStateMachine):
    """Hypothesis chooses who acts next."""

    pods = Bundle("pods")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self.objects = Objects()
        self.names = itertools.count()
        self.current: dict[int, Pod] = {}
        self.request: SaveRequest | None = None
        self.checked: set[str] = set()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.folder.cleanup()

    def pod(self, rank: int, volume: Path | None = None) -> Pod:
        name = f"pod-{rank}-{next(self.names)}"
        root = Path(self.folder.name)
        made = Pod(self.objects, rank, name, volume or root / f"{name}-volume", root / f"{name}-control")
        self.current[rank] = made
        return made

    @initialize(target=pods)
    def begin(self):
        return multiple(*(self.pod(rank) for rank in RANKS))

    # -- what may happen ---------------------------------------------------------------------------------------

    @rule(rank=st.sampled_from(RANKS), step=st.integers(1, 3), text=st.sampled_from("ab"))
    def the_training_of_one_rank_saves(self, rank, step, text):
        self.current[rank].save(step, text)

    @rule(step=st.integers(1, 5))
    def the_training_saves(self, step):
        for pod in self.current.values():
            pod.save(step, "together")

    @rule(pod=pods, turns=st.integers(1, 3))
    def an_agent_works(self, pod, turns):
        for _ in range(turns):
            pod.turn()

    @rule(pod=pods, other=pods)
    def an_agent_works_while_another_is_about_to_write(self, pod, other):
        if pod is not other:
            pod.door.before_document = other.turn
        pod.turn()
        pod.door.before_document = None

    @rule(pod=pods, writes=st.integers(0, 5), forwarded=st.booleans())
    def an_agent_is_killed_while_it_works(self, pod, writes, forwarded):
        pod.door.writes_left, pod.door.forwarded = writes, forwarded
        for _ in range(3):
            pod.turn()
        pod.alive = False

    @rule(pod=pods)
    def an_agent_is_started_again(self, pod):
        pod.start()

    @rule(target=pods, rank=st.sampled_from(RANKS), lasting=st.booleans())
    def a_pod_is_replaced_and_the_old_one_may_go_on(self, rank, lasting):
        old = self.current[rank]
        event(f"replaced, volume {'lasting' if lasting else 'new'}")
        return self.pod(rank, old.volume if lasting else None)

    @rule(pod=pods)
    def a_pod_that_was_replaced_goes(self, pod):
        pod.alive = pod.alive and pod is self.current[pod.rank]

    @rule(attempt=st.integers(1, 2), ended=st.booleans())
    def the_operator_asks(self, attempt, ended):
        self.request = SaveRequest(id="stop-1", attempt=attempt, ended=ended)

    @rule(pod=pods)
    def the_request_arrives(self, pod):
        pod.asked = self.request

    @rule(pod=pods)
    def a_pod_is_being_ended(self, pod):
        pod.ending = True

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def no_key_is_written_over(self):
        assert self.objects.overwritten == []

    @invariant()
    def every_commit_has_every_rank_and_one_checkpoint(self):
        for key in self.objects.keys(LAYOUT.commits):
            if key not in self.checked:
                self.check(key)
                self.checked.add(key)

    def check(self, key: str) -> None:
        commit = checked_commit(LAYOUT, key, self.objects.bodies[key]).commit
        event("committed finally" if commit.final else "committed")
        assert [ref.rank for ref in commit.ranks] == list(RANKS)
        assert self.writer(0, commit.incarnation) == commit.pod_uid
        for ref in commit.ranks:
            manifest = checked_manifest(LAYOUT, commit, ref, self.objects.bodies[ref.key])
            check_whole(manifest)
            assert self.writer(ref.rank, ref.incarnation) == manifest.pod.uid
            for file in manifest.files:
                body = self.objects.bodies[file.key]
                assert complaint_about(file, Found(len(body), file.crc64nvme)) == ""
                assert body.decode().startswith(f"rank {ref.rank} step {file.path.split('/')[0].removeprefix('step_')}")
            if commit.checkpoint is None:
                assert manifest.files == ()
            else:
                assert f"{commit.checkpoint.dir}/weights.dat" in [file.path for file in manifest.files]

    def writer(self, rank: int, incarnation: int) -> str:
        return Claim.model_validate_json(self.objects.bodies[LAYOUT.claim(rank, incarnation)]).pod.uid

    @invariant()
    def only_a_newer_incarnation_of_the_same_rank_fences(self):
        for pod in self.current.values():
            claims = [incarnation_of_claim(key) or 0 for key in self.objects.keys(LAYOUT.claims(pod.rank))]
            if pod.fenced:
                assert pod.ledger.incarnation is not None
                assert max(claims) > pod.ledger.incarnation

    def settle(self) -> None:
        """Left alone, two ranks commit what both hold."""
        if not self.current:
            return
        before = set(self.objects.keys(LAYOUT.commits))
        for rank in RANKS:
            self.pod(rank).save(LAST_STEP, hashlib.sha256(str(rank).encode()).hexdigest())
        for _ in range(TURNS):
            for pod in self.current.values():
                pod.turn()
        self.no_key_is_written_over()
        self.every_commit_has_every_rank_and_one_checkpoint()
        self.only_a_newer_incarnation_of_the_same_rank_fences()
        added = sorted((order_of_commit(key), key) for key in set(self.objects.keys(LAYOUT.commits)) - before)
        assert added, "Nothing was committed although both ranks hold the same checkpoint."
        commit = checked_commit(LAYOUT, added[-1][1], self.objects.bodies[added[-1][1]]).commit
        assert commit.checkpoint is not None
        assert commit.checkpoint.step == LAST_STEP
        assert not any(pod.fenced for pod in self.current.values()), "Nothing newer is there."


TestTwoRanks = TwoRanks.TestCase
TestTwoRanks.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

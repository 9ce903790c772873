"""What a look costs, by where the run stands, and whose word is taken."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from builders import (
    BASE,
    EARLIER,
    JOB_UID,
    NAME,
    NAMESPACE,
    NODE_UID,
    POD_UID,
    RUN_UID,
    WALL,
    checkpoint_spec,
    commit_key,
    make_agent,
    make_mismatch,
    make_node,
    make_pod,
    make_pool,
    make_stop,
    make_unreachable,
    make_verified,
)
from fakes import (
    CREDENTIALS,
    JOB,
    JOBS,
    NODE,
    POD,
    PODS,
    SECRET,
    ApiError,
    FakeProvider,
    FakeStore,
    Plain,
    api_server,
    pod_pages,
    stored_budget,
    stored_job,
    stored_node,
    stored_pod,
    stored_pool,
    stored_run,
    stored_secret,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import CommitSeen, SaveRequest
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.api.status import NodePhase, Phase, Rescue
from trainingrun_operator.checkpoints.documents import Checkpoint, RankManifest
from trainingrun_operator.checkpoints.keys import Order
from trainingrun_operator.checkpoints.s3 import Listed as ListedKeys
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.effects import Advance, RecordNodes, UntaintNode
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.gpus import Gpu, Gpus
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory
from trainingrun_operator.core.outputs import Found
from trainingrun_operator.edge import waits
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.gather import lost
from trainingrun_operator.edge.gather import observer as module
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.gather.stop_proofs import ProvingError, StopProofs
from trainingrun_operator.edge.kube import Kube, KubeError
from trainingrun_operator.edge.listed import FRESH_SECONDS, Listed
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Tools

BUDGET = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{NAME}-checkpoint"
KEY = commit_key(1, 7)
COMMIT = CommitSeen(key=KEY, incarnation=1, generation=7)
RELIST_SECONDS = 300
POOLS = f"/apis/{names.API_VERSION}/{names.POOL_PLURAL}"


LISTED = destinations_of([{"expectedBucketOwner": "123456789012"}, {"endpoint": "https://s3.example"}])


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return WALL


class Listing(Listed):
    """The watch's first lists, which know whether a look waits for them."""

    def __init__(self, monotonic):
        super().__init__(monotonic)
        self.waiting = asyncio.Event()

    async def wait(self):
        self.waiting.set()
        await super().wait()


class Place:
    """An observer and everyone whom it can ask."""

    def __init__(self, api, pages, kube, session):
        self.api, self.pages, self.kube, self.session = api, pages, kube, session
        self.store, self.cache, self.memory, self.clock = FakeStore(), Cache(), Memory(), Clock()
        self.cache.pools["a100"], self.cache.pools_at = make_pool(), self.clock.now
        self.observer = self.make_observer(Defaults(allowed_destinations=LISTED))
        self.spec = {"metrics": {"port": pages.port}, "pollIntervalSeconds": 10}

    def make_observer(self, defaults, *, agent_timeout_seconds=3.0, wake=lambda _: None, gpus=None):
        return Observer(
            self.kube,
            self.store,
            PodPages(
                self.session,
                Sources.of(Tools(self.session, self.kube)),
                agent_port=self.pages.port,
                agent_timeout_seconds=agent_timeout_seconds,
            ),
            self.cache,
            defaults,
            recheck_seconds=30,
            relist_seconds=RELIST_SECONDS,
            providers=lambda _: FakeProvider(),
            clock=self.clock,
            wake=wake,
            gpus=gpus,
        )

    def knows(self, **fields):
        """It remembers this already."""
        self.memory = replace(self.memory, **fields)

    def stored(self, *, spec=None, stop=None, progress=None, **meta):
        status = {"startTime": EARLIER} | ({"progress": progress} if progress else {})
        if stop is not None:
            status |= {"termination": stop.dump(), "terminationStatus": stop.status}
        return stored_run(spec={**self.spec, **(spec or {})}, status=status, **meta)

    def watched(self, *pods, job=True):
        """The watch has brought these, and the API server has them; they were read just now."""
        self.knows(read_at={**self.memory.read_at, Source.CHILDREN: self.clock.now})
        if job:
            self.api.put(stored_job())
            self.cache.put_child("Job", stored_job(), deleted=False)
        for pod in pods or (stored_pod(),):
            self.api.put(pod)
            self.cache.put_child("Pod", pod, deleted=False)

    async def look(self, **run):
        self.api.sent.clear()
        self.pages.asked.clear()
        self.store.asked.clear()
        return await self.look_at(self.stored(**run))

    async def look_at(self, stored):
        self.memory, seen = await self.observer.observe(stored, self.memory)
        return seen

    @property
    def calls(self):
        """Every call of the last look, to anybody."""
        return [*sorted(self.api.lines()), *sorted(self.pages.asked), *self.store.asked]


@pytest.fixture
async def place():
    async with (
        api_server(CREDENTIALS, stored_node()) as api,
        pod_pages() as pages,
        Kube(Plain(api.url)) as kube,
        prometheus.make_session() as session,
    ):
        place = Place(api, pages, kube, session)
        pages.report = make_agent()
        yield place


# -- what a look costs --------------------------------------------------------------------------------------------


def lists(place, *, job=None, children=("pods", "jobs")):
    """The watch's first lists bring these now."""
    place.cache.listed = Listing(place.clock.monotonic)
    place.cache.listed.expects([("", "pods"), ("", "jobs")])
    place.api.put(stored_pod(), stored_job())
    for kind, stored in (("Pod", stored_pod()), ("Job", job or stored_job())):
        place.cache.put_child(kind, stored, deleted=False)
    for of in children:
        place.cache.listed.page(("", of), more=False)


def of_the_children(place):
    return [call for call in place.api.lines() if call.split()[1] in (PODS, JOB)]


async def test_a_first_look_after_the_watchs_lists_reads_neither_pods_nor_job(place):
    lists(place)
    seen = await place.look()
    assert [pod.uid for pod in seen.pods] == [POD_UID]
    assert seen.workload is not None
    assert seen.workload.uid == JOB_UID
    assert of_the_children(place) == []
    place.clock.now += 10
    await place.look()
    assert of_the_children(place) == []
    place.clock.now += RELIST_SECONDS
    await place.look()
    assert of_the_children(place), "A list is as good as a read, and no better."


@pytest.mark.parametrize(
    "about",
    [
        pytest.param({"stop": make_stop(Phase.DELETING)}, id="a stop"),
        pytest.param({"deletionTimestamp": WALL, "finalizers": [names.FINALIZER]}, id="a deletion"),
    ],
)
async def test_a_first_look_on_which_a_deletion_hangs_takes_nothing_from_a_list(place, about):
    lists(place)
    await place.look(**about)
    assert len(of_the_children(place)) == 2


async def test_lists_of_long_ago_spare_a_first_look_no_request(place):
    lists(place)
    place.clock.now += FRESH_SECONDS
    await place.look()
    assert len(of_the_children(place)) == 2


async def test_a_job_of_another_name_that_carries_the_label_of_a_run_takes_no_place_of_its_job(place):
    """Any user can write the label. The list brings such a Job before the watch knows the run."""
    lists(place, job=stored_job(name="of-a-user", uid="of-a-user"))
    stored = place.stored()
    place.cache.put_run(stored)
    seen = await place.look_at(stored)
    assert seen.workload is not None
    assert seen.workload.uid == JOB_UID
    assert [pod.uid for pod in seen.pods] == [POD_UID]


async def test_a_first_look_waits_for_lists_that_are_on_their_way(place):
    lists(place, children=["pods"])
    looking = asyncio.create_task(place.look())
    await place.cache.listed.waiting.wait()
    assert place.calls == []
    place.cache.listed.page(("", "jobs"), more=False)
    assert [pod.uid for pod in (await looking).pods] == [POD_UID]
    assert of_the_children(place) == []


async def test_a_first_look_at_a_stop_waits_for_no_list(place):
    lists(place, children=["pods"])
    await place.look(stop=make_stop(Phase.DELETING))
    assert not place.cache.listed.waiting.is_set()


async def test_a_missed_event_is_made_good_by_a_read_now_and_then(place):
    place.watched()
    place.cache.pods.clear()  # the watch never told of the pod
    assert (await place.look()).pods == ()
    place.clock.now += RELIST_SECONDS
    assert [pod.name for pod in (await place.look()).pods] == [stored_pod()["metadata"]["name"]]
    assert any("/pods" in call for call in place.calls)
    await place.look()
    assert not any("/pods" in call for call in place.calls), "it is not read again at every look"


async def test_no_run_is_looked_at_before_all_pools_are_known_and_they_are_read_again_now_and_then(place):
    place.watched()
    place.api.put(stored_pool("late"))
    place.cache.pools_at = float("-inf")
    seen = await place.look()
    assert [pool.name for pool in seen.pools] == ["late"], "what a list does not bring is gone"
    assert [call for call in place.calls if "gpunodepools" in call] == [f"GET {POOLS}"]
    await place.look()
    assert not [call for call in place.calls if "gpunodepools" in call]
    place.clock.now += RELIST_SECONDS
    await place.look()
    assert [call for call in place.calls if "gpunodepools" in call] == [f"GET {POOLS}"]


async def test_pools_that_cannot_be_listed_keep_nobody_from_being_looked_at_once_they_are_known(place, caplog):
    place.watched()
    place.clock.now += RELIST_SECONDS
    place.api.refuse(f"GET {POOLS}", ApiError(500, "InternalError"))
    assert [pool.name for pool in (await place.look()).pools] == ["a100"]
    assert "cannot list GPUNodePools, using the known ones" in caplog.text
    place.cache.pools_at = float("-inf")
    place.api.refuse(f"GET {POOLS}", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await place.look()


async def test_the_first_look_at_a_training_run_asks_who_its_node_is(place):
    place.watched()
    seen = await place.look()
    assert place.calls == [f"GET {NODE}", f"GET {BUDGET}", "/metrics", "/progress"]
    assert (seen.ranks[0].pod.training, seen.ranks[0].report, seen.track.step) == (Training.RUNNING, make_agent(), 1200)
    assert [node.provider_id for node in seen.nodes]


async def test_a_look_counts_what_it_waits_for_its_pod_and_no_request_to_the_api_server(place):
    with waits.measured() as without:
        await place.look()
    place.watched()
    with waits.measured() as seen:
        await place.look()
    assert (without.number, seen.number) == (0, 1)


async def test_where_nodes_are_nobodys_business_neither_nodes_nor_pools_nor_pods_of_others_are_asked_for(place):
    place.observer = place.make_observer(Defaults(release_nodes=False))
    place.cache.pools, place.cache.pools_at = {}, float("-inf")
    place.watched()
    seen = await place.look()
    assert (seen.nodes, seen.pools, seen.ranks[0].pod.training) == ((), (), Training.RUNNING)
    assert place.calls == [f"GET {BUDGET}", "/metrics", "/progress"]
    place.pages.report = None
    place.clock.now += lost.SILENT_SECONDS + 1
    await place.look()
    place.clock.now += lost.SILENT_SECONDS + 1
    seen = await place.look()
    assert (seen.ranks[0].pod.unreachable, [call for call in place.calls if "nodes" in call]) == (False, [])


# -- the disruption budget ----------------------------------------------------------------------------------------


async def test_the_budget_is_looked_for_once_and_then_seldom(place):
    place.watched()
    assert (await place.look()).disruption_budget == ""
    place.clock.now += 10
    assert (await place.look()).disruption_budget == ""
    assert f"GET {BUDGET}" not in place.calls
    place.api.put(stored_budget())
    place.clock.now += RELIST_SECONDS
    assert (await place.look()).disruption_budget == "budget-uid"


async def test_after_a_start_the_budget_is_looked_for_by_the_second_look(place):
    """Other runs wait for their first looks."""
    lists(place)
    place.api.put(stored_budget())
    assert (await place.look()).disruption_budget is None
    assert f"GET {BUDGET}" not in place.calls
    assert (await place.look()).disruption_budget == "budget-uid"


async def test_after_a_start_the_budget_of_a_stop_is_looked_for_at_once(place):
    lists(place)
    place.api.put(stored_budget())
    assert (await place.look(stop=make_stop(Phase.DELETING))).disruption_budget == "budget-uid"


async def test_a_budget_that_cannot_be_read_keeps_nobody_from_being_looked_at(place, caplog):
    place.watched()
    place.api.refuse(f"GET {BUDGET}", ApiError(403, "Forbidden"))
    assert (await place.look()).disruption_budget is None
    assert "the disruption budget cannot be read" in caplog.text


async def test_a_budget_of_that_name_that_is_not_ours_is_none(place):
    place.watched()
    place.api.put(stored_budget(labels={}))
    assert (await place.look()).disruption_budget == ""


async def test_after_a_failure_it_is_looked_for_again_soon(place):
    place.watched()
    await place.look()
    place.knows(disruption_budget=None)
    assert (await place.look()).disruption_budget is None
    place.clock.now += module.DISRUPTION_BUDGET_RETRY_SECONDS
    assert (await place.look()).disruption_budget == ""


async def test_nobody_looks_for_the_budget_of_a_run_that_is_over(place):
    place.watched()
    await place.look(stop=make_stop(Phase.DONE), finalizers=[])
    assert f"GET {BUDGET}" not in place.calls


async def test_how_long_everything_has_been_proven(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits = [make_verified()]
    assert (await place.look()).proven_seconds == 0
    place.clock.now += 31
    assert (await place.look()).proven_seconds == 31
    place.pages.report = make_agent(commit=None)
    assert (await place.look()).proven_seconds is None


# -- a namespace that goes ----------------------------------------------------------------------------------------

NAMESPACE_PATH = f"/api/v1/namespaces/{NAMESPACE}"


def stored_namespace(**meta):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "uid": "ns", **meta}}


@pytest.mark.parametrize(
    ("meta", "ends"),
    [pytest.param({}, False, id="it stays"), pytest.param({"deletionTimestamp": EARLIER}, True, id="it goes")],
)
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(make_stop(Phase.HELD), id="before the proof"),
        pytest.param(make_stop(Phase.DELETING, rescue=Rescue(attempt=2)), id="a rescue saves after the proof"),
    ],
)
async def test_whether_the_namespace_goes_is_asked_once_nobody_can_save_any_more(place, stop, meta, ends):
    place.api.put(stored_job(), stored_namespace(**meta))
    seen = await place.look(stop=stop, deletionTimestamp=EARLIER)
    assert seen.namespace_ends is ends


async def test_whether_the_namespace_goes_is_asked_when_the_job_has_gone_before_the_run(place):
    place.api.put(stored_namespace(deletionTimestamp=EARLIER))
    stored = place.stored()
    stored["status"]["workload"] = {"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": JOB_UID}
    assert (await place.look_at(stored)).namespace_ends


@pytest.mark.parametrize(
    ("phase", "meta", "pods"),
    [
        pytest.param(Phase.HELD, {}, (), id="the run itself is not deleted"),
        pytest.param(Phase.DELETING, {"deletionTimestamp": EARLIER}, (), id="everything is proven"),
        pytest.param(Phase.SAVING, {"deletionTimestamp": EARLIER}, (stored_pod(),), id="its pod still can"),
    ],
)
async def test_otherwise_nobody_asks_for_the_namespace(place, phase, meta, pods):
    place.api.put(stored_job(), *pods)
    await place.look(stop=make_stop(phase), **meta)
    assert f"GET {NAMESPACE_PATH}" not in place.calls


async def test_a_stop_whose_secret_is_gone_is_proven_with_what_was_known_of_it(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits = [make_verified()]
    await place.look()
    del place.api.objects[SECRET]
    assert (await place.look(stop=make_stop(Phase.SAVING))).answer == make_verified()
    place.observer.forget(RUN_UID)
    assert (await place.look(stop=make_stop(Phase.SAVING))).answer.code == "SecretNotFound"


# -- who a node is ------------------------------------------------------------------------------------------------


async def test_a_node_that_was_made_anew_under_its_pod_is_seen_before_long(place):
    place.watched()
    assert [node.uid for node in (await place.look()).nodes] == [NODE_UID]
    place.api.put(stored_node(uid="anew"))
    place.clock.now += 10
    assert [node.uid for node in (await place.look()).nodes] == [NODE_UID]
    place.clock.now += RELIST_SECONDS
    assert [node.uid for node in (await place.look()).nodes] == ["anew"]


async def test_the_next_pod_on_a_node_of_the_same_name_is_asked_about_at_once(place):
    place.watched()
    await place.look()
    place.api.put(stored_node(uid="anew"))
    place.watched(stored_pod(uid="next", name="bert-next", creationTimestamp=WALL))
    assert {node.uid for node in (await place.look()).nodes} == {NODE_UID, "anew"}


async def test_a_steady_run_costs_its_scrape_and_its_report(place, requests_made):
    place.watched()
    await place.look()
    before = requests_made()
    place.clock.now += 10
    await place.look()
    assert place.calls == ["/metrics", "/progress"]
    assert requests_made() == {**before, "metrics": before["metrics"] + 1, "agent": before["agent"] + 1}


async def test_the_metrics_are_not_read_before_they_are_due(place):
    place.watched()
    await place.look()
    place.clock.now += 9
    await place.look()
    assert place.calls == ["/progress"]


async def test_the_first_reading_of_a_process_goes_on_from_what_was_written(place):
    place.watched()
    written = {"step": 1200, "epochBase": 0, "stepInterval": "10", "podUID": stored_pod()["metadata"]["uid"]}
    track = (await place.look(progress=written)).track
    assert (track.advanced, track.polls_without_advance, track.typical_interval) == (True, 1, 10)
    place.clock.now += 10
    assert (await place.look(progress=written)).track.polls_without_advance == 2


async def test_a_run_whose_pod_does_not_train_yet_is_not_scraped(place):
    place.watched(stored_pod(status={"containerStatuses": []}))
    await place.look()
    assert "/metrics" not in place.calls


async def test_a_new_commit_is_verified_once(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits = [make_verified()]
    await place.look()
    assert f"GET {SECRET}" in place.calls
    assert place.store.asked == [f"verify {KEY}"]
    place.clock.now += 10
    seen = await place.look()
    assert place.calls == ["/metrics", "/progress"]
    assert (seen.verified, seen.answer) == (make_verified(), None)


async def test_the_first_look_at_a_run_waits_for_no_proof(place):
    """As after a start of the operator, when thousands of runs wait for their first look."""
    woken = asyncio.Event()
    place.api.put(stored_job(), stored_pod())
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits = [make_verified()]
    place.observer = place.make_observer(Defaults(allowed_destinations=LISTED), wake=lambda _: woken.set())
    seen = await place.look()
    assert (seen.verified, seen.answer) == (None, None)
    await asyncio.wait_for(woken.wait(), 30)
    assert (await place.look()).verified == make_verified()


async def test_a_look_does_not_wait_for_the_proof_of_a_large_checkpoint_and_is_woken_for_it(place):
    proven, woken, verify = asyncio.Event(), asyncio.Event(), place.store.verify

    async def slow(*asked):
        await proven.wait()
        return await verify(*asked)

    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits, place.store.verify = [make_verified()], slow
    place.observer = place.make_observer(Defaults(allowed_destinations=LISTED), wake=lambda _: woken.set())
    seen = await place.look()
    assert (seen.verified, seen.answer) == (None, None)
    proven.set()
    await asyncio.wait_for(woken.wait(), 30)
    assert (await place.look()).verified == make_verified()
    await place.look()
    assert place.store.asked == []


async def test_while_a_proof_is_made_the_secret_is_not_read_again(place):
    proven, woken, verify = asyncio.Event(), asyncio.Event(), place.store.verify

    async def slow(*asked):
        await proven.wait()
        return await verify(*asked)

    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits, place.store.verify = [make_verified()], slow
    place.observer = place.make_observer(Defaults(allowed_destinations=LISTED), wake=lambda _: woken.set())
    await place.look()
    assert f"GET {SECRET}" in place.calls
    await place.look()
    assert f"GET {SECRET}" not in place.calls
    proven.set()
    await asyncio.wait_for(woken.wait(), 30)
    assert (await place.look()).verified == make_verified()
    assert f"GET {SECRET}" not in place.calls


async def test_a_new_commit_after_a_proof_and_a_stop_during_one_read_the_secret_as_it_is_then(place):
    async def hangs(*_):
        await asyncio.Event().wait()

    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits, verify = [make_verified()], place.store.verify
    assert (await place.look()).verified == make_verified()
    newer = CommitSeen(key=commit_key(1, 8), incarnation=1, generation=8)
    place.pages.report, place.store.verify = make_agent(commit=newer), hangs
    await place.look()
    assert f"GET {SECRET}" in place.calls
    place.store.verify = verify
    await place.look(stop=make_stop(Phase.SAVING))
    assert f"GET {SECRET}" in place.calls


async def test_a_stop_does_not_wait_behind_the_proof_of_an_older_checkpoint(place):
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs(*_):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits, place.store.verify = [make_verified()], hangs
    await place.look()
    assert begun.is_set()
    assert (await place.look(stop=make_stop(Phase.SAVING))).answer == make_verified()
    await asyncio.wait_for(cancelled.wait(), 30)


class SlowProof:
    """A proof that a stop depends on, which ends when the test says so, and the looks that it puts off."""

    def __init__(self, place):
        self.place, self.woken, self.begun = place, asyncio.Event(), 0
        self.cancelled_now = asyncio.Event()
        self.ends, self.cancelled, self._find = asyncio.Event(), 0, place.store.find
        place.store.find = self._slow
        self.observer = self.start()

    def start(self):
        """Start an operator that remembers nothing."""
        place = self.place
        place.memory = Memory()
        observer = place.observer = place.make_observer(Defaults(allowed_destinations=LISTED))
        observer._bucket_reader._stops = StopProofs(lambda _: self.woken.set(), patience_seconds=0)
        return observer

    async def _slow(self, *asked, **how):
        self.begun += 1
        there = [*self.place.store.commits]
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.cancelled_now.set()
            raise
        # A bucket is listed when its proof begins.
        now, self.place.store.commits = self.place.store.commits, there
        try:
            return await self._find(*asked, **how)
        finally:
            self.place.store.commits = now

    async def put_off(self, phase=Phase.SAVING):
        memory = self.place.memory
        with pytest.raises(ProvingError):
            await self.place.look(stop=make_stop(phase))
        assert self.place.memory is memory, "A look that is put off remembers nothing."

    async def answered(self, phase=Phase.SAVING):
        await asyncio.wait_for(self.woken.wait(), 30)
        return await self.place.look(stop=make_stop(phase))


async def test_the_look_of_a_stop_is_put_off_during_a_long_proof_and_woken_at_its_end(place):
    place.watched()
    place.store.commits = [make_verified()]
    slow = SlowProof(place)
    for _ in range(3):
        await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer == make_verified()
    assert slow.begun == 1


async def test_a_stop_whose_pod_ends_during_the_proof_is_not_told_what_the_bucket_lacked_before(place):
    """What no pod can save any more and the bucket lacks is a data loss: the pod has saved before it ended."""
    place.watched()
    slow = SlowProof(place)
    await slow.put_off()
    place.store.commits = [make_verified()]
    place.api.put(stored_pod(status={"phase": "Succeeded"}, exit_code=0))
    await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer == make_verified()
    assert (slow.begun, slow.cancelled) == (2, 1)


async def test_a_pod_that_starts_saves_and_ends_during_the_proof_is_not_overlooked(place):
    """Neither before nor after could any pod save."""
    place.watched(stored_pod(status={"phase": "Pending", "containerStatuses": []}))
    slow = SlowProof(place)
    await slow.put_off()
    place.store.commits = [make_verified()]
    place.api.put(stored_pod(status={"phase": "Succeeded"}, exit_code=0))
    await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer == make_verified()
    assert (slow.begun, slow.cancelled) == (2, 1)


async def test_what_an_agent_reports_begins_no_other_proof(place):
    """A training may commit more often than a slow bucket answers."""
    place.watched()
    slow = SlowProof(place)
    for number in range(3):
        commit = CommitSeen(key=commit_key(1, number), incarnation=1, generation=number)
        place.pages.report = make_agent(uploaded_bytes=number, commit=commit)
        await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer is None
    assert (slow.begun, slow.cancelled) == (1, 0)
    place.store.commits = [make_verified()]
    slow.woken.clear()
    slow.ends.clear()
    await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer == make_verified(), "The next look finds what came meanwhile."


async def test_keys_that_are_renewed_during_the_proof_begin_no_other(place):
    place.watched()
    place.store.commits = [make_verified()]
    slow = SlowProof(place)
    for token in ("b25l", "dHdv"):
        place.api.put(stored_secret(AWS_ACCESS_KEY_ID=token, AWS_SECRET_ACCESS_KEY=token))
        await slow.put_off()
    slow.ends.set()
    assert (await slow.answered()).answer == make_verified()
    assert (slow.begun, slow.cancelled) == (1, 0)


async def test_another_server_in_the_spec_begins_another_proof(place):
    place.watched()
    slow = SlowProof(place)
    await slow.put_off()
    place.spec = {
        **place.spec,
        "checkpoint": checkpoint_spec(
            s3={"credentialsSecretName": "s3-credentials", "endpointURL": "https://s3.example"}
        ),
    }
    await slow.put_off()
    assert (slow.begun, slow.cancelled) == (2, 1)
    await slow.observer.close()


async def test_the_proof_of_saving_is_no_answer_in_verifying(place):
    place.watched()
    place.store.commits = [make_verified()]
    slow = SlowProof(place)
    await slow.put_off()
    await slow.put_off(Phase.VERIFYING)
    assert (slow.begun, slow.cancelled) == (2, 1)
    slow.ends.set()
    assert (await slow.answered(Phase.VERIFYING)).answer == make_verified()


async def test_an_operator_that_starts_during_the_proof_of_a_stop_begins_it_again(place):
    place.watched()
    place.store.commits = [make_verified()]
    slow = SlowProof(place)
    await slow.put_off(Phase.VERIFYING)
    await slow.observer.close()
    slow.start()
    await slow.put_off(Phase.VERIFYING)
    assert (slow.begun, slow.cancelled) == (2, 1)
    slow.ends.set()
    assert (await slow.answered(Phase.VERIFYING)).answer == make_verified()


async def test_a_run_that_is_gone_ends_the_proof_of_its_stop(place):
    place.watched()
    slow = SlowProof(place)
    await slow.put_off()
    slow.observer.forget(RUN_UID)
    await slow.observer.close()
    await asyncio.wait_for(slow.cancelled_now.wait(), 30)
    assert not slow.woken.is_set()


async def test_a_commit_that_does_not_verify_is_said_and_not_read_again(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.commits = [make_mismatch()]
    assert (await place.look()).answer == make_mismatch()
    await place.look()
    assert place.store.asked == []


async def test_a_bucket_that_is_away_is_asked_again(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    place.store.always = make_unreachable()
    assert (await place.look()).answer == make_unreachable()
    await place.look()
    assert place.store.asked == [f"verify {KEY}"]


async def test_a_commit_outside_of_the_runs_own_prefix_is_not_read(place):
    place.watched()
    place.pages.report = make_agent(
        commit=COMMIT.model_copy(update={"key": "runs/team/other/uid/commits/i1-g0007.json"})
    )
    await place.look()
    assert place.store.asked == []


async def test_a_run_without_its_job_is_read_from_the_api_server(place):
    place.watched(job=False)
    place.api.put(stored_job())
    seen = await place.look()
    assert set(place.calls) == {f"GET {PODS}", f"GET {NODE}", f"GET {JOB}", f"GET {BUDGET}", "/metrics", "/progress"}
    assert (seen.workload.uid, seen.ranks[0].pod.uid) == (JOB_UID, POD_UID)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param({"stop": make_stop(phase)}, id=f"in {phase}")
        for phase in (Phase.DRAINING, Phase.SAVING, Phase.VERIFYING, Phase.HELD, Phase.DELETING)
    ]
    + [pytest.param({"deletionTimestamp": EARLIER}, id="while it is deleted")],
)
async def test_what_a_deletion_hangs_on_is_read_from_the_api_server_itself(place, run):
    place.watched()
    place.cache.put_child("Pod", stored_pod(uid="gone"), deleted=False)
    seen = await place.look(**run)
    assert {f"GET {JOB}", f"GET {PODS}"} <= set(place.calls)
    assert [pod.uid for pod in seen.pods] == [POD_UID]
    assert not any("resourceVersion" in sent.query for sent in place.api.sent)


async def test_a_stop_of_a_training_that_has_stepped_is_not_scraped_any_more_but_its_agent_is_asked(place):
    place.watched()
    await place.look(stop=make_stop(Phase.DRAINING), progress={"step": 5})
    assert place.pages.asked == ["/progress"]


@pytest.mark.parametrize(
    ("phase", "scraped"),
    [
        pytest.param(Phase.REQUESTED, False, id="the intent is written first"),
        pytest.param(Phase.DRAINING, True, id="it may step while it drains"),
        pytest.param(Phase.SAVING, True, id="that it has not stepped may mean that there is nothing to save"),
        pytest.param(Phase.HELD, True, id="also later"),
        pytest.param(Phase.VERIFYING, False, id="a commit answers"),
        pytest.param(Phase.DELETING, False, id="it is decided"),
    ],
)
async def test_a_stop_reads_the_metrics_as_long_as_no_step_is_known(place, phase, scraped):
    place.watched()
    await place.look(stop=make_stop(phase))
    assert ("/metrics" in place.pages.asked) is scraped


@pytest.mark.parametrize(
    ("phase", "asked"),
    [
        pytest.param(Phase.REQUESTED, [], id="nothing before the intent is acted on"),
        pytest.param(Phase.SAVING, ["find max_age=300"], id="saving believes a recent proof"),
        pytest.param(Phase.HELD, ["find max_age=300"], id="held believes a recent proof"),
        pytest.param(Phase.VERIFYING, ["find max_age=30"], id="verifying reads all of it now"),
        pytest.param(Phase.DELETING, [], id="deleting with pods asks nothing"),
        pytest.param(Phase.DONE, [], id="done asks nothing"),
    ],
)
async def test_what_a_stop_asks_the_bucket(place, phase, asked):
    place.watched()
    place.store.commits = [make_verified()]
    await place.look(stop=make_stop(phase))
    assert place.store.asked == asked
    assert (f"GET {SECRET}" in place.calls) == bool(asked)


async def test_once_no_pod_is_left_the_newest_of_the_bucket_counts(place):
    place.api.put(stored_job())
    place.store.commits = [make_verified(termination_id=None, attempt=0)]
    seen = await place.look(stop=make_stop(Phase.DELETING))
    assert place.store.asked == ["find max_age=300 fall back"]
    assert seen.verified.commit.generation == 7


def of_step(step, generation):
    """A commit of this step that no request has asked for."""
    about = Checkpoint(dir=f"checkpoint-{step}", step=step, complete=True, evidence="x")
    return make_verified(generation=generation, termination_id=None, attempt=0, checkpoint=about)


@pytest.mark.parametrize(
    ("steps", "generation"),
    [
        pytest.param((400, 200, 100), 2, id="the newest from before the first value that is not finite"),
        pytest.param((400, 300), 2, id="none is from before it: the newest"),
    ],
)
async def test_with_nobody_left_to_save_a_training_that_is_no_longer_finite(place, steps, generation):
    place.api.put(stored_job())
    place.store.commits = [of_step(step, len(steps) - number) for number, step in enumerate(steps)]
    stop = make_stop(Phase.SAVING, status="auto_non_finite", spoiled=Spoiled(step=300))
    seen = await place.look(stop=stop)
    assert seen.verified.commit.generation == generation
    written = next(one.termination for one in decide(seen).effects if isinstance(one, Advance))
    assert written.saved is not None
    assert written.saved.step == place.store.commits[len(steps) - generation].commit.checkpoint.step


async def test_with_nobody_left_to_save_anything_the_newest_of_the_bucket_counts(place):
    place.api.put(stored_job())
    place.store.commits = [make_verified(termination_id="another", attempt=1)]
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert place.store.asked == ["find max_age=300", "find max_age=300 fall back"]
    assert (seen.answer, seen.verified.commit.generation) == (None, 7)


async def test_an_older_commit_never_replaces_a_newer(place):
    place.watched()
    place.knows(verified=make_verified(generation=9))
    place.store.commits = [make_verified()]
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert seen.answer == make_verified()
    assert seen.verified.commit.generation == 9


async def test_a_crashed_pod_asks_for_its_own_save_request(place):
    request = SaveRequest(id="crash-1", attempt=2, ended=True)
    annotations = {names.SAVE_ANNOTATION: request.model_dump_json(by_alias=True)}
    place.watched(stored_pod(exit_code=1, annotations=annotations))
    place.store.commits = [make_verified(), make_verified(termination_id="crash-1", attempt=2)]
    seen = await place.look()
    assert seen.answer.commit.termination_id == "crash-1"
    place.clock.now += 7
    assert (await place.look()).save_failing_seconds == 7


async def test_without_checkpoints_no_secret_and_no_bucket_is_asked(place):
    place.watched()
    place.pages.report = make_agent(commit=COMMIT)
    await place.look(spec={"checkpoint": {"mode": "Disabled"}}, stop=make_stop(Phase.SAVING))
    assert place.store.asked == []
    assert f"GET {SECRET}" not in place.calls


async def test_a_release_looks_at_nodes_that_are_not_settled(place):
    nodes = [make_node(NodePhase.WAIT_IDLE), make_node(NodePhase.RELEASED, name="gpu-2", uid="2")]
    stored = place.stored(stop=make_stop(Phase.RELEASING))
    stored["status"]["nodes"] = [node.dump() for node in nodes]
    place.api.put(stored_job())
    seen = await place.look_at(stored)
    assert [(node.name, node.instance) for node in seen.nodes] == [("gpu-1", Instance.RUNNING)]
    assert seen.node_seconds == {node.uid: 0 for node in nodes}
    assert place.store.asked == []


async def test_an_api_server_that_is_away_ends_the_look(place):
    place.api.refuse(f"GET {PODS}", ApiError(503, "ServiceUnavailable"))
    with pytest.raises(KubeError):
        await place.look(stop=make_stop(Phase.SAVING))


# -- whose pods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([], id="nobodys"),
        pytest.param(
            [{"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": "another"}], id="that of another Job"
        ),
    ],
)
async def test_a_pod_that_only_carries_our_label_is_not_ours(place, owners):
    place.watched(stored_pod(ownerReferences=owners))
    seen = await place.look()
    assert seen.pods == ()
    assert place.pages.asked == []


async def test_a_pod_of_another_namespace_is_not_ours_whatever_it_carries(place):
    forged = stored_pod(namespace="evil", uid="forged", creationTimestamp="2027-01-01T00:00:00Z")
    place.watched(stored_pod(), forged)
    assert [pod.uid for pod in (await place.look()).pods] == [POD_UID]


async def test_the_newest_pod_is_the_last(place):
    later = "2026-01-02T04:00:00Z"
    place.watched(
        stored_pod(name="b", uid="new", creationTimestamp=later), stored_pod(name="a", uid="old", exit_code=1)
    )
    assert [pod.uid for pod in (await place.look()).pods] == ["old", "new"]


async def test_a_job_of_our_name_that_is_another_runs_is_not_ours(place):
    place.api.put(stored_job(labels={names.RUN_UID_LABEL: "another"}))
    assert (await place.look()).workload is None


async def test_a_decision_is_confirmed_by_what_the_api_server_has(place):
    place.watched()
    seen = await place.look()
    assert await place.observer.confirms(seen)


@pytest.mark.parametrize(
    "now",
    [
        pytest.param([stored_job()], id="the pod is gone"),
        pytest.param([stored_job(), stored_pod(uid="new")], id="the pod was replaced"),
        pytest.param([stored_job(), stored_pod(exit_code=0)], id="the training has exited"),
        pytest.param([stored_job(), stored_pod(status={"podIP": "127.0.0.2"})], id="the pod has another address"),
        pytest.param([stored_job(), stored_pod(status={"reason": "Evicted"})], id="the pod was told to leave"),
        pytest.param([stored_pod()], id="the Job is gone"),
    ],
)
async def test_what_the_watch_has_missed_is_not_confirmed_and_is_seen_by_the_next_look(place, now):
    place.watched()
    seen = await place.look()
    for path in (JOB, POD):
        del place.api.objects[path]
    place.api.put(*now)
    assert not await place.observer.confirms(seen)
    again = await place.look()
    assert (again.pods, again.workload) != (seen.pods, seen.workload)
    assert await place.observer.confirms(again)


# -- the agent's word ---------------------------------------------------------------------------------------------

GOOD = make_agent().model_dump_json(by_alias=True).encode()


async def in_pieces(request):
    """As packets are: not all at once."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    for piece in (GOOD[:20], GOOD[20:]):
        await answer.write(piece)
        await asyncio.sleep(0.05)
    return answer


async def cut_off(request):
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(GOOD[:20])
    request.transport.close()
    return answer


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(GOOD, id="a page at once"),
        pytest.param(in_pieces, id="a page in pieces"),
        pytest.param(json.dumps(json.loads(GOOD) | {"fromTheFuture": 1}).encode(), id="a page of a newer agent"),
    ],
)
async def test_the_agent_is_heard(place, report):
    place.watched()
    place.pages.report = report
    assert (await place.look()).ranks[0].report == make_agent()


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(make_agent(pod_uid="another"), id="the agent of another pod"),
        pytest.param(b" " * 10_000_000 + GOOD, id="ten megabytes"),
        pytest.param(b"x" * 10_000_000, id="ten megabytes of garbage"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
        pytest.param(b'{"podUid": 7}', id="JSON of another kind"),
        pytest.param(b"null", id="null"),
        pytest.param(cut_off, id="a page that is cut off"),
        pytest.param(None, id="404"),
        pytest.param(web.Response(status=500, body=GOOD), id="500"),
        pytest.param(web.Response(status=302, headers={"Location": "/metrics"}), id="a redirect"),
    ],
)
async def test_anything_else_is_no_report(place, report):
    place.watched()
    place.pages.report = report
    seen = await place.look()
    assert seen.ranks[0].report is None
    assert seen.track.step == 1200, "the metrics are read all the same"
    assert place.pages.asked.count("/metrics") == 1, "and no redirect is followed to them"


async def test_a_refused_report_is_told_and_is_no_evidence(place):
    """The bytes in it name a commit and an empty volume: neither is believed."""
    place.watched()
    forged = json.loads(make_agent(files=0, commit=COMMIT).model_dump_json(by_alias=True)) | {"uploadFailures": "x"}
    place.pages.report = json.dumps(forged).encode()
    seen = await place.look()
    assert seen.ranks[0].report is None
    assert seen.reports is None
    assert place.store.asked == []
    assert seen.ranks[0].refused == RefusedReport("bert-x7k2p", "its field uploadFailures is invalid (int_parsing)")
    place.pages.report = make_agent()
    assert (await place.look()).ranks[0].refused is None, "It is told while it is so."


@pytest.mark.parametrize("report", [pytest.param(None, id="404"), pytest.param(cut_off, id="cut off")])
async def test_an_agent_that_does_not_answer_is_not_refused(place, report):
    place.watched()
    place.pages.report = report
    assert (await place.look()).ranks[0].refused is None


async def test_an_agent_that_hangs_is_given_up(place):
    async def hangs(request):
        await asyncio.sleep(0.5)
        return web.Response(body=GOOD)

    place.observer = place.make_observer(Defaults(), agent_timeout_seconds=0.05)
    place.watched()
    place.pages.report = hangs
    assert (await place.look()).ranks[0].report is None


async def test_what_an_agent_said_is_not_believed_once_it_is_silent(place):
    place.watched()
    await place.look()
    place.pages.report = None
    assert (await place.look()).ranks[0].report is None


async def test_a_destination_that_is_not_allowed_any_more_gets_no_request_and_no_secret_is_read_for_it(place):
    place.watched()
    s3 = {"credentialsSecretName": "s3-credentials", "endpointURL": "http://169.254.169.254"}
    seen = await place.look(spec={"checkpoint": checkpoint_spec(s3=s3)}, stop=make_stop(Phase.SAVING))
    assert isinstance(seen.answer, Unreachable)
    assert seen.answer.code == "DestinationNotAllowed"
    assert "'http://169.254.169.254'" in seen.answer.message
    assert place.store.asked == []
    assert f"GET {SECRET}" not in place.calls


async def test_a_job_whose_destination_is_refused_by_now_gets_words_and_no_request(place):
    place.watched()
    spec = {"checkpoint": checkpoint_spec(destination="s3://runs--usw2-az1--x-s3/a")}
    seen = await place.look(spec=spec, stop=make_stop(Phase.SAVING))
    assert isinstance(seen.answer, Unreachable)
    assert seen.answer.code == "InvalidDestination"
    assert "is the name of a directory bucket" in seen.answer.message
    assert place.store.asked == []


async def test_who_pays_is_said_as_the_run_says_it(place):
    place.watched()
    for pays in (True, False):
        s3 = {"credentialsSecretName": "s3-credentials", "requesterPays": pays}
        await place.look(spec={"checkpoint": checkpoint_spec(s3=s3)}, stop=make_stop(Phase.SAVING))
        assert place.store.accesses[-1].requester_pays is pays


async def test_a_commit_that_does_not_verify_any_more_is_known(place):
    place.watched()
    place.store.commits = [make_mismatch()]
    seen = await place.look(stop=make_stop(Phase.VERIFYING))
    assert seen.refuted == {Order(1, 7): make_mismatch().complaint}


async def test_after_the_last_pod_the_newer_ones_that_do_not_verify_are_known(place):
    place.api.put(stored_job())
    older = make_verified(generation=6, termination_id=None)

    async def find(access, layout, wanted, **_):
        return None if not wanted(older.commit) else replace(older, passed_over=(make_mismatch(),))

    place.store.find = find
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert seen.verified.key == older.key
    assert list(seen.refuted) == [Order(1, 7)]

    async def none_verifies(access, layout, wanted, **_):
        return None if not wanted(older.commit) else make_mismatch(key=older.key)

    place.store.find = none_verifies
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert seen.verified is None
    assert list(seen.refuted) == [Order(1, 6), Order(1, 7)]


async def test_the_bucket_must_belong_to_whom_the_list_says(place):
    place.watched()
    await place.look(stop=make_stop(Phase.SAVING))
    assert {access.expected_bucket_owner for access in place.store.accesses} == {"123456789012"}


async def test_without_a_secret_the_operator_reads_with_its_own_identity_only_where_the_list_lets_it(place):
    place.watched()
    spec = {"checkpoint": checkpoint_spec(s3={"region": "eu-west-1"})}
    refused = await place.look(spec=spec, stop=make_stop(Phase.SAVING))
    assert isinstance(refused.answer, Unreachable)
    assert refused.answer.code == "NoCredentials"
    assert place.store.asked == []
    listed = destinations_of([{"identity": "operator", "expectedBucketOwner": "210987654321"}])
    place.observer = place.make_observer(Defaults(allowed_destinations=listed))
    await place.look(spec=spec, stop=make_stop(Phase.SAVING))
    (access,) = {*place.store.accesses}
    assert access.own_identity
    assert (access.access_key, access.secret_key, access.session_token) == ("", "", "")
    assert (access.region, access.expected_bucket_owner) == ("eu-west-1", "210987654321")
    assert f"GET {SECRET}" not in place.calls


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(stored_pod(spec={"hostNetwork": True}), id="on the host's network"),
        pytest.param(stored_pod(status={"podIP": ""}), id="without an address"),
        pytest.param(stored_pod(status={"phase": "Failed"}, exit_code=1), id="that has ended"),
    ],
)
async def test_a_pod_is_not_asked(place, pod):
    place.watched(pod)
    seen = await place.look()
    assert place.pages.asked == []
    assert seen.ranks[0].report is None


async def test_a_page_that_fails_is_no_reading(place):
    place.watched()
    place.pages.metrics = "nothing 1\n"
    seen = await place.look()
    assert isinstance(seen.track.oddity, Failure)
    assert seen.track.oddity.reason == "NoSuchMetric"


# -- credentials --------------------------------------------------------------------------------------------------

KEYS = {"AWS_ACCESS_KEY_ID": "a2V5", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0"}


@pytest.mark.parametrize(
    ("secret", "reason", "message"),
    [
        pytest.param(
            None,
            "SecretNotFound",
            "spec.checkpoint.s3.credentialsSecretName is 's3-credentials', but there is no such Secret in this namespace.",
            id="no secret",
        ),
        pytest.param(
            stored_secret(AWS_ACCESS_KEY_ID="a2V5"),
            "SecretIncomplete",
            "Secret 's3-credentials' has no AWS_SECRET_ACCESS_KEY.",
            id="one key is missing",
        ),
        pytest.param(
            stored_secret(AWS_ACCESS_KEY_ID=""),
            "SecretIncomplete",
            "Secret 's3-credentials' has no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY.",
            id="an empty key is missing",
        ),
        pytest.param(
            stored_secret(**KEYS, **{"ca.crt": base64.b64encode(b"x" * 65537).decode()}),
            "SecretTooLarge",
            "ca.crt of Secret 's3-credentials' has 65537 bytes, more than 65536: keep only the certificates that sign the store's.",
            id="a bundle of certificates that is too long",
        ),
        pytest.param(
            stored_secret(**KEYS, AWS_SESSION_TOKEN=base64.b64encode(b"x" * 900_000).decode()),
            "SecretTooLarge",
            "AWS_SESSION_TOKEN of Secret 's3-credentials' has 900000 bytes, more than 16384: correct it.",
            id="a token that is too long",
        ),
    ],
)
async def test_credentials_that_are_not_there_are_an_answer_of_their_own(place, secret, reason, message):
    place.watched()
    del place.api.objects[SECRET]
    place.api.put(*([secret] if secret else []))
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert seen.answer == Unreachable(reason, message)
    assert place.store.asked == []


async def test_credentials_are_read_whole_and_without_the_newline_of_an_editor(place):
    place.watched()
    place.api.put(
        stored_secret(
            AWS_ACCESS_KEY_ID="a2V5Cg==",
            AWS_SECRET_ACCESS_KEY="c2VjcmV0",
            AWS_SESSION_TOKEN="dG9rZW4=",
            **{"ca.crt": "UEVN"},
        )
    )
    s3 = {"credentialsSecretName": "s3-credentials", "endpointURL": "https://s3.example", "region": "eu-west-1"}
    await place.look(spec={"checkpoint": checkpoint_spec(s3=s3)}, stop=make_stop(Phase.SAVING))
    (access,) = {*place.store.accesses}
    said = (
        access.endpoint_url,
        access.region,
        access.access_key,
        access.secret_key,
        access.session_token,
        access.ca_pem,
    )
    assert said == ("https://s3.example", "eu-west-1", "key", "secret", "token", "PEM")


# -- before the first Job -----------------------------------------------------------------------------------------


async def test_a_run_that_can_be_started_has_no_problem(place):
    seen = await place.look()
    assert (seen.problem, seen.ended_before) == (None, None)
    assert place.store.asked == ["probe", "find max_age=300 fall back"]
    dry = next(sent for sent in place.api.sent if sent.method == "POST")
    assert (dry.line, dry.query["dryRun"]) == (f"POST {JOBS}", "All")
    assert JOB not in place.api.objects


async def test_a_run_that_its_bucket_knows_to_have_ended_is_seen_so(place):
    place.store.commits = [make_verified(termination_id=None), make_verified(status="auto_complete")]
    seen = await place.look()
    assert seen.ended_before.commit.status == "auto_complete"


async def test_an_end_that_cannot_be_proven_keeps_a_run_from_being_started(place):
    place.store.commits = [make_mismatch()]
    problem = (await place.look()).problem
    assert (problem.reason, problem.permanent) == ("EndedBefore", False)
    assert JOB not in place.api.objects


async def test_a_bucket_that_fails_between_two_questions_keeps_a_run_from_being_started(place):
    async def find(*_, **__):
        return make_unreachable()

    place.store.find = find
    assert (await place.look()).problem.reason == "AccessDenied"


SELECTIVE: dict[str, Any] = {"namespaceSelector": {"matchLabels": {"team": "ml"}}}


async def test_a_pool_that_does_not_allow_the_namespace_is_a_problem(place):
    place.cache.pools["a100"] = make_pool(**SELECTIVE)
    spec = {"nodePool": {"ref": "a100"}}
    assert (await place.look(spec=spec)).problem.reason == "NodePoolNotAllowed"
    place.api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml", "labels": {"team": "ml"}}})
    place.clock.now += 30
    seen = await place.look(spec=spec)
    assert (seen.problem, seen.namespace_labels) == (None, {"team": "ml"})


async def test_the_namespace_is_read_only_where_a_pool_depends_on_it(place):
    place.watched(stored_pod())
    place.api.put(stored_node())
    place.cache.pools["a100"] = make_pool(**SELECTIVE)
    await place.look()
    assert place.calls.count("GET /api/v1/namespaces/ml") == 1, "To see which pool the new node belongs to."
    stored = place.stored()
    stored["status"]["nodes"] = [make_node().dump()]
    await place.look_at(stored)
    assert place.calls.count("GET /api/v1/namespaces/ml") == 1, "The node is recorded."


EXCLUDING: dict[str, Any] = {
    "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["ml"]}]}
}


async def test_a_node_that_was_recorded_without_a_pool_gets_none_that_excludes_the_namespace(place):
    place.watched(stored_pod())
    place.api.put(
        stored_node(),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml", "labels": {"team": "ml"}}},
    )
    place.cache.pools["a100"] = make_pool(**EXCLUDING)
    stored = place.stored()
    stored["status"]["nodes"] = [make_node(pool="").dump()]
    for _ in range(3):
        seen = await place.look_at(stored)
        assert seen.namespace_labels == {"team": "ml"}
        assert not [effect for effect in decide(seen).effects if isinstance(effect, RecordNodes)]
    assert place.calls.count("GET /api/v1/namespaces/ml") == 1, "They are read again only now and then."


async def test_the_namespace_of_a_run_whose_node_is_gone_is_not_read(place):
    place.watched(stored_pod())
    place.cache.pools["a100"] = make_pool(**SELECTIVE)
    seen = await place.look(stop=make_stop(Phase.RELEASING))
    assert seen.namespace_labels is None
    assert "GET /api/v1/namespaces/ml" not in place.calls


def in_release(place, node):
    stored = place.stored(stop=make_stop(Phase.RELEASING))
    stored["status"]["nodes"] = [node.dump()]
    return stored


def record_of(seen):
    """What becomes of the only node, and the effects besides."""
    effects = decide(seen).effects
    (node,) = next((effect.nodes for effect in effects if isinstance(effect, RecordNodes)), seen.run.status.nodes)
    return node, [effect for effect in effects if not isinstance(effect, RecordNodes)]


async def test_a_pool_that_is_deleted_while_its_node_is_cordoned_leaves_no_taint_and_is_not_waited_for_without_end(
    place,
):
    taint = {"key": names.RELEASING_TAINT, "value": RUN_UID, "effect": "NoSchedule"}
    place.api.put(stored_node(spec={"taints": [taint]}))
    place.cache.pools.clear()
    node, effects = record_of(await place.look_at(in_release(place, make_node(NodePhase.CORDONED))))
    assert (node.phase, effects) == (NodePhase.WAIT_IDLE, [UntaintNode("gpu-1", NODE_UID)])

    place.api.put(stored_node())
    await place.look_at(in_release(place, node))
    place.clock.now += 299
    node, effects = record_of(await place.look_at(in_release(place, node)))
    assert (node.phase, effects) == (NodePhase.WAIT_IDLE, [])
    place.clock.now += 1
    node, effects = record_of(await place.look_at(in_release(place, node)))
    assert node.phase is NodePhase.RETAINED
    assert [effect.reason for effect in effects] == ["PoolMissing"]


async def test_a_node_in_use_whose_pool_was_replaced_gets_the_new_one_of_those_that_allow_the_namespace(place):
    place.watched(stored_pod())
    labels = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml", "labels": {"team": "ml"}}}
    place.api.put(stored_node(), labels)
    pools = make_pool("open"), make_pool("excluding", **EXCLUDING)
    place.cache.pools = {pool.name: pool for pool in pools}
    stored = place.stored()
    stored["status"]["nodes"] = [make_node(pool="deleted").dump()]
    node, _ = record_of(await place.look_at(stored))
    assert node.pool == "open"


async def test_a_bad_spec_costs_no_call_beyond_the_children(place):
    seen = await place.look(spec={"template": {"spec": {"containers": []}}})
    assert seen.problem.reason == "InvalidTemplate"
    assert place.calls == [f"GET {PODS}", f"GET {JOB}"]


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        pytest.param(ApiError(422, "Invalid", "spec.template: bad"), True, id="what is invalid stays so"),
        pytest.param(ApiError(403, "Forbidden", "exceeded quota"), False, id="what is forbidden may be allowed"),
    ],
)
async def test_a_job_that_the_api_server_refuses_is_a_problem_in_its_words(place, answer, permanent):
    place.api.refuse(f"POST {JOBS}", answer)
    problem = (await place.look()).problem
    assert (problem.reason, problem.permanent) == ("InvalidTemplate", permanent)
    assert problem.message.endswith(answer.status["message"])


async def test_a_job_of_somebody_else_with_our_name_is_a_problem_that_may_pass(place):
    place.api.put(stored_job(labels={}))
    problem = (await place.look()).problem
    assert (problem.reason, problem.permanent) == ("JobNameTaken", False)


async def test_our_own_job_that_came_meanwhile_is_no_problem(place):
    place.api.before = lambda sent: place.api.put(stored_job()) if sent.method == "POST" else None
    assert (await place.look()).problem is None


async def test_without_checkpoints_a_run_starts_without_a_bucket(place):
    assert (await place.look(spec={"checkpoint": {"mode": "Disabled"}})).problem is None
    assert place.store.asked == []


async def test_credentials_that_are_missing_are_a_problem_that_may_pass(place):
    del place.api.objects[SECRET]
    problem = (await place.look()).problem
    assert (problem.reason, problem.permanent) == ("SecretNotFound", False)
    assert place.store.asked == []


async def test_an_api_server_in_trouble_is_not_a_problem_of_the_spec(place):
    place.api.refuse(f"POST {JOBS}", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await place.look()


async def test_a_problem_is_looked_at_again_after_a_while_and_when_the_spec_has_changed(place):
    place.store.always = make_unreachable()
    probes = []
    for seconds, generation in ((0, 1), (29, 1), (31, 1), (32, 1), (33, 2), (34, 2)):
        place.clock.now = 1000 + seconds
        seen = await place.look(generation=generation)
        assert seen.problem.reason == "AccessDenied"
        probes.append(len(place.store.asked))
    assert probes == [1, 0, 1, 0, 1, 0]


async def test_a_mended_problem_is_gone_at_the_next_check(place):
    place.store.always = make_unreachable()
    assert (await place.look()).problem is not None
    place.store.always = None
    place.clock.now += 30
    assert (await place.look()).problem is None


# -- words and times ----------------------------------------------------------------------------------------------


async def test_the_last_words_of_a_crash_are_read_once(place):
    place.watched(stored_pod(exit_code=1))
    place.api.objects[POD]["log"] = "Traceback\n\n  CUDA out of memory \n"
    seen = await place.look()
    assert seen.ranks[0].log_tail == "Traceback | CUDA out of memory"
    assert (await place.look()).ranks[0].log_tail == seen.ranks[0].log_tail
    assert f"GET {POD}/log" not in place.calls


PATTERN = "^CUDA error"
FATAL = {"crash": {"fatalLogPatterns": ["absent", PATTERN]}}


async def test_a_fatal_pattern_is_searched_for_once_in_more_of_the_log_than_people_see(place):
    place.watched(stored_pod(exit_code=1))
    place.api.objects[POD]["log"] = "CUDA error: assert\n" + "frame\n" * 50 + "last\n"
    seen = await place.look(spec=FATAL)
    assert (seen.ranks[0].fatal_pattern, seen.ranks[0].log_tail) == (PATTERN, "frame | frame | frame | frame | last")
    assert (await place.look(spec=FATAL)).ranks[0] == seen.ranks[0]
    assert f"GET {POD}/log" not in place.calls
    assert (await place.look()).ranks[0].fatal_pattern == ""
    assert f"GET {POD}/log" in place.calls, "Without the patterns the log is read again."


async def test_a_cause_is_searched_for_in_more_of_the_log_than_people_see_also_without_patterns(place):
    place.watched(stored_pod(exit_code=1))
    place.api.objects[POD]["log"] = "RuntimeError: CUDA error: device-side assert triggered\n" + "frame\n" * 50
    seen = await place.look()
    assert seen.ranks[0].crash_cause == "CUDA error: device-side assert triggered"
    assert "CUDA" not in seen.ranks[0].log_tail
    assert (await place.look()).ranks[0] == seen.ranks[0]
    assert f"GET {POD}/log" not in place.calls


async def test_a_log_that_could_not_be_read_is_read_again(place):
    place.watched(stored_pod(exit_code=1))
    place.api.objects[POD]["log"] = "CUDA error: assert"
    place.api.refuse(f"GET {POD}/log", ApiError(500, "InternalError"))
    assert (await place.look(spec=FATAL)).ranks[0].fatal_pattern == ""
    assert (await place.look(spec=FATAL)).ranks[0].fatal_pattern == PATTERN


async def test_who_ended_well_is_not_asked_for_last_words(place):
    place.watched(stored_pod(exit_code=0))
    assert (await place.look()).ranks[0].log_tail == ""
    assert f"GET {POD}/log" not in place.calls


async def test_durations_are_added_up_by_this_process(place):
    place.watched(
        stored_pod(status={"containerStatuses": [{"name": "train", "state": {"waiting": {"reason": "ErrImagePull"}}}]})
    )
    assert (await place.look(stop=make_stop(Phase.SAVING))).phase_seconds == 0
    place.clock.now += 4
    seen = await place.look(stop=make_stop(Phase.SAVING))
    assert (seen.phase_seconds, seen.save_failing_seconds, seen.ranks[0].waiting_seconds) == (4, 4, 4)
    place.clock.now += 4
    seen = await place.look(stop=make_stop(Phase.VERIFYING))
    assert (seen.phase_seconds, seen.save_failing_seconds) == (0, 8)


async def test_who_is_not_released_any_more_is_known_in_a_release_only(place):
    place.api.put(stored_job())
    place.cache.put_run(stored_run(uid="other", name="other", spec={"nodePool": {"policy": "Never"}}))
    assert (await place.look(stop=make_stop(Phase.RELEASING))).ending_runs == {"other"}
    assert (await place.look(stop=make_stop(Phase.DELETING))).ending_runs == frozenset()


def test_an_ipv6_address_is_written_in_brackets():
    assert (make_pod(ip="fd00::7").host, make_pod(ip="10.0.0.7").host) == ("[fd00::7]", "10.0.0.7")


def test_the_wall_clock_is_what_the_api_server_writes():
    assert len(SystemClock().wall()) == len(EARLIER)
    assert SystemClock().wall().endswith("Z")


OTHERS_FOLDER = "runs/vision/resnet/6f2a1c9e-0000-4000-8000-00000000000c/"


async def test_a_destination_in_the_folder_of_a_run_that_is_gone_is_a_problem(place):
    spec = {"checkpoint": checkpoint_spec(destination=f"s3://bucket/{OTHERS_FOLDER}r0/i1-g0001-x/checkpoint-100")}
    place.store.listed = ListedKeys(((f"{OTHERS_FOLDER}r0/incarnations/1.json", 9.0),), more=False)
    problem = (await place.look(spec=spec)).problem
    assert (problem.reason, problem.permanent) == ("DestinationOverlaps", False)
    assert f"s3://bucket/{OTHERS_FOLDER}, the folder of run vision/resnet" in problem.message
    assert place.store.asked == ["probe", f"ages {OTHERS_FOLDER}r0/incarnations/"]
    assert not [sent for sent in place.api.sent if sent.method == "POST"], "Nothing is created, nor tried."


async def test_a_folder_with_a_uid_in_its_name_that_no_run_has_written_is_a_destination(place):
    spec = {"checkpoint": checkpoint_spec(destination=f"s3://bucket/{OTHERS_FOLDER}")}
    assert (await place.look(spec=spec)).problem is None


async def test_a_destination_in_the_folder_of_a_run_of_the_cluster_is_a_problem_before_any_request(place):
    ended = {"termination": {"phase": "Done"}}
    place.cache.put_run(stored_run(name="resnet", uid="6f2a1c9e", namespace="vision", status=ended))
    spec = {"checkpoint": checkpoint_spec(destination="s3://bucket/runs/vision/resnet/6f2a1c9e/commits")}
    assert (await place.look(spec=spec)).problem.reason == "DestinationOverlaps"
    assert place.store.asked == []


# -- a run that starts from another -------------------------------------------------------------------------------

OTHER_UID = "6f2a1c9e-0000-4000-8000-00000000000b"


def starting_from(**restore_from):
    return {"checkpoint": checkpoint_spec(restoreFrom=restore_from)}


async def test_a_run_that_starts_from_another_waits_for_a_proven_checkpoint_of_it(place):
    place.cache.put_run(stored_run(name="bert-1", uid=OTHER_UID))
    spec = starting_from(run="bert-1")
    seen = await place.look(spec=spec)
    assert (seen.problem.reason, seen.problem.permanent, seen.origin) == ("NothingToRestore", False, None)
    place.clock.now += 30
    place.store.commits = [make_verified(termination_id=None)]
    seen = await place.look(spec=spec)
    assert seen.problem is None
    assert (seen.origin.name, seen.origin.uid, seen.origin.destination) == ("bert-1", OTHER_UID, "s3://bucket/runs")
    dry = next(sent for sent in place.api.sent if sent.method == "POST")
    assert OTHER_UID in json.dumps(dry.body), "The Job that the API server tries has it too."
    assert place.store.accesses[-1].access_key == place.store.accesses[0].access_key, "It is read with the run's own."
    assert place.store.accesses[-1].expected_bucket_owner == "123456789012"


async def test_a_run_that_names_no_run_is_looked_at_again(place):
    spec = starting_from(run="bert-1")
    assert "no such TrainingRun" in (await place.look(spec=spec)).problem.message
    place.clock.now += 30
    broken = stored_run(name="bert-1", uid=OTHER_UID)
    broken["spec"]["pollIntervalSeconds"] = "often"
    place.cache.put_run(broken)
    assert "no such TrainingRun" in (await place.look(spec=spec)).problem.message


@pytest.mark.parametrize(
    "restore_from",
    [
        pytest.param({"run": "bert-1", "namespace": "vision"}, id="a run of another namespace"),
        pytest.param({"uri": f"s3://bucket/runs/vision/bert-1/{OTHER_UID}"}, id="a folder of another namespace"),
    ],
)
async def test_what_a_run_may_not_start_from_is_not_asked_for(place, restore_from):
    place.cache.put_run(stored_run(name="bert-1", uid=OTHER_UID, namespace="vision"))
    place.store.commits = [make_verified(termination_id=None)]
    seen = await place.look(spec=starting_from(**restore_from))
    assert (seen.problem.reason, seen.origin) == ("RestoreNotAllowed", None)
    assert OTHER_UID not in seen.problem.message.replace(str(restore_from.get("uri")), "")
    assert place.store.asked == [], "The bucket gets no request."


async def test_a_named_generation_may_be_older_than_what_a_search_reads(place):
    uri = f"s3://bucket/runs/ml/bert-1/{OTHER_UID}"
    named = "i1-g0007-bert-0"
    asked = []

    async def verify(access, layout, key):
        asked.append((layout.base, key))
        manifest = RankManifest(rank=0, incarnation=1, key=f"{layout.base}r0/{named}.manifest.json", sha256="x")
        return make_verified(termination_id=None, ranks=(manifest,))

    async def find(access, layout, wanted, **_):
        return None

    place.store.verify, place.store.find = verify, find
    seen = await place.look(spec=starting_from(uri=f"{uri}/r0/{named}"))
    base = f"runs/ml/bert-1/{OTHER_UID}/"
    assert asked == [(base, f"{base}commits/i1-g0007.json")]
    assert seen.problem is None
    assert seen.origin.folder == f"{base}r0/{named}/"
    place.clock.now += 30
    other = await place.look(spec=starting_from(uri=f"{uri}/r0/i1-g0003-pod"))
    assert other.problem.reason == "NothingToRestore", "What is there is of another generation."
    assert "there is no commit of that checkpoint (the newest 64 commits are read)" in other.problem.message


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(make_mismatch(), "NothingToRestore", id="its checkpoints do not verify"),
        pytest.param(make_unreachable(), "AccessDenied", id="its bucket cannot be read"),
    ],
)
async def test_a_run_whose_origin_cannot_be_proven_does_not_start(place, answer, reason):
    place.cache.put_run(stored_run(name="bert-1", uid=OTHER_UID))
    asked = []

    async def find(access, layout, wanted, **_):
        asked.append(layout.base)
        return None if len(asked) == 1 else answer

    place.store.find = find
    seen = await place.look(spec=starting_from(run="bert-1"))
    assert (seen.problem.reason, seen.problem.permanent, seen.origin) == (reason, False, None)
    assert asked == [BASE, f"runs/ml/bert-1/{OTHER_UID}/"]


# -- the outputs of a training ------------------------------------------------------------------------------------

OUTPUTS = {"completion": {"outputs": ["final/model.bin", "final/tokens-*"]}}
OF_RUN = f"runs/{NAMESPACE}/{NAME}/"


def listed(*keys, age=10.0):
    return ListedKeys(tuple((OF_RUN + key, age) for key in keys), more=False)


async def test_outputs_are_listed_one_at_a_time_and_only_when_due(place):
    place.watched()
    place.store.listed = listed("final/model.bin")
    seen = await place.look(spec=OUTPUTS)
    assert place.store.asked == [f"ages {OF_RUN}final/model.bin"]
    assert seen.outputs.looked == {"final/model.bin": Found.WRITTEN}
    place.clock.now += 29
    await place.look(spec=OUTPUTS)
    assert place.store.asked == []
    place.clock.now += 1
    place.store.listed = listed("final/tokens-1", age=246)
    seen = await place.look(spec=OUTPUTS)
    assert place.store.asked == [f"ages {OF_RUN}final/tokens-"]
    assert seen.outputs.looked["final/tokens-*"] is Found.OLD, "The pod began 245 s ago."


async def test_a_list_of_outputs_that_fails_is_no_completion(place):
    place.watched()
    place.store.always = make_unreachable()
    seen = await place.look(spec=OUTPUTS)
    assert seen.outputs.looked == {"final/model.bin": make_unreachable()}
    assert seen.candidate_seconds is None


async def test_outputs_are_listed_with_the_runs_credentials_only_where_the_administrator_allows_it(place):
    place.watched()
    elsewhere = checkpoint_spec(s3={"endpointURL": "http://10.0.0.1", "credentialsSecretName": "s3-credentials"})
    seen = await place.look(spec={**OUTPUTS, "checkpoint": elsewhere})
    assert place.store.asked == []
    assert seen.outputs.looked["final/model.bin"].code == "DestinationNotAllowed"
    place.clock.now += 60
    await place.look(spec=OUTPUTS)
    assert [access.access_key for access in place.store.accesses] == ["key"]


@pytest.mark.parametrize(
    ("pods", "run"),
    [
        pytest.param((stored_pod(),), {"stop": make_stop(Phase.SAVING)}, id="in a stop"),
        pytest.param((stored_pod(exit_code=1),), {}, id="after the training has exited"),
        pytest.param((stored_pod(),), {"spec": {**OUTPUTS, "checkpoint": {"mode": "Disabled"}}}, id="without a bucket"),
        pytest.param((stored_pod(),), {"spec": {"completion": {"outputs": ["a/../b"]}}}, id="that no object can be"),
        pytest.param((stored_pod(),), {"spec": {}}, id="that are not named"),
    ],
)
async def test_no_outputs_are_listed(place, pods, run):
    place.watched(*pods)
    place.store.always = make_unreachable()
    await place.look(**{"spec": OUTPUTS, **run})
    assert not [one for one in place.store.asked if one.startswith("ages")]


async def test_a_bucket_that_hangs_holds_up_no_look(place):
    """The look goes on without the list, and is woken when it is there."""
    place.watched()
    woken, opened = asyncio.Event(), asyncio.Event()
    place.observer = place.make_observer(Defaults(allowed_destinations=LISTED), wake=lambda _: woken.set())
    answer = place.store.ages

    async def hangs(*asked):
        await opened.wait()
        return await answer(*asked)

    place.store.ages = hangs
    seen = await place.look(spec=OUTPUTS)
    assert (seen.outputs.looked, seen.runs) == ({}, True)
    opened.set()
    place.store.listed = listed("final/model.bin")
    await woken.wait()
    seen = await place.look(spec=OUTPUTS)
    assert seen.outputs.looked == {"final/model.bin": Found.WRITTEN}
    await place.observer.close()


# -- the line that completes a training ---------------------------------------------------------------------------

PRINTED = "2026-01-02T03:04:05.000000001Z DONE\n"
LOG_LINES = {"completion": {"logPatterns": ["^DONE$"], "settleSeconds": 0}}


async def test_the_log_is_searched_at_every_poll_and_only_where_patterns_are_named(place):
    place.watched()
    place.api.objects[POD]["log"] = PRINTED
    assert (await place.look()).completion_line is None
    assert f"GET {POD}/log" not in place.calls
    place.clock.now += 10
    seen = await place.look(spec=LOG_LINES)
    assert (seen.completion_line.pattern, seen.completion_line.line) == ("^DONE$", "DONE")
    place.clock.now += 5
    assert (await place.look(spec=LOG_LINES)).completion_line == seen.completion_line
    assert f"GET {POD}/log" not in place.calls, "No poll is due."
    place.clock.now += 5
    seen = await place.look(spec=LOG_LINES)
    assert f"GET {POD}/log" in place.calls
    assert seen.now - seen.completion_line.since == 10, "The line is not found again."


async def test_a_line_is_not_lost_with_the_look_that_has_read_it(place):
    """What is read after the log may fail, and then nothing of the look is remembered."""
    place.watched()
    place.api.objects[POD]["log"] = PRINTED
    await place.look(spec=LOG_LINES)
    place.memory = Memory()
    place.watched()
    assert (await place.look(spec=LOG_LINES)).completion_line.line == "DONE"


async def test_a_log_that_may_not_be_read_is_said(place):
    place.watched()
    place.api.refuse(f"GET {POD}/log", ApiError(403, "Forbidden"))
    seen = await place.look(spec=LOG_LINES)
    assert seen.completion_line.trouble.reason == "LogUnreadable"


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_the_log_of_a_training_that_has_exited_completes_nothing(place, exit_code):
    place.watched(stored_pod(exit_code=exit_code))
    place.api.objects[POD]["log"] = PRINTED
    assert (await place.look(spec=LOG_LINES)).completion_line is None


async def test_another_process_that_leads_forgets_what_was_read(place):
    place.watched()
    place.api.objects[POD]["log"] = PRINTED
    await place.look(spec=LOG_LINES)
    place.observer.forget_all()
    place.api.objects[POD]["log"] = PRINTED.replace("DONE", "starts")
    place.knows(completion_line=None, next_reading_at=0)
    assert (await place.look(spec=LOG_LINES)).completion_line.pattern == ""


# -- GPUs ---------------------------------------------------------------------------------------------------------


class Exporter:
    """Shows one idle GPU of every pod."""

    def __init__(self):
        self.asked = []

    async def of(self, namespace, pod):
        self.asked.append((namespace, pod))
        return Gpus(1000.0, (Gpu(0.0, 61.5),))


@pytest.mark.parametrize(
    ("url", "run", "read"),
    [
        pytest.param("http://dcgm.gpu-operator.svc:9400/metrics", {}, True, id="a training runs"),
        pytest.param("", {}, False, id="the installation names no exporter"),
        pytest.param(
            "http://dcgm.gpu-operator.svc:9400/metrics",
            {"spec": {"idleDetection": {"forSeconds": 0}}},
            False,
            id="it is off",
        ),
        pytest.param(
            "http://dcgm.gpu-operator.svc:9400/metrics",
            {"stop": make_stop(Phase.DRAINING)},
            False,
            id="a stop is decided",
        ),
    ],
)
async def test_the_gpus_of_a_training_are_read_only_where_they_may_decide(place, url, run, read):
    exporter = Exporter()
    defaults = Defaults(allowed_destinations=LISTED, gpu_exporter=url)
    place.observer = place.make_observer(defaults, gpus=exporter)
    place.watched()
    seen = await place.look(**run)
    assert exporter.asked == ([(NAMESPACE, stored_pod()["metadata"]["name"])] if read else [])
    assert (seen.idle is not None) == read

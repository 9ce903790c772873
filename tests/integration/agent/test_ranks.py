"""Two agents of two ranks against a real S3 server: one commit for both, proven by the operator, restored by each."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration.agent.checkpoints import hf_checkpoint
from integration.agent.pods import BUCKET, Pod, wait_for

from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.checkpoints.keys import order_of_manifest
from trainingrun_operator.core.facts.bucket import Mismatch, Verified
from trainingrun_operator.edge.gather.store import Access, Store

# A machine with much else to do takes a minute to start some agents.
pytestmark = [pytest.mark.s3, pytest.mark.timeout(400)]

QUIET_SECONDS = 1.5
"""Several looks of rank 0 at what the other holds."""


@pytest.fixture
def ranks(make_pod):
    """Two pods of an Indexed Job, each with a volume of its own."""

    def make(name: str, rank: int, **options):
        return make_pod(name, folder=f"node-{name}", rank=rank, world_size=2, **options)

    return make


@pytest.fixture
def prove(server, store):
    """The operator's proof of a commit, all of it read now."""

    def prove(commit) -> Verified | Mismatch:
        async def ask():
            reader = Store(threads=4)
            access = Access(server.endpoint_url, server.region, server.access_key, server.secret_key)
            try:
                return await reader.verify(access, store.layout, store.layout.commit(commit.order))
            finally:
                reader.close()

        answer = asyncio.run(ask())
        assert isinstance(answer, Verified | Mismatch), answer
        return answer

    return prove


def committed(store, count: int = 1):
    return wait_for(lambda: found if len(found := store.commits()) >= count else None)


def held(pod: Pod, step: int):
    """Wait until the bucket has this rank's checkpoint."""
    return pod.reports(lambda report: report.manifest and report.manifest.step == step).manifest


def both_hold(store, first: Pod, second: Pod, step: int):
    """Both ranks save; return each one's files and the commit."""
    files = [hf_checkpoint(pod.volume, step) for pod in (first, second)]
    commit = wait_for(lambda: next((one for one in store.commits() if one.checkpoint.step == step), None))
    return *files, commit


def test_the_commit_comes_when_both_hold_the_same_checkpoint_and_names_both_manifests(ranks, store, prove):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    mine = hf_checkpoint(first.volume, 100)
    assert held(first, 100).key.startswith(f"{store.layout.base}r0/i1-g0001-llm-0.")
    waiting = first.reports(lambda report: report.lagging)
    assert (waiting.rank, waiting.world_size, waiting.lagging) == (0, 2, (1,))
    hf_checkpoint(second.volume, 50)
    held(second, 50)
    time.sleep(QUIET_SECONDS)
    assert store.commits() == [], "Nothing is committed that one rank lacks."
    theirs = hf_checkpoint(second.volume, 100)
    (commit,) = committed(store)
    manifests = [first.reports(lambda report: report.commit).manifest, held(second, 100)]
    assert [(ref.rank, ref.incarnation, ref.key) for ref in commit.ranks] == [
        (rank, 1, seen.key) for rank, seen in enumerate(manifests)
    ]
    assert (commit.world_size, commit.checkpoint.step, commit.reason, commit.final) == (2, 100, "checkpoint", False)
    assert [store.content(commit, rank) for rank in (0, 1)] == [mine, theirs]
    assert commit.total_files == len(mine) + len(theirs)
    proven = prove(commit)
    assert isinstance(proven, Verified)
    assert proven.uri == f"s3://{BUCKET}/{store.layout.base}r0/i1-g0001-llm-0/checkpoint-100/"
    for pod in (first, second):
        report = pod.reports(lambda report: not report.lagging)
        assert report.error is None, "Neither fences the other."
        assert report.incarnation == 1
    assert second.report().commit is None, "Only rank 0 commits."


def test_the_proof_refuses_a_commit_of_which_a_manifest_or_an_object_of_any_rank_is_missing(ranks, store, prove):
    *_, commit = both_hold(store, ranks("llm-0", 0).start(), ranks("llm-1", 1).start(), 100)
    assert isinstance(prove(commit), Verified)
    for rank in (0, 1):
        for key in (store.manifest(commit, rank).files[0].key, commit.ranks[rank].key):
            body = store.read(key)
            store.s3.delete_object(Bucket=BUCKET, Key=key)
            refused = prove(commit)
            assert isinstance(refused, Mismatch)
            assert "is not in the bucket" in refused.complaint
            assert key in refused.complaint
            store.s3.put_object(Bucket=BUCKET, Key=key, Body=body, ChecksumAlgorithm="CRC64NVME")
            assert isinstance(prove(commit), Verified)


def test_a_second_incarnation_of_a_rank_fences_the_first_of_that_rank_alone(ranks, store, prove):
    first, old = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    both_hold(store, first, old, 100)
    new = ranks("llm-1-b", 1).start()
    new.reports(lambda report: report.incarnation == 2)
    old.reports(lambda report: report.error and report.error.code == "Fenced")
    hf_checkpoint(old.volume, 200)
    hf_checkpoint(first.volume, 200)
    held(first, 200)
    time.sleep(QUIET_SECONDS)
    assert len(store.commits()) == 1, "The fenced one ships nothing more."
    hf_checkpoint(new.volume, 200)
    _, commit = committed(store, 2)
    assert [(ref.rank, ref.incarnation) for ref in commit.ranks] == [(0, 1), (1, 2)]
    assert isinstance(prove(commit), Verified)
    assert first.report().error is None
    old.signal(signal.SIGTERM)
    assert old.wait() == 1
    written = {order for key in store.keys("r1/") if (order := order_of_manifest(key))}
    assert written == {(1, 1), (2, 1)}


def test_a_restarted_rank_0_claims_the_next_incarnation_and_commits_in_it(ranks, store):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    both_hold(store, first, second, 100)
    first.kill()
    again = ranks("llm-0-b", 0).start()
    again.reports(lambda report: report.incarnation == 2)
    *_, commit = both_hold(store, again, second, 200)
    assert (commit.incarnation, [ref.incarnation for ref in commit.ranks]) == (2, [2, 1])
    assert second.report().error is None


def test_a_request_is_answered_once_every_rank_has_answered_it(ranks, store, prove):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    both_hold(store, first, second, 100)
    save = SaveRequest(id="t1", ended=True, status="user_stop")
    first.annotate(save=save)
    first.reports(lambda report: report.manifest and report.manifest.id == "t1" and report.lagging == (1,))
    time.sleep(QUIET_SECONDS)
    assert len(store.commits()) == 1
    assert first.report().working_on == "t1"
    second.annotate(save=save)
    _, commit = committed(store, 2)
    assert (commit.termination_id, commit.attempt, commit.final, commit.status) == ("t1", 1, True, "user_stop")
    assert [store.manifest(commit, rank).answer for rank in (0, 1)] == [("t1", 1, True)] * 2
    assert isinstance(prove(commit), Verified)
    first.reports(lambda report: report.working_on is None)
    for pod in (first, second):
        pod.signal(signal.SIGTERM)
        assert pod.wait() == 0
    assert len(store.commits()) == 2, "The last word had been spoken."


def test_sigterm_of_both_ends_in_one_final_commit_and_rank_0_waits_for_it(ranks, store):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    for pod in (first, second):
        pod.reports(lambda report: report.incarnation)
        hf_checkpoint(pod.volume, 100)
    first.signal(signal.SIGTERM)
    first.reports(lambda report: report.manifest and report.manifest.final)
    second.signal(signal.SIGTERM)
    assert (second.wait(), first.wait()) == (0, 0)
    last = store.commits()[-1]
    assert (last.reason, last.final, last.checkpoint.step) == ("sigterm", True, 100)


def test_ranks_that_end_with_different_checkpoints_are_told_and_nothing_is_committed(ranks, store):
    first, second = ranks("llm-0", 0), ranks("llm-1", 1)
    hf_checkpoint(first.volume, 200)
    hf_checkpoint(second.volume, 100)
    for pod in (first, second):
        pod.annotate(save=SaveRequest(id="t1", ended=True))
        pod.start()
    report = first.reports(lambda report: report.error and report.error.code == "RanksDiffer")
    assert "rank 1 ended with checkpoint-100, rank 0 with checkpoint-200" in report.error.message
    assert store.commits() == []


def test_while_another_rank_lags_rank_0_asks_more_and_more_seldom(ranks, store, proxy):
    first, second = ranks("llm-0", 0, endpoint=proxy.url).start(), ranks("llm-1", 1).start()
    second.reports(lambda report: report.incarnation)
    hf_checkpoint(first.volume, 100)
    first.reports(lambda report: report.lagging == (1,))
    before, began = len(proxy.seen), time.monotonic()
    time.sleep(5)
    looks = [request for request in proxy.seen[before:] if request.method == "GET" and "%2Fr1%2F" in request.query]
    # Two LISTs a look, a look a second at most: `ranks_max` of the test's pace.
    assert 2 <= len(looks) <= 2 * (time.monotonic() - began + 1)
    hf_checkpoint(second.volume, 100)
    committed(store)
    first.reports(lambda report: report.commit)
    before = len(proxy.seen)
    time.sleep(2)
    assert not [request for request in proxy.seen[before:] if "%2Fr1%2F" in request.query], (
        "Nothing is left to wait for."
    )


def test_each_rank_gets_its_own_files_back_and_both_go_back_when_one_cannot(ranks, store):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    both_hold(store, first, second, 100)
    mine, theirs, newest = both_hold(store, first, second, 200)

    def restored(name: str) -> list[dict[str, bytes]]:
        pods = [ranks(f"{name}-{rank}", rank) for rank in (0, 1)]
        with ThreadPoolExecutor() as together:
            assert list(together.map(Pod.restore, pods)) == [0, 0]
        found = []
        for pod in pods:
            paths = pod.volume.glob("checkpoint-*/*")
            files = {str(path.relative_to(pod.volume)): path.read_bytes() for path in paths}
            found.append(files | {"step": pod.resume_from().rpartition("-")[2].encode()})
        return found

    assert restored("new") == [mine | {"step": b"200"}, theirs | {"step": b"200"}]
    lost = store.manifest(newest, 1).files[0].key
    store.s3.delete_object(Bucket=BUCKET, Key=lost)
    assert [one["step"] for one in restored("newer")] == [b"100", b"100"], (
        "Or they would train on from different steps."
    )


def test_a_commit_of_another_number_of_ranks_is_not_restored(ranks, store, make_pod):
    both_hold(store, ranks("llm-0", 0).start(), ranks("llm-1", 1).start(), 100)
    third = make_pod("llm-2", folder="node-3", rank=2, world_size=3)
    assert third.restore() == 0
    assert not (third.control / "resume_from").exists()
    assert "it is of 2 ranks, the run has 3" in third.log.read_text()


def test_a_rank_that_the_run_does_not_have_is_refused(make_pod):
    pod = make_pod("llm-2", folder="node-3", rank=2, world_size=2).start()
    assert pod.wait() != 0
    assert "JOB_COMPLETION_INDEX is 2; the run has 2 ranks, expected 0 to 1" in pod.log.read_text()


def test_documents_say_step_and_epoch_where_the_checkpoints_name_does(ranks, store):
    first, second = ranks("llm-0", 0).start(), ranks("llm-1", 1).start()
    for pod in (first, second):
        folder = pod.volume / "epoch=3-step=1200"
        folder.mkdir()
        (folder / "weights.dat").write_bytes(b"x" * 100)
    (commit,) = committed(store)
    said = json.loads(store.read(store.layout.commit(commit.order)))["checkpoint"]
    assert (said["step"], said["epoch"]) == (1200, 3)

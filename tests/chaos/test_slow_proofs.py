"""Stories whose buckets answer slowly: each look whose proof is not made yet is put off, and faults strike in between."""

from __future__ import annotations

import asyncio

import pytest
from chaos import edge, process
from chaos.__main__ import story_seed
from chaos.scenario import drawn
from chaos.story import Story

from trainingrun_operator.controller import reconciler
from trainingrun_operator.edge.gather.bucket import BucketAnswer
from trainingrun_operator.edge.gather.stop_proofs import ProvingError, StopProofs

STORIES = 15


@pytest.fixture
def put_off(monkeypatch):
    """Let no look wait for a proof. Returns how many were put off, by run uid."""
    counted = []

    class Proofs(StopProofs[BucketAnswer]):
        async def answer(self, uid, namespace, question, prove):
            try:
                return await super().answer(uid, namespace, question, prove)
            except ProvingError:
                counted.append(uid)
                raise

    class Process(process.Process):
        def __init__(self, *parts):
            super().__init__(*parts)
            self.observer._bucket_reader._stops = Proofs(self.due.wake, patience_seconds=0)

    monkeypatch.setattr("chaos.story.Process", Process)
    # The loop of a story stands still between two looks, and with it the proofs.
    monkeypatch.setattr(reconciler, "PROVING_SECONDS", 1.0)
    return counted


@pytest.mark.parametrize("turns", [pytest.param(12, id="for one look"), pytest.param(40, id="for several looks")])
def test_looks_that_proofs_put_off_lose_double_and_stick_nothing(monkeypatch, put_off, turns):
    find = edge.Bucket.find

    async def slow(bucket, *asked, **how):
        # What the bucket has when the proof begins.
        answer = await find(bucket, *asked, **how)
        for _ in range(turns):
            await asyncio.sleep(0)
        return answer

    monkeypatch.setattr(edge.Bucket, "find", slow)
    bad = {}
    for number in range(STORIES):
        seed = story_seed(9, number)
        account = Story(drawn(seed)).tell()
        if not account.good:
            bad[seed] = account
    assert bad == {}
    assert len(put_off) > 10 * STORIES

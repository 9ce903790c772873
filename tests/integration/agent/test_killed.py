"""The agent is killed before and after every single write of its last save, started again, and one whole commit answers (I2, I10)."""

from __future__ import annotations

import re
from functools import partial

import pytest
from integration.agent.checkpoints import MIB, hf_checkpoint
from integration.agent.pods import Pod, Store, wait_for
from integration.agent.proxy import Do, Proxy, Request

from trainingrun_operator.api.exchange import SaveRequest

pytestmark = pytest.mark.s3

SAVE = SaveRequest(id="stop-1", attempt=1, ended=True)
SIDES = {"before it is forwarded": Do.REFUSE, "before it is answered": Do.LOSE_ANSWER}


def write_of(request: Request, store: Store) -> str:
    """A write by the same name in every run; empty for what only reads."""
    if request.method not in {"PUT", "POST", "DELETE"}:
        return ""
    where = request.path.partition(store.layout.base)[2]
    return f"{request.method} {where} {re.sub(r'uploadId=[^&]*', 'uploadId', request.query)}".strip()


def save(pod: Pod, size: int) -> dict[str, bytes]:
    """The training has left a checkpoint and ended; the agent that starts now is asked for it. Returns what the commit must hold."""
    files = hf_checkpoint(pod.volume, 100, size)
    pod.annotate(save=SAVE)
    pod.start()
    return files


def answers(store: Store):
    return [commit for commit in store.commits() if commit.termination_id == SAVE.id]


def gone(pod: Pod, killed: list[str]) -> bool:
    return bool(killed) and pod.process is not None and pod.process.poll() is not None


def every_write(make_pod, store: Store, proxy: Proxy, size: int) -> list[str]:
    """Of a save that nobody disturbs; of one with a large file, those that only a large file needs."""
    pod = make_pod(folder="clean", endpoint=proxy.url)
    files = save(pod, size)
    (commit,) = wait_for(lambda: answers(store))
    assert store.content(commit) == files
    pod.kill()
    names = dict.fromkeys(write_of(request, store) for request in proxy.seen)
    return [name for name in names if name and (size < MIB or " upload" in name or "partNumber" in name)]


@pytest.mark.parametrize(("size", "count"), [(1000, 7), (17 * MIB, 4)], ids=["small files", "a file in parts"])
@pytest.mark.parametrize("side", SIDES)
def test_killed_at_every_write_of_a_save_one_whole_commit_answers(make_pod, server, store, proxy, side, size, count):
    writes = every_write(make_pod, store, proxy, size)
    assert len(writes) == count, writes
    for number, write in enumerate(writes):
        place = Store(server)
        pod = make_pod(folder=f"node-{number}", endpoint=proxy.url, store=place)
        killed: list[str] = []

        def rule(request: Request, write=write, pod=pod, place=place, killed=killed) -> Do:
            if killed or write_of(request, place) != write:
                return Do.PASS
            killed.append(write)
            if SIDES[side] is Do.REFUSE:
                pod.kill()
            return SIDES[side]

        proxy.rule, proxy.lost = rule, pod.kill
        files = save(pod, size)
        wait_for(partial(gone, pod, killed))
        wait_for(lambda: not proxy.under_way)
        assert not answers(place) or "commits/" in write
        before = place.etags()
        pod.start()
        (commit,) = wait_for(partial(answers, place))
        pod.reports(lambda report: report.commit and report.error is None)
        pod.kill()
        assert len(answers(place)) == 1
        assert place.content(commit) == files, f"killed {side}: {write}"
        assert before.items() <= place.etags().items(), "What was written stays as it was."

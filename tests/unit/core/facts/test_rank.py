"""Pods by rank, and what is said of a rank."""

from __future__ import annotations

import pytest
from builders import exited_pod, finished_pod, make_agent, make_observed, make_pod, make_rank, pending_pod

from trainingrun_operator.core.facts.rank import Rank, by_rank

A, B, C = make_pod(uid="a"), make_pod(uid="b", rank=1), make_pod(uid="c")


@pytest.mark.parametrize(
    ("pods", "world_size", "groups"),
    [
        pytest.param((), 1, ((),), id="none yet"),
        pytest.param((), 2, ((), ()), id="none yet of two"),
        pytest.param((A, C), 1, ((A, C),), id="a replacement beside the pod that it replaces"),
        pytest.param((A, B, C), 2, ((A, C), (B,)), id="two ranks"),
        pytest.param((B,), 3, ((), (B,), ()), id="the others are not there yet"),
        pytest.param((A, B), None, ((A,), (B,)), id="the workload is gone: as many as have pods"),
        pytest.param((), None, ((),), id="the workload is gone, and so are its pods"),
        pytest.param((A, B), 1, ((A, B),), id="a rank beyond the world counts as the last"),
        pytest.param((A,), 0, ((A,),), id="there is always rank 0"),
    ],
)
def test_pods_by_rank(pods, world_size, groups):
    assert by_rank(pods, world_size) == groups


def test_the_newest_pod_of_a_rank_is_the_last():
    rank = Rank.of(1, (A, C))
    assert (rank.number, rank.pod, rank.earlier, rank.pods) == (1, C, (A,), (A, C))
    assert (Rank.of(0, ()).pod, Rank.of(0, ()).pods) == (None, ())


@pytest.mark.parametrize(
    ("pod", "runs", "crashed"),
    [
        pytest.param(None, False, False, id="no pod"),
        pytest.param(pending_pod(), False, False, id="waiting"),
        pytest.param(make_pod(), True, False, id="training"),
        pytest.param(exited_pod(0), False, False, id="complete"),
        pytest.param(exited_pod(1), False, True, id="crashed"),
        pytest.param(exited_pod(1, gate_open=True), False, False, id="let go already"),
        pytest.param(finished_pod(1), False, False, id="over"),
    ],
)
def test_where_a_rank_stands(pod, runs, crashed):
    rank = make_rank(pod=pod)
    assert (rank.runs, rank.crashed) == (runs, crashed)


def test_reports_are_known_only_when_every_agent_has_answered():
    both = (make_rank(0), make_rank(1, report=make_agent(files=7)))
    seen = make_observed(ranks=both)
    assert seen.reports is not None
    assert [report.files for report in seen.reports] == [3, 7]
    assert make_observed(ranks=(both[0], make_rank(1, report=None))).reports is None


def test_a_run_runs_as_long_as_any_rank_does():
    assert make_observed(ranks=(make_rank(0, pod=exited_pod(0)), make_rank(1))).runs
    assert not make_observed(ranks=(make_rank(0, pod=exited_pod(0)), make_rank(1, pod=None))).runs

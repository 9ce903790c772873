"""Which objects in the bucket show that a training has written its outputs, and when they are looked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    POD_UID,
    WALL,
    checkpoint_spec,
    exited_pod,
    make_agent,
    make_found,
    make_observed,
    make_pod,
    make_rank,
    make_run,
    make_unreachable,
    make_workload,
)

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core import acceptance, outputs
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.outputs import Found, Looked, Outputs
from trainingrun_operator.core.rules import completion
from trainingrun_operator.core.rules.chain import why_end

LAYOUT = Layout.of("s3://bucket/runs", "ml", "bert", "0a1b-uid")
MODEL = "final/model.safetensors"
TOKENS = "tokenizer/*.json"
PODS = (POD_UID,)
WRITTEN = Outputs(PODS, {MODEL: Found.WRITTEN})
SAVED = make_agent(last_change_seconds=30)


@pytest.mark.parametrize(
    ("output", "keys", "shown"),
    [
        pytest.param(MODEL, {MODEL: 10}, Found.WRITTEN, id="the object itself"),
        pytest.param(MODEL, {}, Found.MISSING, id="nothing"),
        pytest.param(MODEL, {MODEL + ".tmp": 10}, Found.MISSING, id="a name that only begins alike"),
        pytest.param(MODEL, {"final/modelXsafetensors": 10}, Found.MISSING, id="a dot is a dot"),
        pytest.param(MODEL, {MODEL: 700}, Found.OLD, id="an object of before the training"),
        pytest.param(MODEL, {MODEL: 600}, Found.OLD, id="an object of the second in which it began"),
        pytest.param(TOKENS, {"tokenizer/a.json": 700, "tokenizer/b.json": 10}, Found.WRITTEN, id="one of several is new"),
        pytest.param(TOKENS, {"tokenizer/a/b.json": 10}, Found.MISSING, id="a * stands for no slash"),
        pytest.param("shard-?.bin", {"shard-1.bin": 10}, Found.WRITTEN, id="a ? stands for one character"),
        pytest.param("shard-?.bin", {"shard-10.bin": 10}, Found.MISSING, id="and not for two"),
        pytest.param("shard-?.bin", {"shard-/.bin": 10}, Found.MISSING, id="nor for a slash"),
        pytest.param("final (1)+.bin", {"final (1)+.bin": 10}, Found.WRITTEN, id="signs of patterns are literal"),
        pytest.param("0*/*/*", {"0a1b-uid/commits/i1-g0001.json": 10}, Found.MISSING, id="what the agent writes does not count"),
        pytest.param("0*/*", {"0ther-uid/model.bin": 10}, Found.WRITTEN, id="another folder that begins alike"),
    ],
)  # fmt: skip
def test_what_a_list_shows(output, keys, shown):
    ages = [(LAYOUT.of_run + key, age) for key, age in keys.items()]
    assert outputs.found(LAYOUT, output, ages, 600, more=False) is shown


def test_keys_outside_the_runs_folder_do_not_count_whatever_the_server_sends():
    ages = [(key, 1.0) for key in (MODEL, f"runs/other/bert/{MODEL}", f"runs/ml/bert-2/{MODEL}", f"/{MODEL}", "")]
    assert outputs.found(LAYOUT, MODEL, ages, 600, more=False) is Found.MISSING


def test_a_list_that_was_cut_is_no_proof_that_nothing_is_there():
    old, new = [(LAYOUT.of_run + MODEL, 700.0)], [(LAYOUT.of_run + MODEL, 7.0)]
    assert outputs.found(LAYOUT, MODEL, old, 600, more=True) is Found.TOO_MANY
    assert outputs.found(LAYOUT, MODEL, new, 600, more=True) is Found.WRITTEN


def test_a_pattern_of_many_stars_is_matched_in_linear_time():
    """A matcher that backtracks does not come to an end."""
    output = "a" + "*a" * 120
    ages = [(LAYOUT.of_run + "a" * 900 + "b", 1.0)] * 1000
    assert outputs.found(LAYOUT, output, ages, 600, more=False) is Found.MISSING


@pytest.mark.parametrize(
    ("output", "prefix"), [(MODEL, MODEL), (TOKENS, "tokenizer/"), ("a?b*", "a"), ("shard-*-?", "shard-")]
)
def test_the_list_begins_with_the_literal_text_in_the_runs_folder(output, prefix):
    assert outputs.prefix(LAYOUT, output) == f"runs/ml/bert/{prefix}"


@pytest.mark.parametrize("output", ["a/../b", "a/..", "a/./b", "a//b", "a/", "a/../../other/final"])
def test_outputs_that_no_object_can_be_are_refused(output):
    run = make_run(spec={"completion": {"outputs": [MODEL, output]}})
    problem = acceptance.complaint(run, (), Defaults())
    assert problem is not None
    assert problem.reason == "InvalidOutputs"
    assert f"outputs[1] is {output!r}" in problem.message
    assert acceptance.while_running(run.spec) == problem


def test_outputs_of_a_run_without_a_bucket_are_refused():
    run = make_run(spec={"completion": {"outputs": [MODEL]}, "checkpoint": checkpoint_spec(mode="Disabled")})
    problem = acceptance.complaint(run, (), Defaults())
    assert problem is not None
    assert problem.reason == "InvalidOutputs"


# -- when ---------------------------------------------------------------------------------------------------------


def test_the_time_between_two_lists_grows_while_nothing_is_found():
    known, now, waits = Outputs(), 0.0, []
    for _ in range(6):
        assert known.due([MODEL], PODS, now) == MODEL
        known = known.fold([MODEL], PODS, Looked(MODEL, PODS, Found.MISSING), now)
        waits.append(known.next_at - now)
        assert known.due([MODEL], PODS, known.next_at - 1) is None
        now = known.next_at
    assert waits == [30, 60, 120, 240, 300, 300]


def test_after_a_find_the_next_one_is_looked_for_soon():
    named = [MODEL, TOKENS]
    known = Outputs(PODS, {}, wait=300).fold(named, PODS, Looked(MODEL, PODS, Found.WRITTEN), 0)
    assert known.due(named, PODS, 29) is None
    assert known.due(named, PODS, 30) == TOKENS
    known = known.fold(named, PODS, Looked(TOKENS, PODS, Found.WRITTEN), 30)
    assert known.missing(named) == ()
    assert known.due(named, PODS, 9999) is None


def test_outputs_are_listed_in_turn():
    named, known, asked = ["a", "b", "c"], Outputs(), []
    for number in range(5):
        due = known.due(named, PODS, number * 1000)
        assert due is not None
        asked.append(due)
        shown = Found.WRITTEN if due == "b" else make_unreachable()
        known = known.fold(named, PODS, Looked(due, PODS, shown), number * 1000)
    assert asked == ["a", "b", "c", "a", "c"]


def test_a_new_pod_and_a_changed_spec_undo_what_was_found():
    assert WRITTEN.due([MODEL], PODS, 0) is None
    assert WRITTEN.due([MODEL], ("another",), 0) == MODEL
    assert WRITTEN.fold([MODEL], ("another",), None, 0) == Outputs(("another",))
    assert WRITTEN.fold([TOKENS], PODS, None, 0).looked == {}
    late = Looked(MODEL, ("before",), Found.WRITTEN)
    assert Outputs(PODS).fold([MODEL], PODS, late, 0) == Outputs(PODS), "A list that was begun for an earlier pod."
    assert Outputs(PODS).fold([TOKENS], PODS, replace(late, pods=PODS), 0) == Outputs(PODS)


# -- the rule -----------------------------------------------------------------------------------------------------


def trains(known=WRITTEN, named=(MODEL,), **fields):
    spec = {"autoStopLoss": -1, "completion": {"outputs": list(named)}}
    return make_observed(**{"run": make_run(spec=spec), "outputs": known, "agent": SAVED, **fields})


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(trains(), "Settling", id="all are written"),
        pytest.param(trains(Outputs()), "NotListedYet", id="none was looked for"),
        pytest.param(trains(Outputs(PODS, {MODEL: Found.MISSING})), "NotWritten", id="it is not there"),
        pytest.param(trains(Outputs(PODS, {MODEL: Found.OLD})), "OldOutput", id="it is older than the pod"),
        pytest.param(trains(Outputs(PODS, {MODEL: Found.TOO_MANY})), "TooManyKeys", id="too many keys begin alike"),
        pytest.param(trains(Outputs(PODS, {MODEL: make_unreachable()})), "AccessDenied", id="a list that failed is no completion"),
        pytest.param(trains(named=(MODEL, TOKENS)), "NotListedYet", id="one of two is written"),
        pytest.param(trains(agent=None), "NoReport", id="an agent that does not answer"),
        pytest.param(trains(agent=make_agent(newest=None)), "NoCheckpoint", id="no checkpoint"),
        pytest.param(trains(agent=make_agent(newest=make_found(step=None, age_seconds=1e6))), "Settling", id="any complete checkpoint"),
        pytest.param(trains(agent=make_agent(unfinished=make_found(complete=False))), "StillWritten", id="a checkpoint that is being written"),
        pytest.param(trains(agent=make_agent(last_change_seconds=1)), "StillWritten", id="a file that grows"),
        pytest.param(trains(ranks=(make_rank(report=SAVED), make_rank(1, pod=exited_pod(1, rank=1), report=SAVED))), "RankCrashed", id="another rank has crashed"),
        pytest.param(trains(pods=(exited_pod(1),)), None, id="after an exit with an error"),
        pytest.param(trains(agent=make_agent(markers=(MarkerSeen(name="done", age_seconds=5),))), None, id="the marker says so already"),
        pytest.param(trains(named=()), None, id="none is named"),
    ],
)  # fmt: skip
def test_outputs(seen, reason):
    found = completion.outputs(seen)
    assert (found.reason if found else None) == reason
    end = completion.outputs(replace(seen, candidate_seconds=300))
    assert bool(end and end.fires) == (reason == "Settling")
    assert not (found and found.fires), "It settles first."


def test_the_end_names_the_outputs():
    found = why_end(trains(candidate_seconds=300))
    assert found is not None
    assert (found.rule, found.status, found.inferred, found.evidence[0].value) == (
        "outputs",
        "auto_complete",
        True,
        MODEL,
    )


def test_outputs_settle_over_looks():
    run = make_run(spec={"autoStopLoss": -1, "completion": {"outputs": [MODEL]}})
    facts = Facts(run, WALL, workload=make_workload(), pods=(make_pod(),), reports={0: SAVED})
    written = replace(facts, looked=Looked(MODEL, PODS, Found.WRITTEN))
    memory, seen = remember(Memory(), written, NOW)
    assert why_end(seen) is None
    memory, seen = remember(memory, facts, NOW + 299)
    assert why_end(seen) is None
    _, seen = remember(memory, facts, NOW + 300)
    found = why_end(seen)
    assert found is not None
    assert found.rule == "outputs"

"""The gates before a node goes, and the phases of its way back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NODE_UID,
    OPERATION,
    PROVIDER_ID,
    RUN_UID,
    WALL,
    exited_pod,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_refusal,
    make_run,
    make_status,
    make_stop,
    occupant,
    pending_pod,
    releasing,
)

from trainingrun_operator.api.status import NodePhase, Phase, RefusalKind
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.effects import (
    DeleteNode,
    RecordEvent,
    RecordNodes,
    ReleaseMachine,
    TaintNode,
    UntaintNode,
)
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts
from trainingrun_operator.core.node_pools import recorded
from trainingrun_operator.core.release import POOL_RETURN_SECONDS, Gate, gate_of, ghosts, overdue

UNTAINT, TAINT = UntaintNode("gpu-1", NODE_UID), TaintNode("gpu-1", NODE_UID)
RELEASE, DELETE = ReleaseMachine("a100", PROVIDER_ID, "gpu-1", NODE_UID, OPERATION), DeleteNode("gpu-1", NODE_UID)
IN_USE, WAIT_IDLE, CORDONED = NodePhase.IN_USE, NodePhase.WAIT_IDLE, NodePhase.CORDONED
RELEASING, VERIFYING = NodePhase.RELEASING, NodePhase.VERIFYING
RELEASED, RETAINED = NodePhase.RELEASED, NodePhase.RETAINED

OTHERS = occupant("notebook")
LATER = occupant("gpt-abcde", run_uid="later-run")
EVERY_PHASE = [pytest.param(p, id=p.value) for p in NodePhase if p not in (RELEASED, RETAINED)]


def facts(**fields):
    return make_node_facts(**fields)


def tainted(**fields):
    return facts(**{"tainted_by": RUN_UID, **fields})


def gone(**fields):
    """No Node of this name and uid any more."""
    return facts(**{"uid": None, "provider_id": "", **fields})


def look(phase, found, *, node=None, **observed):
    """What becomes of the only node: its new record, and the effects besides writing it."""
    seen = releasing(make_node(phase, **(node or {})), found, **observed)
    effects = decide(seen).effects
    records = [effect.nodes[0] for effect in effects if isinstance(effect, RecordNodes)]
    rest = [effect for effect in effects if not isinstance(effect, RecordNodes)]
    return (records[0] if records else seen.run.status.nodes[0]), rest


# -- WaitIdle -----------------------------------------------------------------------------------------------------

EMPTY = "Empty: tainted; checked once more before its release."
GOES = "The machine is being terminated; waiting until machine and Node are gone."
NODE_GONE = "The Node is gone; releasing the machine."
TAKEN = "Handed over: another run already releases this node."
ORPHANED = "The taint of run gone, which does not exist any more, is removed: all checks start again."
AT_MINIMUM = "Kept: GPUNodePool a100 is at its minimum."
KEPT_FOR = "Kept for team/notebook, which waits for a node like this."
UNLISTED = "The pods on this node could not be listed: it counts as occupied."


@pytest.mark.parametrize("phase", [pytest.param(IN_USE, id="in use"), pytest.param(WAIT_IDLE, id="waiting")])
@pytest.mark.parametrize(
    ("found", "more", "becomes", "message"),
    [
        pytest.param(facts(), {}, CORDONED, EMPTY, id="empty: it is tainted"),
        pytest.param(tainted(), {}, CORDONED, EMPTY, id="empty and tainted by us before a crash: it goes on"),
        pytest.param(
            facts(occupants=(OTHERS,)), {}, WAIT_IDLE, "Occupied by team/notebook.", id="a foreign pod keeps it"
        ),
        pytest.param(facts(occupants=None), {}, WAIT_IDLE, UNLISTED, id="a failed list counts as occupied"),
        pytest.param(
            facts(occupants=(LATER,)),
            {},
            RETAINED,
            "Handed over: team/gpt-abcde still runs on it and releases it when it ends.",
            id="a later run takes it over",
        ),
        pytest.param(
            facts(occupants=(LATER,)),
            {"ending_runs": frozenset({"later-run"})},
            WAIT_IDLE,
            "Occupied by team/gpt-abcde.",
            id="both runs end: no leak, this one waits",
        ),
        pytest.param(
            facts(occupants=(LATER, OTHERS)),
            {},
            WAIT_IDLE,
            "Occupied by team/gpt-abcde, team/notebook.",
            id="a later run and a foreign pod: nobody takes it over",
        ),
        pytest.param(facts(tainted_by="other-run"), {}, RETAINED, TAKEN, id="another run is releasing it"),
        pytest.param(facts(at_minimum=True), {}, RETAINED, AT_MINIMUM, id="at the minimum it is not even tainted"),
        pytest.param(facts(demand=(OTHERS,)), {}, WAIT_IDLE, KEPT_FOR, id="a waiting pod keeps it"),
        pytest.param(
            facts(instance=Instance.UNKNOWN, refusal=make_refusal("AccessDenied")),
            {},
            WAIT_IDLE,
            "The provider of GPUNodePool a100 does not report the state of this machine. AccessDenied",
            id="a machine that nobody knows is not touched",
        ),
        pytest.param(gone(), {}, RELEASING, NODE_GONE, id="its Node is gone: the machine must go too"),
        pytest.param(facts(instance=Instance.GONE), {}, VERIFYING, GOES, id="the machine is gone already"),
        pytest.param(facts(instance=Instance.TERMINATING), {}, VERIFYING, GOES, id="the cloud is taking it"),
    ],
)
def test_when_idle(phase, found, more, becomes, message):
    node, effects = look(phase, found, **more)
    assert (node.phase, node.message, effects) == (becomes, message, [])
    assert node.phase_at == (make_node().phase_at if becomes is phase else WALL)


@pytest.mark.parametrize(
    ("phase", "seconds", "becomes"),
    [
        pytest.param(IN_USE, 99_999, WAIT_IDLE, id="time in use does not count"),
        pytest.param(WAIT_IDLE, 7199, WAIT_IDLE, id="as long as the pool allows"),
        pytest.param(WAIT_IDLE, 7200, CORDONED, id="and no longer"),
    ],
)
def test_waiting_demand_keeps_an_empty_node(phase, seconds, becomes):
    node, _ = look(phase, facts(demand=(OTHERS,)), seconds=seconds)
    assert (node.phase, node.waited_out) == (becomes, becomes is CORDONED)


def test_demand_that_was_waited_out_is_not_asked_again_after_the_taint():
    node, effects = look(CORDONED, tainted(demand=(OTHERS,)), node={"waited_out": True}, seconds=10)
    assert (node.phase, effects) == (RELEASING, [])


# -- Cordoned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "seconds", "becomes", "message", "wanted"),
    [
        pytest.param(facts(), 99, CORDONED, "", [TAINT], id="first it is tainted"),
        pytest.param(tainted(), 9, CORDONED, "", [], id="then it settles"),
        pytest.param(tainted(), 10, RELEASING, "Empty after the taint: releasing the machine.", [], id="empty after the taint"),
        pytest.param(tainted(occupants=(OTHERS,)), 10, WAIT_IDLE, "Occupied by team/notebook.", [UNTAINT], id="a pod arrived after the taint"),
        pytest.param(facts(occupants=(OTHERS,)), 10, WAIT_IDLE, "Occupied by team/notebook.", [], id="a pod arrived before the taint: none is taken back"),
        pytest.param(tainted(occupants=None), 10, WAIT_IDLE, UNLISTED, [UNTAINT], id="a failed list counts as occupied"),
        pytest.param(tainted(demand=(OTHERS,)), 10, WAIT_IDLE, KEPT_FOR, [UNTAINT], id="a pod waits for it since"),
        pytest.param(
            tainted(occupants=(LATER,)),
            10,
            RETAINED,
            "Handed over: team/gpt-abcde still runs on it and releases it when it ends.",
            [UNTAINT],
            id="a later run came first: handed over without our taint",
        ),
        pytest.param(facts(tainted_by="other-run"), 10, RETAINED, TAKEN, [], id="another run was faster: its taint stays"),
        pytest.param(gone(), 10, RELEASING, NODE_GONE, [], id="its Node is gone"),
        pytest.param(
            tainted(instance=Instance.UNKNOWN),
            10,
            WAIT_IDLE,
            "The provider of GPUNodePool a100 does not report the state of this machine.",
            [UNTAINT],
            id="the provider went silent",
        ),
    ],
)  # fmt: skip
def test_when_settled(found, seconds, becomes, message, wanted):
    node, effects = look(CORDONED, found, seconds=seconds)
    assert (node.phase, node.message, effects) == (becomes, message, wanted)


def test_the_taint_is_taken_back_before_the_record_is_written():
    seen = releasing(make_node(CORDONED), tainted(occupants=(OTHERS,)))
    assert [type(effect) for effect in decide(seen).effects] == [UntaintNode, RecordNodes]


# -- Releasing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "seconds", "becomes", "message", "wanted"),
    [
        pytest.param(tainted(), 0, RELEASING, "", [RELEASE], id="exactly this machine is asked to go"),
        pytest.param(gone(), 0, RELEASING, "", [RELEASE], id="also without its Node"),
        pytest.param(tainted(instance=Instance.UNKNOWN), 0, RELEASING, "", [RELEASE], id="also if nobody knows how it is"),
        pytest.param(tainted(instance=Instance.TERMINATING), 0, VERIFYING, GOES, [], id="it goes"),
        pytest.param(tainted(instance=Instance.GONE), 0, VERIFYING, GOES, [], id="it is gone"),
        pytest.param(tainted(at_minimum=True), 0, RETAINED, AT_MINIMUM, [UNTAINT], id="the pool came to its minimum"),
        pytest.param(gone(at_minimum=True), 0, RELEASING, "", [RELEASE], id="a machine without a Node is no node of the minimum"),
        pytest.param(tainted(occupants=(OTHERS,)), 0, WAIT_IDLE, "Occupied by team/notebook.", [UNTAINT], id="a pod tolerates everything"),
        pytest.param(tainted(occupants=None), 0, WAIT_IDLE, UNLISTED, [UNTAINT], id="a failed list counts as occupied"),
        pytest.param(facts(), 0, WAIT_IDLE, "Its taint was removed: all checks start again.", [], id="somebody took the taint away"),
        pytest.param(tainted(refusal=make_refusal("Throttled")), 0, RELEASING, "Throttled", [], id="what the provider answers is said first"),
        pytest.param(tainted(refusal=make_refusal("Throttled")), 900, RELEASING, "Overdue. Throttled", [], id="overdue is said"),
    ],
)  # fmt: skip
def test_releasing(found, seconds, becomes, message, wanted):
    node, effects = look(RELEASING, found, seconds=seconds)
    assert (node.phase, node.message, effects) == (becomes, message, wanted)


@pytest.mark.parametrize("kind", list(RefusalKind))
@pytest.mark.parametrize("phase", [CORDONED, RELEASING, VERIFYING])
def test_the_kind_of_a_refusal_is_told_while_the_node_is_on_its_way_back(phase, kind):
    node, _ = look(phase, tainted(instance=Instance.UNKNOWN, refusal=make_refusal("No.", kind)))
    assert (node.phase is RETAINED, node.refusal) == (False, kind)
    node, _ = look(phase, tainted(instance=Instance.UNKNOWN), node={"refusal": kind})
    assert node.refusal is None, "It refuses nothing any more."


def test_a_node_that_is_kept_or_gone_is_refused_nothing():
    node, _ = look(VERIFYING, gone(instance=Instance.GONE), node={"refusal": RefusalKind.DENIED})
    assert (node.phase, node.refusal) == (NodePhase.RELEASED, None)


def test_every_attempt_of_a_release_is_the_same_operation():
    (first,), (again,) = (look(phase, tainted(), seconds=5)[1] for phase in (RELEASING, RELEASING))
    assert first == again == RELEASE


def test_what_the_provider_answers_does_not_end_the_asking():
    said = {"message": "Throttled", "refusal": RefusalKind.RETRYABLE}
    node, effects = look(RELEASING, tainted(refusal=make_refusal("Throttled")), node=said)
    assert (node.message, effects) == ("Throttled", [RELEASE])


STUCK = "Overdue. Its termination was requested, and it still exists."


# -- Verifying ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "seconds", "becomes", "message", "wanted"),
    [
        pytest.param(gone(instance=Instance.GONE), 0, RELEASED, "Machine and Node are gone.", [], id="gone, gone: released"),
        pytest.param(tainted(instance=Instance.GONE), 299, VERIFYING, "", [], id="gone, present: the cloud removes the Node"),
        pytest.param(tainted(instance=Instance.GONE), 300, VERIFYING, "", [DELETE], id="gone, present for long: it is deleted"),
        pytest.param(tainted(), 0, VERIFYING, "Termination requested again.", [], id="running, present: said"),
        pytest.param(tainted(refusal=make_refusal("Throttled")), 900, VERIFYING, "Overdue. Termination requested again. Throttled", [], id="running, present for long: overdue"),
        pytest.param(gone(), 0, VERIFYING, "A machine without a Node still runs and is billed. Termination requested again.", [], id="running, gone: a ghost machine"),
        pytest.param(gone(), 900, VERIFYING, "Overdue. A machine without a Node still runs and is billed. Termination requested again.", [], id="a ghost for long"),
        pytest.param(tainted(instance=Instance.UNKNOWN), 899, VERIFYING, "", [], id="unknown, present: for a while"),
        pytest.param(tainted(instance=Instance.UNKNOWN, refusal=make_refusal("Throttled")), 900, VERIFYING, f"{STUCK} Throttled", [], id="unknown, present: for ever, overdue"),
        pytest.param(gone(instance=Instance.UNKNOWN), 99_999, VERIFYING, f"{STUCK} The cloud reports this state of the machine: Unknown.", [], id="unknown, gone: for ever, overdue"),
        pytest.param(tainted(instance=Instance.TERMINATING), 899, VERIFYING, "", [], id="still going"),
        pytest.param(tainted(instance=Instance.TERMINATING), 900, VERIFYING, f"{STUCK} The cloud reports this state of the machine: Terminating.", [], id="going for long: overdue"),
        pytest.param(facts(), 0, WAIT_IDLE, "Its taint was removed: all checks start again.", [], id="running again without our taint"),
        pytest.param(tainted(occupants=(OTHERS,)), 0, WAIT_IDLE, "Occupied by team/notebook.", [UNTAINT], id="running again with a pod on it"),
    ],
)  # fmt: skip
def test_verifying(found, seconds, becomes, message, wanted):
    node, effects = look(VERIFYING, found, seconds=seconds)
    assert (node.phase, node.message, effects) == (becomes, message, wanted)
    assert (node.released_at is not None) == (becomes is RELEASED)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(tainted(), "Termination requested again.", id="running, present"),
        pytest.param(
            gone(),
            "A machine without a Node still runs and is billed. Termination requested again.",
            id="running, gone",
        ),
    ],
)
def test_a_machine_that_stays_is_asked_again_by_id(found, message):
    _, effects = look(VERIFYING, found, node={"message": message})
    assert effects == [RELEASE]


@pytest.mark.parametrize(
    ("phase", "found", "is_one"),
    [
        pytest.param(VERIFYING, gone(), True, id="its Node is gone and it runs"),
        pytest.param(VERIFYING, tainted(), False, id="its Node is there"),
        pytest.param(VERIFYING, gone(instance=Instance.TERMINATING), False, id="it is going"),
        pytest.param(VERIFYING, None, False, id="it was not looked at"),
        pytest.param(RELEASING, gone(), False, id="it was not told to go yet"),
    ],
)
def test_a_machine_is_a_ghost(phase, found, is_one):
    node = make_node(phase)
    assert ghosts(releasing(node, found)) == ((node,) if is_one else ())


@pytest.mark.parametrize(
    ("node", "seconds", "is_one"),
    [
        pytest.param(make_node(RELEASING), 899, False, id="not yet"),
        pytest.param(make_node(RELEASING), 900, True, id="after alertAfterSeconds of its pool"),
        pytest.param(make_node(VERIFYING), 900, True, id="whether machine or Node stays"),
        pytest.param(make_node(WAIT_IDLE), 9999, False, id="never while somebody is on it"),
        pytest.param(make_node(VERIFYING, pool="gone"), 9999, False, id="never by a pool that nobody knows"),
    ],
)
def test_a_node_is_overdue(node, seconds, is_one):
    assert overdue(releasing(node, tainted(), seconds=seconds)) == ((node,) if is_one else ())


# -- from when a wait counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "found", "gate"),
    [
        pytest.param(WAIT_IDLE, facts(), Gate.IDLE, id="idle: empty"),
        pytest.param(WAIT_IDLE, facts(occupants=(OTHERS,)), None, id="idle: not while somebody is on it"),
        pytest.param(WAIT_IDLE, facts(occupants=None), None, id="idle: not while nobody knows"),
        pytest.param(CORDONED, tainted(), Gate.TAINTED, id="settling: from our taint"),
        pytest.param(CORDONED, facts(), None, id="settling: not before the taint is there"),
        pytest.param(CORDONED, facts(tainted_by="other-run"), None, id="settling: not by another's taint"),
        pytest.param(VERIFYING, facts(instance=Instance.GONE), Gate.MACHINE_GONE, id="its Node's removal: from when the machine is gone"),
        pytest.param(VERIFYING, facts(instance=Instance.TERMINATING), None, id="its Node's removal: not while the machine goes"),
        pytest.param(IN_USE, facts(instance=Instance.GONE), Gate.MACHINE_GONE, id="in use: a machine that has gone under the run"),
        pytest.param(IN_USE, facts(), None, id="in use: not while its machine runs"),
        pytest.param(RELEASING, facts(), None, id="releasing: waits for nothing"),
        pytest.param(WAIT_IDLE, None, None, id="nothing is seen of it"),
        pytest.param(WAIT_IDLE, facts(pool_missing=True), Gate.POOL_MISSING, id="idle: a missing pool comes first"),
        pytest.param(RELEASING, facts(pool_missing=True), Gate.POOL_MISSING, id="releasing: its pool is missing"),
        pytest.param(RETAINED, facts(pool_missing=True), None, id="kept: waits for nothing"),
    ],
)  # fmt: skip
def test_what_a_phase_waits_through(phase, found, gate):
    assert gate_of(RUN_UID, make_node(phase), found) is gate


@pytest.mark.parametrize(
    ("phase", "found"),
    [
        pytest.param(WAIT_IDLE, facts(demand=(OTHERS,)), id="idle time, not time in the phase"),
        pytest.param(CORDONED, tainted(), id="time since the taint"),
        pytest.param(VERIFYING, tainted(instance=Instance.GONE), id="time since the machine has gone"),
    ],
)
def test_a_long_phase_is_not_a_long_wait(phase, found):
    node, effects = look(phase, found, node_seconds={NODE_UID: 99_999}, gate_seconds={NODE_UID: 0})
    assert (node.phase, effects) == (phase, [])


# -- a machine that is gone before the run ends ---------------------------------------------------------------------


def training_on(found, seconds, phase=IN_USE):
    run = make_run(status=make_status(nodes=(make_node(phase),)))
    return make_observed(run=run, pods=(make_pod(lost=True),), nodes=(found,), gate_seconds={NODE_UID: seconds})


@pytest.mark.parametrize(
    ("found", "seconds", "wanted"),
    [
        pytest.param(facts(instance=Instance.GONE), 299, [], id="its Node is left to the cloud for a while"),
        pytest.param(
            facts(instance=Instance.GONE), 300, [DELETE], id="then it is removed, so that the pod is replaced"
        ),
        pytest.param(facts(instance=Instance.RUNNING), 99_999, [], id="never while the machine runs"),
        pytest.param(facts(instance=Instance.UNKNOWN), 99_999, [], id="never while nobody knows"),
        pytest.param(facts(instance=Instance.GONE, uid=None), 300, [], id="it is removed already"),
        pytest.param(facts(instance=Instance.GONE, name="gpu-2"), 300, [], id="another node is none of it"),
    ],
)
def test_the_node_of_a_machine_that_died_under_a_training(found, seconds, wanted):
    assert [effect for effect in decide(training_on(found, seconds)).effects if effect == DELETE] == wanted


def test_a_node_on_its_way_back_is_removed_on_that_way_only():
    assert DELETE not in decide(training_on(facts(instance=Instance.GONE), 300, phase=RELEASED)).effects


# -- a Node that was made anew --------------------------------------------------------------------------------------


def test_a_machine_is_followed_to_its_new_node_and_looked_at_again():
    node, effects = look(RELEASING, facts(uid="anew", occupants=(OTHERS,)))
    assert (node.uid, node.phase, effects) == ("anew", WAIT_IDLE, [])
    assert node.message == "Its Node was recreated: all checks start again."


def test_a_machine_that_is_recorded_under_its_new_node_is_released_once():
    old, new = make_node(WAIT_IDLE), make_node(WAIT_IDLE, uid="anew")
    status = make_status(termination=make_stop(Phase.RELEASING), nodes=(old, new))
    seen = make_observed(
        run=make_run(status=status), pods=(), workload=None, nodes=(facts(uid="anew"), facts(uid="anew"))
    )
    (record,) = decide(seen).effects
    assert isinstance(record, RecordNodes)
    assert [node.phase for node in record.nodes] == [RETAINED, CORDONED]
    assert record.nodes[0].message == "A newer Node of the same machine is also recorded."


def test_another_machine_of_the_same_name_is_not_followed():
    node, effects = look(WAIT_IDLE, facts(uid="another", provider_id="aws:///us-east-1a/i-0fedcba9876543210"))
    assert (node.uid, node.phase, effects) == (NODE_UID, WAIT_IDLE, [])


# -- kept on purpose ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_never_keeps_the_node_and_takes_our_taint_back(phase):
    node, effects = look(phase, tainted(), spec={"nodePool": {"policy": "Never"}})
    assert (node.phase, node.message, effects) == (RETAINED, "Kept: spec.nodePool.policy is Never.", [UNTAINT])


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(facts(), id="without a taint"),
        pytest.param(facts(tainted_by="other-run"), id="with the taint of another run"),
        pytest.param(gone(tainted_by=RUN_UID), id="without a Node"),
        pytest.param(None, id="without anything seen"),
    ],
)
def test_no_other_taint_is_taken_back(found):
    node, effects = look(CORDONED, found, spec={"nodePool": {"policy": "Never"}})
    assert (node.phase, effects) == (RETAINED, [])


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_an_operator_that_may_not_release_nodes_any_more_waits_for_none_of_them(phase):
    node, effects = look(phase, NodeFacts(name="gpu-1"), pools=(), defaults=Defaults(release_nodes=False))
    assert (node.phase, effects) == (RETAINED, [])
    kept = "Kept: this operator does not release nodes (nodeRelease.enabled of its chart)."
    tainted = phase in (CORDONED, RELEASING, VERIFYING)
    assert node.message == kept + (
        " It may still have the taint trainingrun.dev/releasing: remove it." if tainted else ""
    )


# -- a node whose pool is not known -------------------------------------------------------------------------------

OPEN, FENCED = make_pool("open"), make_pool("fenced", namespaceSelector={"matchLabels": {"team": "others"}})
H100 = make_pool("h100", nodeSelector={"pool": "h100"})


@pytest.mark.parametrize(
    ("found", "spec", "pools", "message"),
    [
        pytest.param(facts(), {}, (), "Kept: no GPUNodePool selects it for namespace ml.", id="there is no pool"),
        pytest.param(facts(), {}, (H100,), "Kept: no GPUNodePool selects it for namespace ml.", id="the only pool selects others"),
        pytest.param(
            facts(),
            {},
            (H100, FENCED),
            "Kept: no GPUNodePool selects it for namespace ml. fenced would, but not for this namespace (spec.namespaceSelector).",
            id="the pool that selects it is not for this namespace",
        ),
        pytest.param(
            facts(),
            {},
            (OPEN, H100, make_pool()),
            "Kept: GPUNodePools a100, open all select it for namespace ml: only one may, or name one in spec.nodePool.ref.",
            id="two pools select it",
        ),
        pytest.param(
            facts(),
            {"nodePool": {"ref": "h100"}},
            (OPEN, H100),
            "Kept: spec.nodePool.ref is 'h100', which does not select it for namespace ml. open would.",
            id="the named pool does not select it, another would",
        ),
        pytest.param(
            facts(),
            {"nodePool": {"ref": "h100"}},
            (H100,),
            "Kept: spec.nodePool.ref is 'h100', which does not select it for namespace ml.",
            id="the named pool does not select it",
        ),
        pytest.param(
            gone(),
            {},
            (),
            "Kept: its Node is gone, and no GPUNodePool selected it while the run used it.",
            id="its Node is gone",
        ),
        pytest.param(
            None,
            {},
            (),
            "Kept: its Node is gone, and no GPUNodePool selected it while the run used it.",
            id="it was not looked at",
        ),
    ],
)  # fmt: skip
def test_a_node_of_no_pool_is_kept_and_the_pools_are_named(found, spec, pools, message):
    node, effects = look(IN_USE, found, node={"pool": ""}, spec=spec, pools=pools)
    assert (node.phase, node.message, effects) == (RETAINED, message, [])


MISSING = "GPUNodePool 'a100' does not exist, or its spec is not valid for this operator"


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_deleted_pool_is_waited_for_and_the_node_does_not_stay_tainted_without_a_request(phase):
    node, effects = look(phase, tainted(pool_missing=True), pools=(), seconds=POOL_RETURN_SECONDS - 1)
    cordoned = phase is CORDONED
    assert (node.phase, effects) == (WAIT_IDLE if cordoned else phase, [UNTAINT] if cordoned else [])
    assert (
        node.message == f"{MISSING}: the node's provider is unknown. If it is not back within 300 s, the node is kept."
    )


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_node_whose_pool_stays_deleted_is_kept_without_our_taint(phase):
    node, effects = look(phase, tainted(pool_missing=True), pools=(), seconds=POOL_RETURN_SECONDS)
    asked = " Its termination may have been requested already." if phase in (RELEASING, VERIFYING) else ""
    kept = (
        f"Kept: {MISSING}, so the node's provider is unknown.{asked} Its machine may still run and be billed: release it yourself if it is"
        " not needed."
    )
    told = RecordEvent("PoolMissing", f"Node gpu-1: {kept}", warning=True)
    assert (node.phase, node.message, effects) == (RETAINED, kept, [UNTAINT, told])


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_an_abandoned_node_of_a_deleted_pool_loses_our_taint(phase):
    seen = releasing(make_node(phase), tainted(instance=Instance.UNKNOWN, pool_missing=True), pools=())
    run = make_run(status=seen.run.status, abandoned_by="field manager 'kubectl-annotate'")
    untaint, record, *_ = decide(replace(seen, run=run)).effects
    assert isinstance(record, RecordNodes)
    assert (untaint, record.nodes[0].phase) == (UNTAINT, RETAINED)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(facts(pool_missing=True), id="no taint"),
        pytest.param(tainted(pool_missing=True, tainted_by="other-run"), id="another run's"),
        pytest.param(gone(pool_missing=True), id="no Node"),
    ],
)
def test_nothing_else_is_taken_off_a_node_of_a_deleted_pool(found):
    node, effects = look(CORDONED, found, pools=(), seconds=POOL_RETURN_SECONDS)
    assert (node.phase, [effect for effect in effects if isinstance(effect, UntaintNode)]) == (RETAINED, [])


def test_a_deleted_pool_that_is_back_continues_the_release():
    node, _ = look(CORDONED, tainted(pool_missing=True), pools=())
    node, effects = look(WAIT_IDLE, facts(), node={"message": node.message})
    assert (node.phase, effects) == (CORDONED, [])


def test_the_taint_is_taken_off_the_node_that_has_it():
    recreated = facts(uid="anew", tainted_by=RUN_UID, pool_missing=True)
    _, effects = look(RELEASING, recreated, pools=(), seconds=POOL_RETURN_SECONDS)
    assert UntaintNode("gpu-1", "anew") in effects


@pytest.mark.parametrize(
    ("found", "more"),
    [
        pytest.param(tainted(at_minimum=True), {}, id="at the minimum"),
        pytest.param(tainted(occupants=(LATER,)), {}, id="handed over"),
    ],
)
@pytest.mark.parametrize("phase", [IN_USE, WAIT_IDLE])
def test_a_kept_node_never_keeps_our_taint(phase, found, more):
    """The status of a restored backup may be older than the taint."""
    node, effects = look(phase, found, **more)
    assert (node.phase, effects) == (RETAINED, [UNTAINT])


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_node_that_was_not_looked_at_is_left_alone(phase):
    assert look(phase, None) == (make_node(phase), [])


@pytest.mark.parametrize("phase", [pytest.param(RELEASED, id="released"), pytest.param(RETAINED, id="retained")])
def test_a_settled_node_is_looked_at_no_more(phase):
    status = make_status(
        termination=make_stop(Phase.RELEASING), nodes=(make_node(phase), make_node(uid="other", name="gpu-2"))
    )
    seen = make_observed(run=make_run(status=status), pods=(), nodes=(facts(occupants=(OTHERS,)),))
    assert decide(seen).effects == ()


def test_a_name_that_was_used_again_is_another_machine():
    old = make_node(CORDONED, uid="old", provider_id="aws:///i-old")
    new = make_node(CORDONED, uid="new", provider_id="aws:///i-new")
    status = make_status(termination=make_stop(Phase.RELEASING), nodes=(old, new))
    seen = make_observed(
        run=make_run(status=status),
        pods=(),
        nodes=(gone(provider_id="aws:///i-old"), tainted(uid="new", provider_id="aws:///i-new")),
    )
    record = decide(seen).effects[0]
    assert isinstance(record, RecordNodes)
    assert [(node.uid, node.phase) for node in record.nodes] == [("old", RELEASING), ("new", CORDONED)]


def test_what_a_provider_answers_is_cut_to_what_the_status_can_say():
    node, _ = look(RELEASING, tainted(refusal=make_refusal("x" * 99_999)))
    assert len(node.message) == 4000


# -- who the node is ----------------------------------------------------------------------------------------------

SPARE = make_pool("spare", nodeSelector={"pool": "a100"})


@pytest.mark.parametrize(
    ("spec", "pools", "pool"),
    [
        pytest.param({}, (make_pool(),), "a100", id="the one pool that selects it"),
        pytest.param({}, (make_pool(nodeSelector={"pool": "h100"}),), "", id="no pool selects it"),
        pytest.param({}, (make_pool(), SPARE), "", id="two pools select it"),
        pytest.param({"nodePool": {"ref": "spare"}}, (make_pool(), SPARE), "spare", id="the run names one of two"),
        pytest.param({"nodePool": {"ref": "other"}}, (make_pool(),), "", id="the run names another"),
        pytest.param({}, (make_pool(), FENCED), "a100", id="the other of two does not allow the namespace"),
        pytest.param(
            {"nodePool": {"ref": "fenced"}}, (FENCED,), "", id="the run names one that does not allow the namespace"
        ),
    ],
)
def test_identity_is_recorded_while_the_pod_is_on_the_node(spec, pools, pool):
    seen = make_observed(run=make_run(spec=spec), pools=pools, nodes=(facts(),))
    assert decide(seen).effects == (RecordNodes((make_node(pool=pool, phase_at=WALL),)),)


@pytest.mark.parametrize(
    ("phase", "labels", "pool"),
    [
        pytest.param(IN_USE, {"pool": "a100"}, "a100", id="a pool that came later is written down"),
        pytest.param(IN_USE, {}, "", id="one that does not select the node is not"),
        pytest.param(RETAINED, {"pool": "a100"}, "", id="nor for a node that was kept for want of one"),
    ],
)
def test_a_node_without_a_pool_gets_one_while_it_is_in_use(phase, labels, pool):
    run = make_run(status=make_status(nodes=(make_node(phase=phase, pool=""),)))
    decision = decide(make_observed(run=run, nodes=(facts(labels=labels),)))
    found = [node.pool for effect in decision.effects if isinstance(effect, RecordNodes) for node in effect.nodes]
    assert found == ([pool] if pool else [])


@pytest.mark.parametrize(
    ("phase", "pools", "pool"),
    [
        pytest.param(IN_USE, (OPEN,), "open", id="the pool that selects it now"),
        pytest.param(IN_USE, (H100,), "old", id="none selects it: the old name stays"),
        pytest.param(IN_USE, (OPEN, SPARE), "old", id="two select it: the old name stays"),
        pytest.param(IN_USE, (OPEN, make_pool("old", nodeSelector={"pool": "x"})), "old", id="its pool exists: it stays"),
        pytest.param(WAIT_IDLE, (OPEN,), "old", id="its release has begun"),
    ],
)  # fmt: skip
def test_a_node_in_use_whose_pool_was_deleted_gets_the_one_that_replaces_it(phase, pools, pool):
    run = make_run(status=make_status(nodes=(make_node(phase=phase, pool="old"),)))
    (node,) = recorded(make_observed(run=run, nodes=(facts(),), pools=pools))
    assert node.pool == pool


@pytest.mark.parametrize(
    ("pods", "nodes", "found", "recorded"),
    [
        pytest.param((make_pod(),), (), facts(), True, id="its pod trains on it"),
        pytest.param(
            (pending_pod(node="gpu-1"),), (), facts(), True, id="its pod never started: the node was had all the same"
        ),
        pytest.param((exited_pod(0),), (), facts(), True, id="its pod has exited and is kept"),
        pytest.param((pending_pod(),), (), facts(), False, id="its pod is on no node"),
        pytest.param((make_pod(phase="Failed"),), (), facts(), False, id="its pod is over"),
        pytest.param((make_pod(node="gpu-2"),), (), facts(), False, id="its pod is on another"),
        pytest.param((make_pod(),), (make_node(),), facts(), False, id="it is recorded"),
        pytest.param((make_pod(),), (make_node(uid="old"),), facts(), True, id="another of the same name is recorded"),
        pytest.param((make_pod(),), (), gone(), False, id="there is no such Node"),
    ],
)
def test_a_node_is_recorded_once(pods, nodes, found, recorded):
    seen = make_observed(run=make_run(status=make_status(nodes=nodes)), pods=pods, nodes=(found,))
    assert any(isinstance(effect, RecordNodes) for effect in decide(seen).effects) == recorded


def test_of_more_nodes_than_the_status_can_hold_the_newest_are_kept():
    nodes = tuple(make_node(uid=f"n{i}", name=f"gpu-{i}") for i in range(100, 164))
    record = decide(make_observed(run=make_run(status=make_status(nodes=nodes)), nodes=(facts(),))).effects[0]
    assert isinstance(record, RecordNodes)
    assert (len(record.nodes), record.nodes[0].uid, record.nodes[-1].uid) == (64, "n101", NODE_UID)


# -- the taint of a run that does not exist any more ----------------------------------------------------------------


@pytest.mark.parametrize("phase", [IN_USE, WAIT_IDLE, CORDONED])
def test_the_taint_of_a_run_that_is_gone_hands_nothing_over(phase):
    seen = releasing(make_node(phase=phase), facts(tainted_by="gone", taint_orphaned=True))
    untaint, record = [one for one in decide(seen).effects if isinstance(one, UntaintNode | RecordNodes)]
    assert untaint == UntaintNode("gpu-1", NODE_UID, "gone")
    assert isinstance(record, RecordNodes)
    assert [(node.phase, node.message) for node in record.nodes] == [(WAIT_IDLE, ORPHANED)]
    kept = releasing(make_node(phase=phase), facts(tainted_by="there"))
    (record,) = [one for one in decide(kept).effects if isinstance(one, RecordNodes)]
    assert [(node.phase, node.message) for node in record.nodes] == [(RETAINED, TAKEN)]

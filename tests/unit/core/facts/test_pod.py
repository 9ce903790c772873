"""What the pod says: the training's state and result, whatever stands beside it and whatever else ends the pod."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import finished_pod, make_observed, make_pod, make_workload, pending_pod
from kubelet import LATER, STARTED, disrupted, ended, running, stored_pod, waiting

from trainingrun_operator.api import names
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.manifests import NO_CRASHES
from trainingrun_operator.core.rules import exits, workload
from trainingrun_operator.core.rules.chain import why_end

GATE_143, GATE_137, GATE_255 = (
    ended(143),
    ended(137),
    ended(255, reason="Unknown"),
)
EVICTED = ("Evicted", "The node was low on resource: memory.")
AGENT_MOUNTS = [
    {"name": "data", "mountPath": "/checkpoints"},
    {"name": names.CONTROL_VOLUME, "mountPath": "/control"},
    {"name": "injected", "mountPath": "/injected"},
]


def with_last_state(stored, container="train", restarts=1, **terminated):
    """The same, after an earlier run of a container."""
    (status,) = (one for one in stored["status"]["containerStatuses"] if one["name"] == container)
    status |= {"lastState": ended(**terminated) if terminated else {}, "restartCount": restarts}
    return stored


def with_rules(stored, **fields):
    """The same, whose training has restart rules of its own, as Kubernetes 1.34 allows."""
    stored["spec"]["containers"][0] |= fields
    return stored


def with_init(states, authors=("fetch",), **fields):
    """A pod with init containers of the author's in these states."""
    stored = stored_pod(init=states, **fields)
    stored["spec"]["initContainers"] += [{"name": name} for name in authors]
    return stored


def with_sidecar(stored, state, mounts=None, name="writer"):
    """The same with a native sidecar of the author's, and the agent's mounts."""
    sidecar = {"name": name, "restartPolicy": "Always"} | ({"volumeMounts": mounts} if mounts is not None else {})
    stored["spec"]["initContainers"][1]["volumeMounts"] = AGENT_MOUNTS
    stored["spec"]["initContainers"].append(sidecar)
    stored["status"]["initContainerStatuses"].append({"name": name, "state": state})
    return stored


# -- the training, whatever stands beside it ------------------------------------------------------------------


BESIDE = [
    pytest.param(running(), id="runs on"),
    pytest.param(ended(0), id="has ended"),
    pytest.param(ended(1), id="has crashed"),
    pytest.param(ended(143), id="was told to end"),
    pytest.param(waiting("ContainerCreating"), id="is being created"),
    pytest.param(waiting("ImagePullBackOff", "no such image"), id="has no image"),
    pytest.param(waiting("CreateContainerConfigError", 'secret "wandb" not found'), id="lacks a secret"),
    pytest.param(waiting("CrashLoopBackOff"), id="crashes again and again"),
    pytest.param({}, id="has no state"),
]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("order", [("istio-proxy", "train"), ("train", "istio-proxy")])
@pytest.mark.parametrize(
    ("state", "training", "code"),
    [
        pytest.param(running(), Training.RUNNING, None, id="runs"),
        pytest.param(ended(0), Training.EXITED, 0, id="complete"),
        pytest.param(ended(137, reason="OOMKilled"), Training.EXITED, 137, id="killed"),
    ],
)
def test_the_training_is_its_own_container_whatever_one_beside_it_does(state, training, code, order, beside):
    states = {"istio_proxy": beside, "train": state, "checkpoint_gate": running()}
    stored = stored_pod(authors=order, **states)
    stored["status"]["containerStatuses"].reverse()
    pod = Pod.of(stored, container="train")
    assert (pod.training, pod.result, pod.waiting_reason, pod.told_to_leave) == (training, code, "", "")
    assert workload.lacks(pod) == ""


@pytest.mark.parametrize("beside", BESIDE)
def test_a_completion_or_a_crash_is_decided_whatever_stands_beside_it(beside):
    def judged(code):
        states = {"train": ended(code), "proxy": beside, "checkpoint_gate": running()}
        seen = make_observed(pods=(Pod.of(stored_pod(authors=("train", "proxy"), **states)),))
        found = why_end(seen)
        return found.status if found else None, exits.crashes(seen)

    assert (judged(0), judged(1)) == (("auto_complete", 0), (None, 1))


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="no status"),
        pytest.param({"phase": None, "podIP": None, "containerStatuses": None, "conditions": None}, id="nulls"),
        pytest.param({"containerStatuses": [{"name": "train"}]}, id="a container without a state"),
        pytest.param({"containerStatuses": [{"name": "train", "state": None, "lastState": None}]}, id="a state of null"),
        pytest.param(
            {"containerStatuses": [{"name": "train", "state": {"running": None, "terminated": None, "waiting": {"reason": None}}}]},
            id="null in every state",
        ),
        pytest.param({"ephemeralContainerStatuses": [{"name": "debugger", "state": running()}]}, id="a debugger"),
        pytest.param({"conditions": [{"type": "PodScheduled"}, {}]}, id="conditions of few words"),
    ],
)  # fmt: skip
def test_a_status_that_says_little_says_nothing(status):
    stored = stored_pod()
    stored["metadata"] |= {"annotations": None, "deletionTimestamp": None}
    pod = Pod.of(stored | {"status": status})
    assert (pod.phase, pod.training, pod.ran, pod.waiting_reason) == ("Pending", Training.NOT_STARTED, False, "")
    assert (pod.told_to_leave, pod.ip) == ("", "")


def test_a_status_counts_without_its_spec():
    stored = stored_pod(train=ended(3), checkpoint_gate=running())
    del stored["spec"]
    assert Pod.of(stored, container="train").result == 3


def test_a_training_that_the_pod_does_not_have_has_not_started():
    pod = Pod.of(stored_pod(train=ended(0), checkpoint_gate=running()), container="trainer")
    assert (pod.training, pod.exit_code, pod.holds_files) == (Training.NOT_STARTED, None, True)


@pytest.mark.parametrize(
    ("terminated", "code", "words"),
    [
        pytest.param({"code": 0}, 0, "exit code 0", id="complete"),
        pytest.param({"code": 1, "reason": None}, 1, "exit code 1", id="no reason"),
        pytest.param({"code": 1, "message": "a message of the training"}, 1, "exit code 1", id="an error says no more"),
        pytest.param({"code": 137, "reason": "OOMKilled"}, 137, "exit code 137 (OOMKilled)", id="memory"),
        pytest.param({"code": 0, "reason": "OOMKilled"}, 0, "exit code 0 (OOMKilled)", id="a child was killed for memory"),
        pytest.param({"code": 128, "reason": "StartError", "message": "exec: pyhton: not found\n"}, 128, "exit code 128 (StartError: exec: pyhton: not found)", id="a wrong command"),
        pytest.param({"code": 127, "reason": "ContainerCannotRun"}, 127, "exit code 127 (ContainerCannotRun)", id="another runtime's word"),
        pytest.param({"code": 139, "signal": 11}, 139, "exit code 139", id="code and signal"),
        pytest.param({"code": 0, "signal": 9}, 137, "exit code 137", id="a signal alone"),
    ],
)  # fmt: skip
def test_an_exit_code_is_named_with_the_reason_if_that_says_more(terminated, code, words):
    pod = Pod.of(stored_pod(train=ended(**terminated), checkpoint_gate=running()))
    assert (pod.result, pod.exit_words) == (code, words)


def test_a_message_that_is_the_end_of_a_log_is_not_shown():
    stored = with_rules(
        stored_pod(train=ended(137, reason="OOMKilled", message="token=secret")),
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    assert Pod.of(stored).exit_words == "exit code 137 (OOMKilled)"


SECRET = "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI"  # nobody's
OF_LOG = {"terminationMessagePolicy": "FallbackToLogsOnError"}


def of_log(stored, container="containers", **more):
    stored["spec"][container][-1 if container == "initContainers" else 0] |= OF_LOG | more
    return stored


def without_spec(stored):
    del stored["spec"]["containers"][0]
    return stored


def again(stored):
    """Its training waits for its next run, in the same pod."""
    stored["status"]["containerStatuses"][0] |= {
        "state": waiting("CrashLoopBackOff", "back-off 10s restarting failed container"),
        "lastState": ended(137, reason="OOMKilled", message=SECRET),
        "restartCount": 1,
    }
    return stored


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(of_log(stored_pod(train=ended(1, message=SECRET))), id="an error"),
        pytest.param(of_log(stored_pod(train=ended(128, reason="StartError", message=SECRET))), id="no start"),
        pytest.param(of_log(again(stored_pod(train=running()))), id="an earlier run in the pod"),
        pytest.param(
            of_log(stored_pod(phase="Failed", train=ended(137, reason="ContainerStatusUnknown", message=SECRET))),
            id="a container that the kubelet lost",
        ),
        pytest.param(
            of_log(
                with_init({"checkpoint_restore": ended(0), "fetch": ended(1, message=SECRET)}, phase="Failed"),
                "initContainers",
            ),
            id="an init container",
        ),
        pytest.param(
            without_spec(stored_pod(train=ended(137, reason="OOMKilled", message=SECRET))), id="a policy not known"
        ),
    ],
)
def test_the_end_of_a_log_is_in_nothing_that_is_read_of_a_pod(stored):
    assert SECRET in repr(stored)
    assert SECRET not in repr(Pod.of(stored, container="train"))


def test_what_a_container_writes_for_people_to_read_is_shown():
    stored = with_rules(
        stored_pod(train=ended(137, reason="OOMKilled", message="cgroup limit")), terminationMessagePolicy="File"
    )
    assert Pod.of(stored).exit_words == "exit code 137 (OOMKilled: cgroup limit)"


def test_what_the_kubelet_says_has_a_bound():
    long = "x" * 5000
    stored = stored_pod(why=("Evicted", long), train=ended(1, reason="StartError", message=long))
    stored["status"]["phase"] = "Failed"
    pod = Pod.of(stored)
    assert {len(pod.exit_reason), len(pod.told_to_leave)} == {512}
    init = {"checkpoint_restore": ended(0), "checkpoint_agent": running(), "fetch": ended(1, message=long)}
    assert len(Pod.of(with_init(init)).failure_before_start) == 512


# -- restart rules of the container ------------------------------------------------------------------------------


RESTART_ON_3 = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3, 4]}}]
RESTART_BUT_ON_0 = [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}]
BACK_OFF = waiting("CrashLoopBackOff", "back-off 10s restarting failed container")


@pytest.mark.parametrize(
    ("stored", "code", "again"),
    [
        pytest.param(with_last_state(stored_pod(train=BACK_OFF), code=3), 3, True, id="waits after a run"),
        pytest.param(with_last_state(stored_pod(train=BACK_OFF), code=0), 0, True, id="waits after a run with 0"),
        pytest.param(with_last_state(stored_pod(train=BACK_OFF)), None, True, id="waits after a run that nobody remembers"),
        pytest.param(with_last_state(stored_pod(train=waiting("PodInitializing")), code=3), 3, True, id="the whole pod starts again"),
        pytest.param(with_last_state(stored_pod(train={}), restarts=0, code=3), 3, True, id="only its last state is known"),
        pytest.param(with_rules(stored_pod(train=ended(3)), restartPolicyRules=RESTART_ON_3), 3, True, id="a rule starts it again"),
        pytest.param(with_rules(stored_pod(train=ended(1)), restartPolicyRules=RESTART_ON_3), 1, False, id="no rule for this code"),
        pytest.param(with_rules(stored_pod(train=ended(1)), restartPolicyRules=RESTART_BUT_ON_0), 1, True, id="a rule for all other codes"),
        pytest.param(with_rules(stored_pod(train=ended(0)), restartPolicyRules=RESTART_BUT_ON_0), 0, False, id="and its exception"),
        pytest.param(with_rules(stored_pod(train=ended(3)), restartPolicyRules=[{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}}]), 3, True, id="a rule that restarts the pod in place"),
        pytest.param(with_rules(stored_pod(train=ended(3)), restartPolicyRules=[{}, {"exitCodes": {"operator": "Later", "values": [3]}}]), 3, False, id="rules of a later version"),
        pytest.param(with_rules(stored_pod(train=ended(1)), restartPolicy="OnFailure"), 1, True, id="its own policy OnFailure"),
        pytest.param(with_rules(stored_pod(train=ended(0)), restartPolicy="OnFailure"), 0, False, id="OnFailure after success"),
        pytest.param(with_rules(stored_pod(train=ended(0)), restartPolicy="Always"), 0, True, id="its own policy Always"),
        pytest.param(with_rules(stored_pod(train=ended(1)), restartPolicy="Never"), 1, False, id="its own policy Never"),
        pytest.param(with_last_state(stored_pod(train=ended(1)), code=3), 1, False, id="ended for good after a restart"),
    ],
)  # fmt: skip
def test_a_training_that_its_own_rules_start_again_has_no_result(stored, code, again):
    pod = Pod.of(stored)
    assert (pod.training, pod.exit_code, pod.starts_again) == (Training.EXITED, code, again)
    assert (pod.result is None, pod.waits_behind_gate) == (again, not again)
    assert (pod.holds_files, workload.lacks(pod)) == (True, "")
    if again:
        seen = make_observed(pods=(pod,))
        assert (why_end(seen), exits.crashes(seen)) == (None, 0)


def test_a_restarted_training_that_runs_is_a_training_that_runs():
    pod = Pod.of(with_last_state(stored_pod(train=running(LATER)), code=3))
    assert (pod.training, pod.started_at, pod.exit_code, pod.starts_again) == (Training.RUNNING, LATER, None, False)


# -- told to leave -------------------------------------------------------------------------------------------------


TRACES = [
    pytest.param({"meta": {"deletionTimestamp": LATER}}, "deleted", id="deleted"),
    pytest.param({"phase": "Failed", "why": EVICTED, "conditions": [disrupted("TerminationByKubelet")]}, "Evicted: The node was low on resource: memory.", id="evicted by the kubelet"),
    pytest.param({"phase": "Failed", "conditions": [disrupted("TerminationByKubelet")]}, "TerminationByKubelet", id="the pod's own reason is lost"),
    pytest.param({"phase": "Failed", "why": ("Evicted", "Pod ephemeral local storage usage exceeds the total limit")}, "Evicted: Pod ephemeral local storage usage exceeds the total limit", id="a storage limit, without the condition"),
    pytest.param({"phase": "Failed", "why": ("Terminated", "Pod was terminated in response to imminent node shutdown.")}, "Terminated: Pod was terminated in response to imminent node shutdown.", id="its node shuts down"),
    pytest.param({"phase": "Failed", "why": ("NodeShutdown", "Node is shutting down")}, "NodeShutdown: Node is shutting down", id="refused by a node that shuts down"),
    pytest.param({"phase": "Failed", "why": ("Shutdown",)}, "Shutdown", id="an older word for it"),
    pytest.param({"phase": "Failed", "why": ("Preempting", "Preempted in order to admit critical pod")}, "Preempting: Preempted in order to admit critical pod", id="preempted by the kubelet"),
    pytest.param({"phase": "Failed", "why": ("NodeAffinity", "Predicate NodeAffinity failed")}, "NodeAffinity: Predicate NodeAffinity failed", id="its node changed its labels"),
    pytest.param({"phase": "Failed", "why": ("UnexpectedAdmissionError", "Allocate failed")}, "UnexpectedAdmissionError: Allocate failed", id="refused without a free GPU"),
    pytest.param({"phase": "Failed", "why": ("OutOfnvidia.com/gpu", "Node didn't have enough resource")}, "OutOfnvidia.com/gpu: Node didn't have enough resource", id="refused by a reason with a resource in it"),
    pytest.param({"phase": "Failed", "why": ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")}, "DeadlineExceeded: Pod was active on the node longer than the specified deadline", id="a deadline"),
    pytest.param({"why": ("Terminated",)}, "Terminated", id="a reason while it still runs"),
    pytest.param({"conditions": [disrupted("EvictionByEvictionAPI", "Eviction API: evicting")]}, "EvictionByEvictionAPI: Eviction API: evicting", id="drained"),
    pytest.param({"conditions": [disrupted("PreemptionByScheduler")]}, "PreemptionByScheduler", id="preempted by the scheduler"),
    pytest.param({"conditions": [disrupted("DeletionByTaintManager")]}, "DeletionByTaintManager", id="a taint"),
    pytest.param({"conditions": [disrupted("DeletionByPodGC")]}, "DeletionByPodGC", id="its Node is gone"),
    pytest.param({"conditions": [disrupted(None, None)]}, "DisruptionTarget", id="a condition of few words"),
    pytest.param({"gate": GATE_143}, "the gate was ended from outside, with exit code 143", id="no trace but the gate's SIGTERM"),
    pytest.param({"gate": GATE_137}, "the gate was ended from outside, with exit code 137", id="no trace but the gate's SIGKILL"),
    pytest.param({"gate": GATE_255, "phase": "Failed"}, "the gate was ended from outside, with exit code 255", id="its machine was started anew"),
]  # fmt: skip


def told(trace, code, **fields):
    """A pod that was told to leave, whose training ended with a code, or still runs."""
    fields = {**trace, **fields}
    gate = fields.pop("gate", running() if fields.get("phase") != "Failed" else GATE_143)
    return Pod.of(stored_pod(train=running() if code is None else ended(code), checkpoint_gate=gate, **fields))


@pytest.mark.parametrize("code", [0, 1, 137, 143])
@pytest.mark.parametrize(("trace", "why"), TRACES)
def test_the_exit_code_of_a_pod_that_was_told_to_leave_is_no_result(trace, why, code):
    pod = told(trace, code)
    assert (pod.told_to_leave, pod.exit_code, pod.result, pod.waits_behind_gate) == (why, code, None, False)
    for failed in (0, 3):
        seen = make_observed(pods=(pod,), workload=make_workload(failed=failed))
        assert why_end(seen) is None
        assert exits.crashes(seen) <= failed
        assert not any(isinstance(effect, Begin) for effect in decide(seen).effects)


@pytest.mark.parametrize(("trace", "why"), TRACES)
def test_a_pod_that_is_told_to_leave_may_still_train(trace, why):
    pod = told(trace, None)
    assert (pod.told_to_leave, pod.result) == (why, None)
    found = exits.exit_code(make_observed(pods=(pod,)))
    assert found is not None
    assert (found.reason, found.fires, why in found.message) == ("ToldToLeave", False, True)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({}, 0, id="no trace"),
        pytest.param({"conditions": [disrupted("PreemptionByScheduler") | {"status": "False"}]}, 0, id="a disruption that was called off"),
        pytest.param({"conditions": [{"type": "Ready", "status": "False", "reason": "PodFailed"}]}, 1, id="another condition"),
        pytest.param({"why": ("NodeInfo", "a provider's remark")}, 0, id="a remark on a pod that runs"),
        pytest.param({"gate": ended(1)}, 1, id="a gate that failed by itself"),
        pytest.param({"gate": ended(137, reason="OOMKilled")}, 0, id="a gate that ran out of memory"),
        pytest.param({"gate": ended(128, reason="StartError")}, 0, id="a gate that could not start"),
        pytest.param({"gate": ended(0), "phase": "Succeeded"}, 0, id="a pod that is over"),
    ],
)  # fmt: skip
def test_a_pod_that_nobody_told_to_leave_has_a_result(fields, code):
    pod = told(fields, code)
    assert (pod.told_to_leave, pod.result) == ("", code)


def test_a_result_that_the_kubelet_could_not_find_is_none_once_the_pod_is_over():
    unknown = ended(137, reason="ContainerStatusUnknown", message="The container could not be located")
    pod = Pod.of(stored_pod(phase="Failed", train=unknown, checkpoint_gate=waiting("ContainerCreating")))
    assert pod.told_to_leave == "ContainerStatusUnknown: The container could not be located"
    behind_gate = Pod.of(stored_pod(train=unknown, checkpoint_gate=running()))
    assert (behind_gate.result, behind_gate.exit_reason.split(":")[0]) == (137, "ContainerStatusUnknown")


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_nothing_runs_in_a_pod_that_is_over_whatever_a_container_says(phase):
    pod = Pod.of(stored_pod(phase=phase, train=running()))
    assert (pod.training, pod.exit_code, pod.result) == (Training.EXITED, None, None)
    assert why_end(make_observed(pods=(pod,))) is None


def test_a_pod_whose_status_is_gone_ends_nothing():
    left = told({"phase": "Failed", "why": EVICTED}, 0)
    assert why_end(make_observed(pods=(left,), workload=make_workload(failed=0))) is None
    assert why_end(make_observed(pods=(), agent=None, workload=make_workload(failed=0))) is None


@pytest.mark.parametrize(
    ("pod", "counted"),
    [
        pytest.param(told({"phase": "Failed", "why": EVICTED, "conditions": [disrupted("TerminationByKubelet")]}, 1), 4, id="its Job does not count it"),
        pytest.param(told({"phase": "Failed", "why": EVICTED, "gate": GATE_143}, 1), 4, id="nor one whose gate was ended"),
        pytest.param(Pod.of(stored_pod(phase="Failed", why=("UnexpectedAdmissionError", "Allocate failed"))), 3, id="its Job counts one that the kubelet refused"),
        pytest.param(finished_pod(1), 4, id="a crash counts"),
        pytest.param(finished_pod(1, gate_open=True, deleting=True), 4, id="also of a pod that was deleted after its gate was opened"),
        pytest.param(finished_pod(1, ignored=True), 5, id="and one that its Job took for a disruption"),
    ],
)  # fmt: skip
def test_a_failed_pod_that_was_told_to_leave_counts_for_nothing(pod, counted):
    seen = make_observed(pods=(pod, pending_pod(uid="next")), workload=make_workload(failed=4))
    assert (workload.failed(seen), exits.crashes(seen)) == (counted, counted)


def test_refusals_of_the_kubelet_never_fail_a_run():
    refused = [
        Pod.of(stored_pod(phase="Failed", why=("OutOfcpu", "too little"), meta={"uid": f"p{n}"})) for n in range(9)
    ]
    assert why_end(make_observed(pods=refused, agent=None, workload=make_workload(failed=9))) is None
    assert why_end(make_observed(pods=(), agent=None, workload=make_workload(failed=0))) is None


def test_the_job_ignores_every_end_of_the_gate_that_comes_from_outside():
    of_gate = {"containerName": "checkpoint-gate", "operator": "In", "values": [137, 143, 255]}
    assert (
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": of_gate},
    ) == NO_CRASHES, "The API server wants the exit codes in ascending order."
    for gate in (GATE_143, GATE_137, GATE_255):
        assert told({"phase": "Failed", "gate": gate}, 0).ignored
    assert not told({"phase": "Failed", "gate": ended(1)}, 0).ignored


# -- before the training --------------------------------------------------------------------------------------------


DONE = {"checkpoint_restore": ended(0), "checkpoint_agent": running()}
OVER = {"checkpoint_restore": ended(0), "checkpoint_agent": ended(143)}
ENDED_42 = ended(42, message="no such host\n")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        pytest.param(with_init(OVER | {"fetch": ENDED_42}, phase="Failed"), "init container fetch ended with exit code 42 (Error: no such host)", id="it failed"),
        pytest.param(with_init(DONE | {"fetch": ended(1, reason=None)}), "init container fetch ended with exit code 1", id="without a word"),
        pytest.param(with_init(DONE | {"fetch": ended(137, reason="OOMKilled")}), "init container fetch ended with exit code 137 (OOMKilled)", id="for its memory"),
        pytest.param(with_init({"checkpoint_restore": ended(2)}), "init container checkpoint-restore ended with exit code 2 (Error)", id="the restore"),
        pytest.param(with_init(DONE | {"fetch": ended(0)}), "", id="it succeeded"),
        pytest.param(with_init(DONE | {"fetch": running()}), "", id="it runs"),
        pytest.param(with_init(OVER | {"fetch": ENDED_42}, train=ended(0)), "", id="the training has run all the same"),
    ],
)  # fmt: skip
def test_an_init_container_that_fails_is_named_with_code_reason_and_message(stored, words):
    assert Pod.of(stored).failure_before_start == words


def test_an_init_container_that_fails_again_and_again_is_named_by_its_last_run():
    stored = with_sidecar(stored_pod(train=waiting("PodInitializing")), BACK_OFF)
    stored["status"]["initContainerStatuses"][-1]["lastState"] = ended(7, message="no route")
    pod = Pod.of(stored)
    assert pod.failure_before_start == "init container writer ended with exit code 7 (Error: no route)"
    assert (pod.waiting_reason, pod.training) == ("CrashLoopBackOff", Training.NOT_STARTED)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        pytest.param(stored_pod(authors=("train", "proxy"), train=waiting("ContainerCreating"), proxy=waiting("ImagePullBackOff")), "", id="a proxy keeps no training from starting"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=waiting("ErrImagePull"), proxy=waiting("CreateContainerConfigError")), "ErrImagePull", id="the training's own image"),
        pytest.param(with_init(DONE | {"fetch": waiting("ImagePullBackOff")}, train=waiting("PodInitializing")), "ImagePullBackOff", id="an init container before it"),
        pytest.param(with_sidecar(stored_pod(train=waiting("PodInitializing")), waiting("ErrImagePull")), "ErrImagePull", id="a native sidecar before it"),
        pytest.param(with_sidecar(stored_pod(train=running()), waiting("ErrImagePull")), "", id="a native sidecar that is started again without its image"),
        pytest.param(with_last_state(stored_pod(train=BACK_OFF), code=3), "CrashLoopBackOff", id="a training that is started again"),
    ],
)  # fmt: skip
def test_a_pod_waits_for_what_keeps_its_training_from_starting(stored, reason):
    assert Pod.of(stored).waiting_reason == reason


# -- who holds files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "holds"),
    [
        pytest.param(stored_pod(), False, id="nothing has run"),
        pytest.param(stored_pod(train=running()), True, id="it trains"),
        pytest.param(stored_pod(train=ended(0)), True, id="it has trained"),
        pytest.param(stored_pod(authors=("train", "second"), train=ended(0), second=waiting("ImagePullBackOff")), True, id="one has exited and another cannot start"),
        pytest.param(stored_pod(authors=("train", "second"), train=waiting("ImagePullBackOff"), second=running()), True, id="another runs"),
        pytest.param(stored_pod(authors=("train", "second"), train=waiting("ImagePullBackOff"), second=ended(0)), True, id="another ran"),
        pytest.param(with_last_state(stored_pod(train=BACK_OFF), code=1), True, id="between two runs"),
        pytest.param(with_last_state(stored_pod(train=BACK_OFF)), True, id="only counted as restarted"),
        pytest.param(with_sidecar(stored_pod(train=waiting("PodInitializing")), running()), True, id="a native sidecar runs"),
        pytest.param(with_init(DONE | {"fetch": ended(0)}), False, id="an init container ran"),
        pytest.param(stored_pod(phase="Failed", train=ended(0)), False, id="nothing of it runs"),
    ],
)  # fmt: skip
def test_a_living_pod_in_which_anything_of_the_authors_ran_may_hold_files(stored, holds):
    pod = Pod.of(stored)
    assert pod.holds_files is holds
    assert not replace(pod, lost=True).holds_files


WRITABLE = [{"name": "data", "mountPath": "/shared"}]


@pytest.mark.parametrize(
    ("state", "mounts", "writers"),
    [
        pytest.param(running(), WRITABLE, ("writer",), id="it writes"),
        pytest.param(BACK_OFF, WRITABLE, (), id="it never ran"),
        pytest.param(ended(0), WRITABLE, ("writer",), id="the kubelet starts it again"),
        pytest.param(running(), [WRITABLE[0] | {"readOnly": True}], (), id="it only reads"),
        pytest.param(running(), [{"name": "cache", "mountPath": "/cache"}], (), id="it writes elsewhere"),
        pytest.param(running(), [], (), id="a proxy"),
        pytest.param(
            running(),
            [{"name": "injected", "mountPath": "/injected"}],
            (),
            id="it has what is injected into every container",
        ),
    ],
)
def test_a_sidecar_that_mounts_the_checkpoints_may_still_write(state, mounts, writers):
    assert Pod.of(with_sidecar(stored_pod(train=ended(0)), state, mounts)).writers == writers
    assert Pod.of(with_sidecar(stored_pod(phase="Failed", train=ended(0)), state, mounts)).writers == ()


def test_a_container_beside_the_training_may_write_where_the_agents_mounts_are_not_known():
    stored = stored_pod(authors=("train", "second"), train=ended(0), second=running())
    assert Pod.of(stored).writers == ("second",)


ALONE = stored_pod(train=running(), checkpoint_gate=running())


@pytest.mark.parametrize(
    ("stored", "alone"),
    [
        pytest.param(ALONE, True, id="only agent and gate are beside it"),
        pytest.param(with_rules(stored_pod(train=running()), lifecycle={"postStart": {}}), True, id="a hook at its start"),
        pytest.param(with_init(DONE | {"fetch": ended(0)}, train=running()), True, id="an init container was before it"),
        pytest.param(stored_pod(authors=("train", "second"), train=running(), second=ended(0)), True, id="another has ended"),
        pytest.param(with_rules(stored_pod(train=running()), lifecycle={"preStop": {"sleep": {"seconds": 60}}}), False, id="its SIGTERM waits for a hook"),
        pytest.param(stored_pod(authors=("train", "second"), train=running(), second=running()), False, id="another runs"),
        pytest.param(stored_pod(authors=("train", "second"), train=running(), second=waiting("ImagePullBackOff")), False, id="another is still to start"),
        pytest.param(with_last_state(stored_pod(authors=("train", "second"), train=running(), second=BACK_OFF), container="second", code=1), False, id="another is started again"),
        pytest.param(with_sidecar(stored_pod(train=running()), running()), False, id="a native sidecar, which ends after it and before the agent"),
        pytest.param(with_sidecar(stored_pod(train=running()), ended(1)), False, id="a native sidecar that is started again"),
        pytest.param({**ALONE, "spec": {}}, False, id="its spec is not known"),
    ],
)  # fmt: skip
def test_what_uses_up_the_grace_of_a_pod_before_its_agent_ends_it(stored, alone):
    assert Pod.of(stored).trains_alone is alone


@pytest.mark.parametrize(
    ("spec", "seconds"), [pytest.param({"terminationGracePeriodSeconds": 420}, 420, id="its own"), pytest.param({}, 0, id="not known")]
)  # fmt: skip
def test_the_grace_of_a_pod(spec, seconds):
    stored = stored_pod(train=running())
    stored["spec"] |= spec
    assert Pod.of(stored).grace_seconds == seconds


def test_a_started_time_survives_a_restart():
    assert Pod.of(with_last_state(stored_pod(train=BACK_OFF), code=1)).started_at == STARTED


# -- what the training starts from ---------------------------------------------------------------------------------

SAID = {"commit": "runs/ml/bert/uid/commits/i1-g0001.json", "dir": "step_100", "step": 100}


@pytest.mark.parametrize(
    ("state", "step"),
    [
        pytest.param(ended(0, message=json.dumps(SAID)), 100, id="it says what it restored"),
        pytest.param(ended(0, message="{}"), None, id="it restored nothing"),
        pytest.param(ended(0, message=json.dumps(SAID | {"new": 1})), 100, id="a newer restore says more"),
    ],
)
def test_the_restore_container_says_what_the_training_starts_from(state, step):
    restored = Pod.of(with_init({"checkpoint_restore": state, "checkpoint_agent": running()})).restored
    assert restored is not None
    assert restored.step == step


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(running(), id="it runs"),
        pytest.param(ended(0), id="it says nothing"),
        pytest.param(ended(1, message=json.dumps(SAID)), id="it failed"),
        pytest.param(ended(0, message="no JSON"), id="other words"),
        pytest.param(ended(0, message=json.dumps(SAID | {"step": -1})), id="a step that is none"),
        pytest.param(ended(0, message=json.dumps(SAID | {"dir": "d" * 5000})), id="more than the status can hold"),
    ],
)
def test_a_restore_container_that_says_nothing_of_use(state):
    assert Pod.of(with_init({"checkpoint_restore": state, "checkpoint_agent": running()})).restored is None


@pytest.mark.parametrize(("ip", "host"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "[fd00::7]"), ("", "")])
def test_its_address_in_a_url(ip, host):
    assert make_pod(ip=ip).host == host

"""A namespace of a test's own, and the TrainingRuns in it: applied, awaited, read, and taken away again."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from e2e.api import RUNS, Api, ApiError, Json, Log, seconds_of
from e2e.audit import OPERATOR_USER, Request, end_of, requests
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE, OUTPUTS
from waiting import eventually

from trainingrun_operator.api.curve import Curve
from trainingrun_operator.api.names import CURVE_KEY, FINALIZER, curve_name
from trainingrun_operator.checkpoints.keys import Layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from e2e.bucket import Bucket
    from e2e.cloud import Cloud
    from e2e.ground import Ground

    from trainingrun_operator.checkpoints.documents import Commit

SECRET = "s3-credentials"
PREFIX = "e2e"
NAMESPACE_LABEL = "trainingrun-e2e"
WAIT_SECONDS = 300
"""For anything that a run should do by itself soon; generous, because many tests share two cores, and some take the operator away for a while."""
COMMAND_SECONDS = 240
GRACE_SECONDS = 300
"""For a training that leaves when it is asked to. The kubelet may tell it late; on time, nothing waits for the end of it."""
DUMPED_LINES = 40


def base_spec(ground: Ground) -> Json:
    """A real, small training without a GPU: it runs on the control plane, and no machine is bought for it."""
    return {
        "autoStopLoss": -1,
        "pollIntervalSeconds": 1,
        "shutdown": {"graceSeconds": GRACE_SECONDS},
        "checkpoint": {
            "destination": f"s3://{ground.bucket}/{PREFIX}",
            "s3": {"endpointURL": ground.s3_in_cluster, "credentialsSecretName": SECRET},
        },
        "nodePool": {"policy": "Never"},
        "template": {
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "fsGroup": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "train",
                        "image": ground.training_image,
                        "imagePullPolicy": "IfNotPresent",
                        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            }
        },
    }


def merged(base: Json, patch: Json) -> Json:
    """A merge patch, applied: None removes."""
    result = copy.deepcopy(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


@dataclass
class Space:
    """One test's namespace."""

    ground: Ground
    api: Api
    bucket: Bucket
    cloud: Cloud
    name: str
    folder: Path
    made: list[Run] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)
    """What was changed outside of the namespace, taken back at the end, last first."""
    explain: list[Callable[[], str]] = field(default_factory=list)
    """What else explains a failure."""
    _kubeconfig: Path | None = None
    _audited: int = 0
    """Length of the audit log before there was anything in it about this namespace."""

    def open(self) -> None:
        """Make the namespace, as strict as Kubernetes has them, with the bucket's credentials in it."""
        self._audited = end_of(self.ground.audit_log)
        labels = {NAMESPACE_LABEL: "true", "pod-security.kubernetes.io/enforce": "restricted"}
        self.api.create("/api/v1/namespaces", {"metadata": {"name": self.name, "labels": labels}})
        self.secret(SECRET)

    def secret(self, name: str, **changes: str) -> None:
        """Make a Secret with the bucket's credentials, some of them changed."""
        keys = {key: self.ground[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        data = {**keys, "ca.crt": self.ground.s3_ca, **changes}
        self.api.create(f"/api/v1/namespaces/{self.name}/secrets", {"metadata": {"name": name}, "stringData": data})

    def run(
        self,
        name: str = "run",
        *args: str,
        command: list[str] | None = None,
        gpus: int = 0,
        pod: Json | None = None,
        container: Json | None = None,
        labels: dict[str, str] | None = None,
        **spec: Any,
    ) -> Run:
        """Apply a TrainingRun of digits.py with these arguments; `spec`, `pod` and `container` are merged into what is usual."""
        whole = merged(base_spec(self.ground), spec)
        training = whole["template"]["spec"]["containers"][0] if whole["template"].get("spec") else {}
        training |= {"args": list(args)} | ({"command": command} if command else {})
        if gpus:
            training["resources"]["limits"]["nvidia.com/gpu"] = gpus
            tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
            whole["template"]["spec"]["tolerations"] = tolerations
            whole.setdefault("nodePool", {})["policy"] = "WhenEmpty"
        whole["template"]["spec"] = merged(whole["template"]["spec"], pod or {})
        if container:
            whole["template"]["spec"]["containers"][0] = merged(training, container)
        return self.apply(name, whole, labels)

    def apply(self, name: str, spec: Json, labels: dict[str, str] | None = None) -> Run:
        """Create a TrainingRun of exactly this spec."""
        body = {
            "apiVersion": "trainingrun.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": spec,
        }
        created = self.api.create(f"{RUNS}/namespaces/{self.name}/trainingruns", body)
        run = Run(self, name, created["metadata"]["uid"], created["metadata"]["resourceVersion"])
        self.made.append(run)
        return run

    # -- kubectl ----------------------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        """For a shell that stands in this namespace, so that a command can be written as people write it."""
        if self._kubeconfig is None:
            self._kubeconfig = self.folder / "kubeconfig"
            config = yaml.safe_load(self.ground.kubeconfig.read_text())
            for context in config["contexts"]:
                context["context"]["namespace"] = self.name
            self._kubeconfig.write_text(yaml.safe_dump(config))
        return {**os.environ, **self.ground.environ, "KUBECONFIG": str(self._kubeconfig)}

    def shell(self, command: str, *, fails: bool = False, seconds: float = COMMAND_SECONDS) -> str:
        """What a command prints, to both streams.

        Raises:
            AssertionError: it failed, or with `fails` did not.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"$ {command}\nleft with {done.returncode} and said:\n{said}"
        return said

    def captured(self, file: str, command: str) -> str:
        """As `shell`; what it printed is kept for the README."""
        said = self.shell(command)
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        (OUTPUTS / f"{file}.txt").write_text(f"$ {command}\n{said}")
        return said

    # -- what is in it ----------------------------------------------------------------------------------------

    def pods(self, selector: str = "") -> list[Json]:
        found = self.api.list(f"/api/v1/namespaces/{self.name}/pods", labelSelector=selector)
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def jobs(self) -> list[Json]:
        return self.api.list(f"/apis/batch/v1/namespaces/{self.name}/jobs")

    def requests(self, *parts: str) -> list[Request]:
        """Requests since this namespace was made whose entry contains all `parts`."""
        return list(requests(self.ground.audit_log, *parts, after=self._audited))

    def audit(self, verb: str, resource: str) -> list[Request]:
        """Granted requests about this namespace, by anybody; a dry run is none."""
        found = self.requests(f'"namespace":"{self.name}"', f'"verb":"{verb}"')
        return [one for one in found if one.resource == resource and 200 <= one.code < 300]

    # -- the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take everything back, without waiting: runs first, so that their finalizers find a world that still stands."""
        for run in self.made:
            stored = run.read()
            if stored is not None:
                if not _is(stored, "Finished"):
                    # A Hold ends only when somebody says so.
                    run.try_merge({"spec": {"checkpoint": {"onFailure": "Proceed"}}})
                self.api.delete(run.path)
        for step in reversed(self.undo):
            step()

    def empty(self) -> bool:
        """No run is left in it."""
        return not self.api.list(f"{RUNS}/namespaces/{self.name}/trainingruns")

    def dump(self) -> str:
        """Everything that explains a failure."""
        parts = [run.story() for run in self.made] + [_pod_story(self.api, pod) for pod in self.pods()]
        for pod in self.pods():
            # What the kubelet has projected, which may be less than what was annotated.
            read = "cat /var/run/trainingrun/podinfo/annotations"
            name = pod["metadata"]["name"]
            seen = self.shell(f"kubectl exec {name} -c checkpoint-agent -- {read} || true")
            parts.append(f"--- annotations in {name}\n{seen}")
        told = self.shell("kubectl get events --sort-by=.metadata.creationTimestamp | tail -n 40 || true")
        parts.append(f"--- events\n{told}")
        selector = f"app.kubernetes.io/instance={OPERATOR}"
        for pod in self.api.list(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods", labelSelector=selector):
            log = self.api.log(OPERATOR_NAMESPACE, pod["metadata"]["name"], "operator", tailLines="3000").splitlines()
            mine = [
                line for line in log if self.name in line or " ERROR " in line or line.startswith((" ", "Traceback"))
            ]
            parts.append(f"--- operator {pod['metadata']['name']}\n" + "\n".join(mine[-2 * DUMPED_LINES :]))
        return "\n".join([*parts, *(told() for told in self.explain)])


@dataclass
class Run:
    """One TrainingRun, by name and uid."""

    space: Space
    name: str
    uid: str
    version: str = ""
    """Its resourceVersion when the test wrote it last."""
    logs: dict[str, Log] = field(default_factory=dict)
    """Of the training in each pod that was followed, by pod name."""

    @property
    def api(self) -> Api:
        return self.space.api

    @property
    def path(self) -> str:
        return f"{RUNS}/namespaces/{self.space.name}/trainingruns/{self.name}"

    @property
    def layout(self) -> Layout:
        """Where its bytes lie in the bucket."""
        return Layout.of(f"s3://{self.space.bucket.name}/{PREFIX}", self.space.name, self.name, self.uid)

    # -- the object -------------------------------------------------------------------------------------------

    def read(self) -> Json | None:
        return self.api.get(self.path)

    @property
    def status(self) -> Json:
        stored = self.read()
        assert stored is not None, f"TrainingRun {self.name} is gone."
        return dict(stored.get("status") or {})

    def merge(self, patch: Json) -> Json:
        patched = self.api.merge(self.path, patch)
        self.version = patched["metadata"]["resourceVersion"]
        return patched

    def try_merge(self, patch: Json) -> None:
        try:
            self.merge(patch)
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise

    def wait(
        self, fits: Callable[[Json], Any], sentence: str, timeout: float = WAIT_SECONDS, *, passes: bool = False
    ) -> Json:
        """Watch it until `fits` of its status is true; returns the status.

        What `passes` by itself counts also if it has passed already since the test wrote the run last.

        Raises:
            AssertionError: it never was.
        """
        collection = f"{RUNS}/namespaces/{self.space.name}/trainingruns"
        found = self.api.wait(
            collection,
            lambda run: run is not None and fits(run.get("status") or {}),
            sentence,
            timeout,
            name=self.name,
            since=self.version if passes else "",
        )
        assert found is not None
        return dict(found["status"])

    def wait_phase(self, phase: str, timeout: float = WAIT_SECONDS) -> Json:
        return self.wait(lambda status: status.get("phase") == phase, f"{self.name} is {phase}", timeout)

    def wait_stop(self, phase: str) -> Json:
        """Until its stop has come to a phase, which it may have left again. Returns the status of then."""
        return self.wait(
            lambda status: (status.get("termination") or {}).get("phase") == phase,
            f"the stop of {self.name} is at {phase}",
            passes=True,
        )

    def wait_condition(
        self, kind: str, state: str = "True", reason: str = "", timeout: float = WAIT_SECONDS, *, passes: bool = False
    ) -> Json:
        """Returns the condition."""

        def fits(status: Json) -> bool:
            condition = condition_of(status, kind)
            return condition.get("status") == state and reason in ("", condition.get("reason"))

        status = self.wait(fits, f"{self.name} has {kind}={state} {reason}", timeout, passes=passes)
        return condition_of(status, kind)

    def wait_step(self, step: int, timeout: float = WAIT_SECONDS) -> Json:
        """Until the operator has seen that many steps."""
        return self.wait(
            lambda status: (status.get("progress") or {}).get("step", 0) >= step, f"{self.name} at step {step}", timeout
        )

    def wait_finished(self, timeout: float = WAIT_SECONDS) -> Json:
        self.wait_condition("Finished", timeout=timeout)
        return self.status

    def wait_settled(self, *, job: bool = True, timeout: float = WAIT_SECONDS) -> Json:
        """Until nothing of it is protected any more; then nothing is left but its Job, which goes with it, or not even that. Returns the status."""
        found = self.api.wait(
            f"{RUNS}/namespaces/{self.space.name}/trainingruns",
            lambda run: run and _is(run, "Finished") and FINALIZER not in (run["metadata"].get("finalizers") or ()),
            f"{self.name} is finished and free to go",
            timeout,
            name=self.name,
        )
        assert found is not None
        self.assert_ended_once()
        jobs = [
            one for one in self.space.jobs() if one["metadata"]["labels"].get("trainingrun.dev/run-uid") == self.uid
        ]
        assert len(jobs) == job, f"Its Job is {'gone' if job else 'still there'}."
        for one in jobs:
            owners = [owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()]
            assert owners == [self.uid], f"Its Job goes with {owners}."
        return dict(found["status"])

    def wait_gone(self, timeout: float = WAIT_SECONDS) -> None:
        self.api.wait(
            f"{RUNS}/namespaces/{self.space.name}/trainingruns",
            lambda run: run is None,
            f"{self.name} is gone",
            timeout,
            name=self.name,
        )

    def events(self, reason: str = "") -> list[Json]:
        found = self.api.list(
            f"/api/v1/namespaces/{self.space.name}/events", fieldSelector=f"involvedObject.uid={self.uid}"
        )
        return [event for event in found if reason in ("", event["reason"])]

    def wait_event(self, reason: str, timeout: float = WAIT_SECONDS) -> Json:
        """Events are created once, so a list is looked at again and again only until it is there."""
        found: list[Json] = eventually(lambda: self.events(reason), f"{self.name} has told {reason}", timeout)
        return found[0]

    # -- its children -----------------------------------------------------------------------------------------

    @property
    def selector(self) -> str:
        return f"trainingrun.dev/run-uid={self.uid}"

    def pods(self) -> list[Json]:
        return self.space.pods(self.selector)

    def wait_pod(self, fits: Callable[[Json], Any], sentence: str, timeout: float = WAIT_SECONDS) -> Json:
        """Until one of its pods fits."""
        found = self.api.wait(
            f"/api/v1/namespaces/{self.space.name}/pods",
            lambda pod: pod is not None and fits(pod),
            sentence,
            timeout,
            selector=self.selector,
        )
        assert found is not None
        return found

    def wait_training(self, *, timeout: float = WAIT_SECONDS, but: tuple[str, ...] = ()) -> Json:
        """Until a pod's training has started (in none of the pods `but`); follows its log from then on. Returns the pod."""
        pod = self.wait_pod(
            lambda pod: pod["metadata"]["name"] not in but and state_of(pod, "train") not in ("", "waiting"),
            f"a pod of {self.name} trains",
            timeout,
        )
        name = pod["metadata"]["name"]
        self.logs[name] = self.api.follow(self.space.name, name, "train")
        return pod

    def wait_exit(self, timeout: float = WAIT_SECONDS) -> Json:
        """Until the training in one of its pods has exited. Returns the pod."""
        return self.wait_pod(
            lambda pod: state_of(pod, "train") == "terminated", f"the training of {self.name} has exited", timeout
        )

    def order(self, what: str, pod: str) -> None:
        """Tell digits.py in a pod to `go` on from where it holds (`--hold-at`), or to `save` (`--save-when-told`)."""
        self.space.shell(f"kubectl exec {pod} --container train -- touch /dev/shm/{what}")

    @property
    def log(self) -> Log:
        """Of the training in the newest pod that was followed."""
        return list(self.logs.values())[-1]

    def commits(self) -> list[Commit]:
        return self.space.bucket.commits(self.layout.base)

    def wait_commits(self, number: int = 1, timeout: float = WAIT_SECONDS) -> list[Commit]:
        found: list[Commit] = eventually(
            lambda: one if len(one := self.commits()) >= number else None,
            f"{number} commits of {self.name} are in the bucket",
            timeout,
        )
        return found

    def wait_curve(self, fits: Callable[[Curve], Any], sentence: str, timeout: float = WAIT_SECONDS) -> Curve:
        """Until its loss curve, which is written beside everything else, fits."""

        def read(stored: Json | None) -> Curve | None:
            return Curve.model_validate_json(stored["data"][CURVE_KEY]) if stored is not None else None

        found = self.api.wait(
            f"/api/v1/namespaces/{self.space.name}/configmaps",
            lambda stored: (curve := read(stored)) is not None and fits(curve),
            sentence,
            timeout,
            name=curve_name(self.name),
        )
        curve = read(found)
        assert found is not None
        assert curve is not None
        assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [self.uid], "It goes with the run."
        return curve

    # -- what every ended run must show -------------------------------------------------------------------------

    def assert_ended_once(self) -> None:
        """Nothing of it is left, and the operator deleted no pod twice."""
        assert not self.pods(), f"Pods of {self.name} are left."
        deleted = [one.name for one in self.space.audit("delete", "pods") if one.user == OPERATOR_USER]
        assert len(deleted) == len(set(deleted)), f"The operator deleted a pod more than once: {deleted}"

    def assert_checkpoint_proven(self, status: Json) -> None:
        """What the status says of the checkpoint is in the bucket, whole."""
        checkpoint = status["checkpoint"]
        held = {one["Key"]: one["Size"] for one in self.space.bucket.objects(self.layout.base)}
        prefix = checkpoint["uri"].removeprefix(f"s3://{self.space.bucket.name}/")
        inside = {key: size for key, size in held.items() if key.startswith(prefix)}
        assert checkpoint["commit"] in held, (
            f"The status names a commit that is not in the bucket: {checkpoint['commit']}"
        )
        assert inside, f"Nothing lies at {checkpoint['uri']}; the run's objects are {sorted(held)}"
        assert checkpoint["verifiedAt"], "The operator says when it verified the checkpoint."
        assert condition_of(status, "CheckpointSaved")["status"] == "True", "CheckpointSaved is True."

    # -- failing ------------------------------------------------------------------------------------------------

    def story(self) -> str:
        stored = self.read()
        if stored is None:
            return f"--- TrainingRun {self.name} is gone"
        stored["metadata"].pop("managedFields", None)
        stored["spec"].pop("template", None)
        return f"--- TrainingRun {self.name}\n{yaml.safe_dump(stored, sort_keys=False)}" + "".join(
            f"--- followed log of {name}\n{log.text}\n" for name, log in self.logs.items()
        )


def condition_of(status: Json, kind: str) -> Json:
    """One condition; empty if it is not there."""
    return next((one for one in status.get("conditions") or () if one["type"] == kind), {})


def state_of(pod: Json, container: str) -> str:
    """waiting, running or terminated; empty before the kubelet said anything."""
    status = pod.get("status") or {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if one["name"] == container:
            return next(iter(one.get("state") or {}), "")
    return ""


def started_at(pod: Json, container: str) -> float:
    """When the running container started."""
    for one in pod["status"].get("containerStatuses") or ():
        if one["name"] == container:
            return seconds_of(one["state"]["running"]["startedAt"])
    return 0.0


def ended_at(pod: Json, container: str) -> float:
    """When the exited container exited, to the second before."""
    for one in pod["status"].get("containerStatuses") or ():
        if one["name"] == container:
            return seconds_of(one["state"]["terminated"]["finishedAt"])
    return 0.0


def _is(stored: Json, kind: str) -> bool:
    return condition_of(stored.get("status") or {}, kind).get("status") == "True"


def _pod_story(api: Api, pod: Json) -> str:
    name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
    containers = [c["name"] for c in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"])]
    logs = "".join(
        f"--- pod {name}, {container}\n{api.log(space, name, container, tailLines=str(DUMPED_LINES))}\n"
        for container in containers
    )
    brief = {"annotations": pod["metadata"].get("annotations"), "status": pod.get("status")}
    return f"--- pod {name}\n{json.dumps(brief)}\n{_agent_says(api, pod)}{logs}"


def _agent_says(api: Api, pod: Json) -> str:
    """The page that the operator reads."""
    if state_of(pod, "checkpoint-agent") != "running":
        return ""
    name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
    try:
        return f"{api.call('GET', f'/api/v1/namespaces/{space}/pods/{name}:18790/proxy/progress')}\n"
    except (ApiError, OSError) as error:
        return f"(the agent says nothing: {error})\n"


def unique(prefix: str) -> str:
    """A name that nobody else has."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def remove_namespaces(spaces: list[Space], seconds: float) -> None:
    """Delete the namespaces once their runs are gone; what takes longer than `seconds` goes with its run still in it."""
    deadline = time.monotonic() + seconds
    left = list(spaces)
    while left:
        left = [space for space in left if not (space.empty() or time.monotonic() > deadline) or _delete(space)]
        if left:
            time.sleep(0.5)


def _delete(space: Space) -> bool:
    space.api.delete(f"/api/v1/namespaces/{space.name}")
    return False

"""Manifests of a run's children: its Job, with the operator's additions to the author's pod, and its PodDisruptionBudget.

The author's template is kept. Three containers of the operator's image are added: `checkpoint-restore` downloads the newest proven checkpoint
before the training starts, `checkpoint-agent` (a native sidecar) uploads checkpoints while it runs, and `checkpoint-gate` keeps the pod running
after its exit until the checkpoint is proven: without it, the sidecar would be killed after the pod's grace period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AGENT_CONFIG_ENV, AgentConfig
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.template import gpus_of_container
from trainingrun_operator.core import relayed
from trainingrun_operator.core.destinations import Destination, allowed
from trainingrun_operator.core.facts.reading import AUTO, PUSH

if TYPE_CHECKING:
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.restoring import Origin

Manifest = dict[str, Any]

RESTART_POLICY: Final = "Never"
"""The operator replaces crashed pods, because a container that is restarted in its pod leaves no moment to save."""
NEVER_BACK_OFF: Final = 2**31 - 1
"""The operator counts restarts; the Job must not fail first."""
NO_CRASHES: Final = (
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {
        "action": "Ignore",
        "onExitCodes": {"containerName": names.GATE_CONTAINER, "operator": "In", "values": [*names.GATE_KILLED]},
    },
)
"""Pods that were told to leave, by the condition or by the end of their gate: they are replaced and do not count against `backoffLimit`."""
AGENT_GRACE_SECONDS: Final = 300
"""Added to the training's grace period, for the last commit."""
AGENT_UID: Final = 65532
GATE_RESOURCES: Final = {"cpu": "50m", "memory": "32Mi"}
"""With a fifth of this CPU its start took 6 s; meanwhile the kubelet does not report the training, and a SIGTERM is lost."""


def job(run: Run, defaults: Defaults, origin: Origin | None = None) -> Manifest:
    """Build the Job of a run. It has no ownerReference: foreground deletion would delete it despite the run's finalizer.

    Args:
        run: the run.
        defaults: of the installation.
        origin: the other run from whose checkpoint this one starts; None: there is none.
    """
    labels = names.child_labels(run.name, run.uid)
    queue = (
        {names.KUEUE_QUEUE_LABEL: run.labels[names.KUEUE_QUEUE_LABEL]} if names.KUEUE_QUEUE_LABEL in run.labels else {}
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": names.job_name(run.name), "namespace": run.namespace, "labels": labels | queue},
        "spec": {
            "backoffLimit": NEVER_BACK_OFF,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [*NO_CRASHES]},
            "template": pod_template(run, defaults, origin),
        },
    }


def disruption_budget_name(run_name: str) -> str:
    """Return the name of a run's PodDisruptionBudget."""
    return f"{run_name}-checkpoint"


def disruption_budget(run: Run, workload: Workload) -> Manifest:
    """Build the PodDisruptionBudget of a run. The garbage collector deletes it with the workload.

    It uses minAvailable: maxUnavailable needs an owner with a scale subresource, which a Job lacks; every eviction would then fail with a warning
    Event every few seconds. A run has one pod at a time.
    """
    owner = {
        "apiVersion": workload.api_version,
        "kind": workload.kind,
        "name": workload.name,
        "uid": workload.uid,
        "controller": False,
    }
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": disruption_budget_name(run.name),
            "namespace": run.namespace,
            "labels": names.child_labels(run.name, run.uid),
            "ownerReferences": [{**owner, "blockOwnerDeletion": False}],
        },
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {names.RUN_UID_LABEL: run.uid}}},
    }


def pod_template(run: Run, defaults: Defaults, origin: Origin | None = None) -> Manifest:
    """Build the pod template: the author's, with agent, gate and restore."""
    template = run.spec.template.parse()
    meta, spec = template.setdefault("metadata", {}) or {}, template["spec"]
    annotations = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    main = main_container(run.spec)
    mounts = [_checkpoint_mount(run.spec, spec, main), {"name": names.CONTROL_VOLUME, "mountPath": names.CONTROL_PATH}]
    for container in spec["containers"]:
        _equip(container, run.spec, mounts if container["name"] == main else mounts[1:])
    spec["volumes"] = [*(spec.get("volumes") or []), *_volumes(run.spec, spec, mounts[0]["name"])]
    own = _own_containers(
        run,
        defaults,
        mounts,
        restore_from=origin.source if origin is not None else None,
        metrics_page=relayed.configured(run.spec.metrics, host_network=bool(spec.get("hostNetwork"))),
    )
    spec["initContainers"] = [
        *([own["restore"]] if _uploads(run.spec) else []),
        own["agent"],
        *(spec.get("initContainers") or []),
    ]
    spec["containers"].append(own["gate"])
    if run.spec.shutdown.signal:
        spec["shareProcessNamespace"] = True
    spec["restartPolicy"] = RESTART_POLICY
    spec["terminationGracePeriodSeconds"] = max(
        spec.get("terminationGracePeriodSeconds") or 0, run.spec.shutdown.grace_seconds + AGENT_GRACE_SECONDS
    )
    return {
        "metadata": meta
        | {
            "labels": (meta.get("labels") or {}) | names.child_labels(run.name, run.uid),
            "annotations": annotations | (meta.get("annotations") or {}),
        },
        "spec": spec,
    }


def checkpoint_volume(run: Run) -> tuple[Manifest, Manifest | None]:
    """Return the mount of the checkpoint path and the author's volume behind it; None: the operator adds an emptyDir."""
    pod = run.spec.template.parse()["spec"]
    mount = _checkpoint_mount(run.spec, pod, main_container(run.spec))
    return mount, next((one for one in pod.get("volumes") or () if one["name"] == mount["name"]), None)


def agent_alone(run: Run, defaults: Defaults, mount: Manifest, volume: Manifest, **about: Any) -> Manifest:
    """Build the part of a pod spec that saves what lies in a volume, without a training: `containers` and `volumes`.

    Args:
        run: its keys and its user.
        defaults: of the installation.
        mount: of the checkpoint path.
        volume: behind the mount.
        about: further fields of the agent's configuration.
    """
    mounts = [mount, {"name": names.CONTROL_VOLUME, "mountPath": names.CONTROL_PATH}]
    own = _own_containers(run, defaults, mounts, **about)
    # Among init containers the policy makes it a sidecar.
    agent = {key: value for key, value in own["agent"].items() if key != "restartPolicy"}
    return {
        "containers": [agent],
        "volumes": [volume, *_volumes(run.spec, {"containers": [agent]}, mount["name"])],
    }


def main_container(spec: TrainingRunSpec) -> str:
    """Return the name of the container that trains; empty: the template has none, and is refused."""
    return spec.metrics.container or spec.template.first_container


def changed_restart_policy(spec: TrainingRunSpec) -> str:
    """Return the sentence about the template's restartPolicy, if it is not what the pods get; empty: it is."""
    policy = spec.template["spec"].get("restartPolicy") or RESTART_POLICY
    if policy == RESTART_POLICY:
        return ""
    return (
        f"spec.template.spec.restartPolicy is {policy}, and the pods get {RESTART_POLICY}: a crashed pod is saved and then replaced,"
        f" up to {spec.backoff_limit} times (spec.backoffLimit)."
    )


def _uploads(spec: TrainingRunSpec) -> bool:
    return spec.checkpoint.mode is CheckpointMode.UPLOAD


def _checkpoint_mount(spec: TrainingRunSpec, pod: Manifest, main: str) -> Manifest:
    """Return the mount of the checkpoint path; without one, a mount of our emptyDir."""
    path = f"{spec.checkpoint.path.rstrip('/')}/"
    container = next(c for c in pod["containers"] if c["name"] == main)
    candidates = [m for m in container.get("volumeMounts") or [] if path.startswith(m["mountPath"].rstrip("/") + "/")]
    if candidates:
        return dict(max(candidates, key=lambda mount: len(mount["mountPath"])))
    return {"name": names.CHECKPOINT_VOLUME, "mountPath": spec.checkpoint.path}


def _equip(container: Manifest, spec: TrainingRunSpec, mounts: list[Manifest]) -> None:
    """Add variables and mounts to one of the author's containers, except those that it already has."""
    has = {variable["name"] for variable in container.get("env") or []}
    ours = {names.CHECKPOINT_DIR_ENV: spec.checkpoint.path, names.CONTROL_ENV: names.CONTROL_PATH}
    if spec.shutdown.signal and container["name"] == main_container(spec):
        ours[names.TRAINS_ENV] = "1"
    if spec.metrics.source in (PUSH, AUTO) and names.KUBEFLOW_URL_ENV not in has:
        url = f"http://127.0.0.1:{names.AGENT_PORT}{names.PUSH_PATH}"
        ours |= {names.PUSH_ENV: url, names.KUBEFLOW_URL_ENV: url}
        ours[names.KUBEFLOW_TOKEN_ENV] = f"{names.CONTROL_PATH}/{names.PUSH_TOKEN}"
    container["env"] = [{"name": name, "value": value} for name, value in ours.items() if name not in has] + (
        container.get("env") or []
    )
    mounted = {mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts") or []}
    shm = [{"name": names.SHM_VOLUME, "mountPath": "/dev/shm"}] if gpus_of_container(container) else []  # noqa: S108 - the kernel's own path, not a temporary file
    added = [mount for mount in (*mounts, *shm) if mount["mountPath"].rstrip("/") not in mounted]
    container["volumeMounts"] = [*(container.get("volumeMounts") or []), *added]


def _volumes(spec: TrainingRunSpec, pod: Manifest, checkpoint_volume: str) -> list[Manifest]:
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    volumes: list[Manifest] = [
        {"name": names.CONTROL_VOLUME, "emptyDir": {}},
        {
            "name": names.PODINFO_VOLUME,
            "downwardAPI": {"items": [{"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]},
        },
    ]
    if checkpoint_volume == names.CHECKPOINT_VOLUME:
        volumes.append({"name": names.CHECKPOINT_VOLUME, "emptyDir": {}})
    if names.SHM_VOLUME in mounted:
        volumes.append({"name": names.SHM_VOLUME, "emptyDir": {"medium": "Memory"}})
    if secret := spec.checkpoint.s3.credentials_secret_name:
        volumes.append({"name": names.SECRET_VOLUME, "projected": {"sources": _secret(secret)}})
    return volumes


def _secret(name: str) -> list[Manifest]:
    """Project the Secret as files, because the kubelet updates files. The two access keys are required; the rest is optional."""

    def source(*keys: str) -> Manifest:
        return {"name": name, "items": [{"key": key, "path": key} for key in keys]}

    return [
        {"secret": source(names.ACCESS_KEY, names.SECRET_KEY)},
        {"secret": {**source(names.SESSION_TOKEN, names.CA), "optional": True}},
    ]


def _own_containers(run: Run, defaults: Defaults, mounts: list[Manifest], **about: Any) -> dict[str, Manifest]:
    podinfo = {"name": names.PODINFO_VOLUME, "mountPath": names.PODINFO_PATH, "readOnly": True}
    common = {
        "image": defaults.agent_image,
        "imagePullPolicy": defaults.agent_pull_policy,
        "securityContext": _security(run.spec),
    }
    secret = run.spec.checkpoint.s3.credentials_secret_name
    keys = [{"name": names.SECRET_VOLUME, "mountPath": names.SECRET_PATH, "readOnly": True}] if secret else []
    ships: Manifest = {"env": _agent_env(run, defaults, **about), "volumeMounts": [*mounts, podinfo, *keys]}
    if defaults.agent_resources:
        ships["resources"] = dict(defaults.agent_resources)
    return {
        "restore": {"name": names.RESTORE_CONTAINER, "args": ["restore"], **common, **ships},
        "agent": {
            "name": names.AGENT_CONTAINER,
            "args": ["agent"],
            "restartPolicy": "Always",
            "ports": [{"name": "ckpt-agent", "containerPort": names.AGENT_PORT}],
            **common,
            **ships,
        },
        "gate": {
            "name": names.GATE_CONTAINER,
            "args": ["gate"],
            **common,
            "volumeMounts": [podinfo],
            "resources": {"requests": GATE_RESOURCES, "limits": GATE_RESOURCES},
        },
    }


def _agent_env(run: Run, defaults: Defaults, **about: Any) -> list[Manifest]:
    spec = run.spec
    config = AgentConfig(
        namespace=run.namespace,
        run=run.name,
        run_uid=run.uid,
        path=spec.checkpoint.path,
        destination=(spec.checkpoint.destination or "") if _uploads(spec) else "",
        endpoint_url=spec.checkpoint.s3.endpoint_url,
        region=spec.checkpoint.s3.region,
        secret_dir=names.SECRET_PATH if spec.checkpoint.s3.credentials_secret_name else "",
        expected_bucket_owner=_bucket_owner(run, defaults),
        requester_pays=spec.checkpoint.s3.requester_pays,
        include=spec.checkpoint.include,
        exclude=spec.checkpoint.exclude,
        format=spec.checkpoint.format or "",
        quiet_seconds=defaults.agent_quiet_seconds,
        stop_file=spec.shutdown.file,
        stop_signal=spec.shutdown.signal,
        marker_files=spec.completion.marker_files,
        port=names.AGENT_PORT,
        **about,
    )
    fields = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}
    return [
        {"name": AGENT_CONFIG_ENV, "value": config.model_dump_json(by_alias=True, exclude_none=True)},
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
    ]


def _bucket_owner(run: Run, defaults: Defaults) -> str:
    """Return the account that must own the bucket; empty: any."""
    destination = allowed(run, defaults.allowed_destinations) if _uploads(run.spec) else None
    return destination.expected_bucket_owner if isinstance(destination, Destination) else ""


def training_user(spec: TrainingRunSpec) -> int | None:
    """Return the UID of the training if the template sets it."""
    return _identity(spec).get("runAsUser")


def _identity(spec: TrainingRunSpec) -> Manifest:
    """Return user and group of the training: the container's securityContext overrides the pod's."""
    pod = spec.template["spec"]
    main = next(c for c in pod["containers"] if c["name"] == main_container(spec))
    return {**(pod.get("securityContext") or {}), **(main.get("securityContext") or {})}


def _security(spec: TrainingRunSpec) -> Manifest:
    """Return a restricted securityContext with the training's user, so that the agent can read its files."""
    identity = _identity(spec)
    user, group = identity.get("runAsUser", AGENT_UID), identity.get("runAsGroup")
    return {
        "runAsUser": user,
        **({"runAsGroup": group} if group is not None else {}),
        "runAsNonRoot": user != 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }

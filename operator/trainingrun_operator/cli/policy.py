"""The effective settings of a run and their sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trainingrun_operator.api.run import CheckpointMode, NodePoolPolicy, TrainingRunSpec
from trainingrun_operator.api.status import StopMode
from trainingrun_operator.cli import words
from trainingrun_operator.core import manifests, past
from trainingrun_operator.core.rules.loss import LOW_OBSERVATIONS, SHADOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.core.facts.run import Run

DEFAULT: Final = "default"


class Rule(NamedTuple):
    """One effective setting."""

    what: str
    value: str
    source: str
    """A spec field, `default`, or another source."""


def in_force(run: Run) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
    """Effective settings by topic."""
    return (
        ("When it ends", tuple(_ends(run))),
        ("How it is stopped", tuple(_stops(run))),
        ("What it is measured by", tuple(_measures(run))),
        ("Where checkpoints are stored", tuple(_checkpoints(run))),
        ("What it releases", tuple(_gives_back(run))),
    )


def _rule(run: Run, what: str, path: str, said: str | None = None) -> Rule:
    """A spec field: its value, and whether it is the default."""
    value, default = _at(run.spec, path), _default(path)
    return Rule(what, _said(value) if said is None else said, DEFAULT if value == default else f"spec.{_camel(path)}")


def _at(model: Any, path: str) -> Any:
    for part in path.split("."):
        model = getattr(model, part)
    return model


def _default(path: str) -> Any:
    """Default of the field; a required object has itself as default."""
    kind: Any = TrainingRunSpec
    *parents, last = path.split(".")
    for part in parents:
        kind = kind.model_fields[part].annotation
    return kind.model_fields[last].get_default(call_default_factory=True, validated_data={})


def _camel(path: str) -> str:
    kind: Any = TrainingRunSpec
    names = []
    for part in path.split("."):
        field = kind.model_fields[part]
        names.append(field.alias or part)
        kind = field.annotation
    return ".".join(names)


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _ends(run: Run) -> Iterator[Rule]:
    yield _threshold(run)
    spec = run.spec
    yield Rule("exit code 0", "complete", "always")
    settle = words.duration(spec.completion.settle_seconds)
    yield _rule(run, "marker files", "completion.marker_files")
    if spec.completion.final_step is not None:
        yield _rule(run, "final step", "completion.final_step")
    if spec.completion.outputs:
        yield _rule(run, "outputs in the bucket", "completion.outputs")
    yield _rule(run, "stall in the final epoch", "stall_polls", f"{spec.stall_polls} polls without a step")
    yield _rule(run, "hold time of inferred completion", "completion.settle_seconds", settle)
    yield _rule(run, "crashes allowed", "backoff_limit")
    ttl = spec.ttl_seconds_after_finished
    yield _rule(
        run, "kept after its end", "ttl_seconds_after_finished", "forever" if ttl is None else words.duration(ttl)
    )


def _threshold(run: Run) -> Rule:
    """The loss threshold, from the run or else from the installation."""
    written, force = run.spec.auto_stop_loss, run.status.effective
    if written is not None:
        said = "off (negative)" if written < 0 else f"loss < {written:g}, {LOW_OBSERVATIONS} times in a row"
        return Rule("loss", said, "spec.autoStopLoss")
    installation = "the installation's defaults.autoStopLoss and autoStopAction"
    if force is None or force.auto_stop_loss is None:
        return Rule("loss", "unknown until the operator observes the run", installation)
    watched = (
        f" ({SHADOW}: does not end the run)"
        if force.auto_stop_action == SHADOW
        else f", {LOW_OBSERVATIONS} times in a row"
    )
    return Rule("loss", f"loss < {force.auto_stop_loss:g}{watched}", f"{installation}, as of its start")


def _stops(run: Run) -> Iterator[Rule]:
    modes = {
        StopMode.AUTO: "Auto: the training saves and exits, or its next checkpoint if that is worth the wait",
        StopMode.NEXT_CHECKPOINT: "NextCheckpoint: its next complete checkpoint",
        StopMode.LAST_CHECKPOINT: "LastCheckpoint: its last complete checkpoint",
    }
    yield _rule(run, "waits for", "stop_mode", modes[run.spec.stop_mode])
    yield _rule(run, "time to exit", "shutdown.grace_seconds", words.duration(run.spec.shutdown.grace_seconds))
    yield _rule(run, "stop file", "shutdown.file")
    yield _rule(run, "signal", "shutdown.signal")


def _measures(run: Run) -> Iterator[Rule]:
    metrics = run.spec.metrics
    page = Rule("page", f"port {metrics.port}, {metrics.path}", "")
    sources = dict.fromkeys(_rule(run, "", path).source for path in ("metrics.port", "metrics.path"))
    yield page._replace(source=", ".join(one for one in sources if one != DEFAULT) or DEFAULT)
    yield _rule(run, "read every", "poll_interval_seconds", words.duration(run.spec.poll_interval_seconds))
    yield _rule(run, "loss", "metrics.names.loss")
    yield _rule(run, "step", "metrics.names.step")
    yield _rule(run, "epoch", "metrics.names.epoch")
    yield _rule(run, "total epochs", "metrics.names.total_epochs")
    if run.spec.completion.total_epochs is not None:
        yield _rule(
            run, "total epochs if not shown", "completion.total_epochs", f"{run.spec.completion.total_epochs:g}"
        )
    yield _rule(run, "container", "metrics.container", _container(run))


def _container(run: Run) -> str:
    return manifests.main_container(run.spec) or "none: the template has no container"


def _checkpoints(run: Run) -> Iterator[Rule]:
    if run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        yield _rule(run, "saved", "checkpoint.mode", "nothing (Disabled)")
        return
    yield _rule(run, "read from", "checkpoint.path")
    yield _rule(run, "saved to", "checkpoint.destination")
    yield _rule(run, "server", "checkpoint.s3.endpoint_url", run.spec.checkpoint.s3.endpoint_url or "AWS")
    yield _rule(run, "region", "checkpoint.s3.region", run.spec.checkpoint.s3.region or "us-east-1")
    if run.spec.checkpoint.s3.requester_pays:
        yield _rule(run, "requester pays", "checkpoint.s3.requester_pays", "yes")
    none = None if run.spec.checkpoint.s3.credentials_secret_name else "the identity of the pod's ServiceAccount"
    yield _rule(run, "credentials", "checkpoint.s3.credentials_secret_name", none)
    yield _rule(run, "included", "checkpoint.include")
    yield _rule(run, "excluded", "checkpoint.exclude")
    yield _rule(run, "if not proven", "checkpoint.on_failure")
    yield _rule(run, "starts from", "checkpoint.restore_from", past.origin(run) or "the beginning")
    kept = run.spec.checkpoint.keep_last
    yield _rule(run, "kept", "checkpoint.keep_last", "all" if kept is None else f"the newest {kept} complete ones")


def _gives_back(run: Run) -> Iterator[Rule]:
    never = run.spec.node_pool.policy is NodePoolPolicy.NEVER
    yield _rule(
        run,
        "its nodes",
        "node_pool.policy",
        "kept (Never)" if never else "released when no other pod uses them (WhenEmpty)",
    )
    found = run.status.effective.node_pool if run.status.effective else ""
    if run.spec.node_pool.ref:
        yield Rule("pool", run.spec.node_pool.ref, "spec.nodePool.ref")
    elif found:
        yield Rule("pool", found, "the GPUNodePool that selects its node")
    else:
        yield Rule("pool", "none yet", "the GPUNodePool that will select its node")

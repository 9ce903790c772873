"""A training whose GPUs do nothing, `spec.idleDetection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.limits import IdleDetection, LimitAction
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.idle import APART_SECONDS, BUSY, digest
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.idle import Idle
    from trainingrun_operator.core.observed import Observed

RULE: Final = "idle"


def idle(seen: Observed) -> Finding | None:
    """All GPUs have been idle for long enough. Does not apply if it is off, while no training runs, and before the first reading."""
    spec, one = seen.run.spec.idle_detection, seen.idle
    if not spec.for_seconds or not seen.runs:
        return None
    if lacking := _lacking(seen):
        # Only if the run asks for it: most runs of such an installation do not.
        return None if spec == IdleDetection() else lacking
    if one is None or one.pods != digest([rank.pod for rank in seen.ranks]):
        return None
    if seen.candidate_seconds is not None:
        return Finding(RULE, "Completes", "The training looks complete: its GPUs have nothing more to do.")
    if one.unread:
        return Finding(RULE, one.what, f"Whether the GPUs are idle is not known ({one.what}): this counts as busy.")
    if one.what == BUSY and one.since == one.until:
        return Finding(RULE, BUSY, f"At least one GPU is busy: {_floors(spec)}.")
    if one.seconds < spec.for_seconds:
        return Finding(
            RULE, "IdleNow", f"{_idle(one)} for {one.seconds:.0f} of {spec.for_seconds} s (idleDetection.forSeconds)."
        )
    return Finding(
        RULE,
        "IdleGPUs",
        f"{_idle(one)} for {one.seconds:.0f} s: {_floors(spec)} (idleDetection).",
        endings.IDLE,
        actor=RULE,
        evidence=_evidence(seen, one),
        enforced=spec.action is LimitAction.STOP,
    )


def is_idle(seen: Observed) -> bool:
    """Whether the training is idle, and no end is decided."""
    found = idle(seen) if seen.run.status.termination is None else None
    return found is not None and found.fires


def warning(seen: Observed) -> str:
    """Return what an Event says once when the training is idle and nothing ends it; empty: nothing now."""
    found, stored, one = idle(seen), seen.run.status.idle, seen.idle
    if found is None or not found.fires or found.enforced or one is None:
        return ""
    if stored is not None and stored.since == one.wall and stored.warned_at is not None:
        return ""
    return f"{found.message} It goes on: idleDetection.action is {LimitAction.NOTIFY.value}."


def _lacking(seen: Observed) -> Finding | None:
    """Return why the GPUs are not read at all."""
    run = seen.run.spec
    if not seen.defaults.gpu_exporter:
        message = (
            "Idle GPUs are not looked for: this installation names no DCGM exporter (chart value gpuExporter.url)."
        )
        return Finding(RULE, "NoExporter", message)
    if not run.template.gpus:
        return Finding(RULE, "NoGPUs", "Idle GPUs are not looked for: the template requests no nvidia.com/gpu.")
    if run.poll_interval_seconds > APART_SECONDS:
        message = (
            f"Idle GPUs are not found with a pollIntervalSeconds of {run.poll_interval_seconds}: GPUs that are read less often than every {APART_SECONDS} s"
            " may be busy in between."
        )
        return Finding(RULE, "ReadTooSeldom", message)
    return None


def _idle(one: Idle) -> str:
    """Say how busy the GPUs are at most."""
    shown = [f"{one.utilization:g} % utilization"] if one.utilization is not None else []
    shown += [f"{one.power:.0f} W"] if one.power is not None else []
    return f"All GPUs have been idle (now at most {' and '.join(shown)})" if shown else "All GPUs have been idle"


def _floors(spec: IdleDetection) -> str:
    """Say what counts as idle."""
    power = f" and {spec.power_below_watts} W" if spec.power_below_watts else ""
    return f"a GPU is idle below {spec.gpu_utilization_below_percent} % utilization{power}"


def _evidence(seen: Observed, one: Idle) -> tuple[Evidence, ...]:
    known = {"gpuUtilizationPercent": one.utilization, "gpuPowerWatts": one.power, "idleSeconds": one.seconds}
    step = seen.track.step
    return tuple(
        Evidence(what=what, value=f"{value:.0f}", step=step) for what, value in known.items() if value is not None
    )

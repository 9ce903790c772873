"""One look at a run: observe, decide, execute, write the status. Level-triggered: any look may be the first, and looks may be repeated."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from pydantic import ValidationError

from trainingrun_operator.controller import pace, tally
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin
from trainingrun_operator.core.memory import Memory, remember_effects
from trainingrun_operator.core.status import observed_fields, render
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.execute import NotLeadingError, StaleError
from trainingrun_operator.edge.gather.stop_proofs import ProvingError
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.exporter import series_of

if TYPE_CHECKING:
    from trainingrun_operator.api.limits import Cost
    from trainingrun_operator.api.status import Progress, TrainingRunStatus
    from trainingrun_operator.core.effects import Decision
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.background.curve import CurveWriter
    from trainingrun_operator.edge.background.story import Story
    from trainingrun_operator.edge.background.webhook import Notifier
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.clock import Clock
    from trainingrun_operator.edge.execute import Executor
    from trainingrun_operator.edge.gather.observer import Observer
    from trainingrun_operator.edge.ports import Beside, Statuses
    from trainingrun_operator.exporter import Telemetry

Json = dict[str, Any]

STEPS_AT_ONCE: Final = 12
"""Limit of decisions in one look, so that other runs get their turn."""
BACKOFF_MAX_SECONDS: Final = 60.0
PROVING_SECONDS: Final = 60.0
"""Time after which a run is looked at again while a proof is made that its stop depends on, if nothing wakes it before."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenStatus:
    """The last status written by this process."""

    digest: str = ""
    at: float = float("-inf")
    urgent: tuple[str, ...] = ()
    """Values whose change is written at once: generation, phase, and what a restarted operator needs."""
    shown: tuple[str, ...] = ()
    """Values whose change is written as soon as the pace of writes allows: message, conditions and what stop rules count."""
    waits: bool = False
    """Whether such a change is not written yet."""


@dataclass
class KnownRun:
    """What this process knows about one run. Each look replaces the values."""

    memory: Memory = field(default_factory=Memory)
    counted: tally.Counted = field(default_factory=tally.Counted)
    written: WrittenStatus = field(default_factory=WrittenStatus)
    pace: pace.Bucket = field(default_factory=pace.for_run)


@dataclass
class Reconciler:
    """Looks at runs, one at a time, by uid."""

    kube: Statuses
    cache: Cache
    observer: Observer
    executor: Executor
    telemetry: Telemetry
    curves: CurveWriter
    status_seconds: float
    notifier: Notifier | None = None
    """None: the installation has no webhook."""
    beside: tuple[Beside, ...] = ()
    """Work on the bucket in the background, which takes what each look has seen."""
    story: Story | None = None
    clock: Clock = field(default_factory=SystemClock)
    known: dict[str, KnownRun] = field(default_factory=dict)
    """By uid."""
    _failures: dict[str, int] = field(default_factory=dict)
    _pace: pace.Bucket = field(default_factory=pace.for_all)

    async def look(self, uid: str) -> float | None:
        """Look at a run. Returns the seconds to the next look; None: at the next event."""
        if uid not in self.cache.runs:
            self.forget(uid)
            return None
        began = self.clock.monotonic()
        try:
            again = await self._look(uid)
        except ProvingError:
            # The end of the proof wakes the run.
            return PROVING_SECONDS
        except StaleError as stale:
            log.debug("stale: %s", stale)
            return await self._reread(uid)
        except NotLeadingError:
            log.info("%s: look stopped: this operator does not lead", self._name(uid))
            return self._backoff(uid)
        except KubeError as error:
            self.telemetry.reconcile_error()
            log.warning("%s: %s", self._name(uid), error)
            return self._backoff(uid)
        except ValidationError as error:
            self.telemetry.reconcile_error()
            log.error("%s: stored object is invalid: %s", self._name(uid), error.errors(include_url=False)[:3])  # noqa: TRY400 - the trace says nothing more
            return BACKOFF_MAX_SECONDS
        except Exception:
            # A bug, which must affect this run alone.
            self.telemetry.reconcile_error()
            log.exception("%s: look failed", self._name(uid))
            return self._backoff(uid)
        finally:
            if uid not in self.cache.runs:
                # The run was deleted during the look: drop what the look has stored.
                self.forget(uid)
        self._failures.pop(uid, None)
        self.telemetry.reconciled(self.clock.monotonic() - began)
        return again

    def forget(self, uid: str) -> None:
        """Drop everything about a run that is gone."""
        self.known.pop(uid, None)
        self._failures.pop(uid, None)
        self.telemetry.runs.forget(uid)
        self.observer.forget(uid)
        self.curves.forget(uid)
        for one in self.beside:
            one.forget(uid)
        if self.story is not None:
            self.story.forget(uid)
        if self.notifier is not None:
            self.notifier.forget(uid)

    def forget_all(self) -> None:
        """Drop everything: another operator leads, so memory and metrics would get stale."""
        self.known.clear()
        self._failures.clear()
        self.telemetry.runs.clear()
        self.observer.forget_all()
        self.curves.forget_all()
        for one in self.beside:
            one.forget_all()
        if self.story is not None:
            self.story.forget_all()
        if self.notifier is not None:
            self.notifier.forget_all()

    async def _look(self, uid: str) -> float | None:
        known = self.known.setdefault(uid, KnownRun())
        for _ in range(STEPS_AT_ONCE):
            stored = self.cache.runs.get(uid)
            if stored is None:
                return None
            known.memory, seen = await self.observer.observe(stored, known.memory)
            self.curves.note(seen)
            for one in self.beside:
                one.note(seen)
            decision = decide(seen)
            if any(isinstance(effect, Begin) for effect in decision.effects) and not await self.observer.confirms(seen):
                raise StaleError("pods or Job have changed since the decision to end the run")
            outcome = await self.executor.execute(seen, decision.effects)
            known.memory = remember_effects(known.memory, outcome.learned)
            if outcome.stopped is not None:
                raise outcome.stopped
            known.counted = self._count(seen, decision, known.counted)
            # If the run was deleted meanwhile, the answer of the write is not cached.
            if outcome.written is not None and uid in self.cache.runs:
                self.cache.put_run(outcome.written)
            if decision.again_seconds != 0:
                shown = seen
                if outcome.written is not None:
                    known.memory, shown = await self.observer.observe(outcome.written, known.memory)
                known.written = await self._write_status(shown, known)
                again = self._until_next_look(decision.again_seconds, seen, shown.next_reading_at)
                return again if again is not None or not known.written.waits else pace.RUN_SECONDS
        return 0

    def _count(self, seen: Observed, decision: Decision, counted: tally.Counted) -> tally.Counted:
        """Count a look. What cannot be counted is an error of its own: it keeps no status from being written."""
        try:
            return tally.count(self.telemetry, seen, decision, counted)
        except Exception:
            self.telemetry.reconcile_error()
            log.exception("%s: cannot be counted", seen.run.key)
            return counted

    def _show(self, seen: Observed, whole: TrainingRunStatus) -> None:
        """Show a run on the metrics page. Fails like `_count`."""
        run = seen.run
        try:
            self.telemetry.runs.put(run.uid, series_of(run.namespace, run.name, run.spec, whole, tally.measured(seen)))
        except Exception:
            self.telemetry.reconcile_error()
            log.exception("%s: cannot be shown on the metrics page", run.key)

    def _until_next_look(self, again: float | None, seen: Observed, due: float) -> float | None:
        """Return the seconds to the next look; while a training is polled, without the duration of this look."""
        polled = seen.run.status.termination is None and due > seen.now
        return max(0.0, due - self.clock.monotonic()) if polled and again is not None else again

    # -- status ------------------------------------------------------------------------------------------

    async def _write_status(self, seen: Observed, known: KnownRun) -> WrittenStatus:
        """Write the derived status: at once on a transition, soon on another change, else at intervals. Returns the last written status."""
        status = render(seen)
        run, whole = seen.run, _whole(seen, status)
        self._show(seen, whole)
        if self.notifier is not None:
            self.notifier.note(seen, whole)
        if self.story is not None:
            self.story.note(seen, whole)
        before = known.written if known.written.digest else self._stored(run, seen.now)
        urgent, shown = _urgent(status), _shown(status)
        same = (urgent, shown) == (before.urgent, before.shown)
        if same and seen.now - before.at < self.status_seconds:
            return replace(before, waits=False)
        body = observed_fields(status)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        # An empty status is written again: the cluster was restored from a backup.
        if digest == before.digest and seen.run.status.conditions:
            return before
        allowed = [bucket.fill(seen.now) for bucket in (known.pace, self._pace)]
        if urgent == before.urgent and not all(allowed):
            return replace(before, waits=True)
        known.pace.take()
        self._pace.take()
        self.executor.check_leads()
        try:
            written = await self.kube.apply_run_status(run.namespace, run.name, run.uid, run.resource_version, body)
        except KubeError as error:
            if error.gone and run.deleting:
                return before
            if error.conflict or error.gone:
                raise StaleError(str(error)) from error
            raise
        self.cache.put_run(written)
        return WrittenStatus(digest, seen.now, urgent, shown)

    def _stored(self, run: Run, now: float) -> WrittenStatus:
        """Return what the stored status says, as if this process had written it within the last interval.

        After a start of the operator most statuses still hold, and to write all of them would delay the first polls.
        """
        if not run.status.conditions:
            return WrittenStatus()
        share = crc32(run.uid.encode()) / 2**32
        return WrittenStatus(
            digest="stored",
            at=now - share * self.status_seconds,
            urgent=_urgent(run.status),
            shown=_shown(run.status),
        )

    # -- failing -------------------------------------------------------------------------------

    async def _reread(self, uid: str) -> float | None:
        stored = self.cache.runs.get(uid)
        if stored is None:
            return None
        meta = stored["metadata"]
        try:
            fresh = await self.kube.run(meta["namespace"], meta["name"])
        except KubeError:
            return self._backoff(uid)
        if fresh is None or fresh["metadata"]["uid"] != uid:
            self.cache.forget_run(uid)
            self.forget(uid)
            return None
        self.cache.put_run(fresh)
        # An unchanged run means a repeated refusal, by a bug or the schema: back off.
        return 0.2 if fresh["metadata"]["resourceVersion"] != meta["resourceVersion"] else self._backoff(uid)

    def _backoff(self, uid: str) -> float:
        self._failures[uid] = count = self._failures.get(uid, 0) + 1
        return float(min(BACKOFF_MAX_SECONDS, 0.5 * 2 ** min(count, 10)))

    def _name(self, uid: str) -> str:
        meta = self.cache.runs.get(uid, {}).get("metadata", {})
        return f"{meta.get('namespace')}/{meta.get('name')}"


def _urgent(status: TrainingRunStatus) -> tuple[str, ...]:
    trained = status.trained
    return (
        str(status.observed_generation),
        str(status.phase),
        str(status.operator),
        *_resumable(status.progress),
        # Another pod or another price is counted from here, and an Event was recorded.
        *(
            (
                str(trained.pod_uid),
                str(trained.started_at),
                str(trained.warned_at),
                trained.budget_told,
                _rate(trained.cost),
            )
            if trained is not None
            else ()
        ),
        *(str(told.warned_at if told is not None else None) for told in (status.quiet, status.idle)),
    )


def _shown(status: TrainingRunStatus) -> tuple[str, ...]:
    return (
        str(status.termination_message),
        *(f"{c.type}{c.status}{c.reason}" for c in status.conditions),
        # A restarted operator goes on counting from here.
        *(f"{one.name} {one.observations}" for one in status.rules),
    )


def _resumable(progress: Progress | None) -> tuple[str, ...]:
    """Return the values of the progress that a restarted operator could not read again; empty: no step yet."""
    return (
        ()
        if progress is None
        else (str(progress.pod_uid), str(progress.epoch_base), str(progress.step_interval is None))
    )


def _rate(cost: Cost | None) -> str:
    """Return at which price the time from now on counts; empty: at none."""
    return f"{cost.per_hour} {cost.currency} {cost.priced_gpus}" if cost is not None else ""


def _whole(seen: Observed, derived: TrainingRunStatus) -> TrainingRunStatus:
    """Return the whole status: the derived fields and those of the stop."""
    before = seen.run.status
    kept = {
        "termination": before.termination,
        "termination_status": before.termination_status,
        "nodes": before.nodes,
        "completion_time": before.completion_time,
        "notified": before.notified,
    }
    return derived.model_copy(update=kept)

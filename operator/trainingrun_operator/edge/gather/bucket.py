"""Reads of a run's bucket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints.keys import order_of_commit
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core import identity, outputs
from trainingrun_operator.core.destinations import allowed, valid_layout
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.outputs import Looked
from trainingrun_operator.core.stop import published
from trainingrun_operator.core.stop.requests import save_request
from trainingrun_operator.edge.gather.proofs import QUIET_SECONDS, Proofs
from trainingrun_operator.edge.gather.stop_proofs import StopProofs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.core.destinations import Destination
    from trainingrun_operator.core.facts.bucket import Answer
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.memory import Memory
    from trainingrun_operator.edge.ports import BucketStore, Reads

PROOF_SECONDS: Final = 300
"""Time for which a proof stays valid, except in Verifying."""
VERIFYING_SECONDS: Final = 30
"""Time for which a proof stays valid in Verifying: that of Saving, a moment ago, is of the same commit."""
FINITE_DEPTH: Final = 64
"""Newest commits among which one from before the first value that is not finite is looked for."""
_LONGEST: Final = {names.CA: 64 * 1024, names.ACCESS_KEY: 1024, names.SECRET_KEY: 1024, names.SESSION_TOKEN: 16 * 1024}
"""Bytes of the values of a Secret; the API server allows 1 MiB."""
_SHORTEN: Final = {names.CA: "keep only the certificates that sign the store's"}
_SILENT: Final = frozenset({Phase.REQUESTED, Phase.RELEASING, Phase.DONE})


@dataclass(frozen=True)
class BucketAnswer:
    """The bucket's answers at one look."""

    answer: Answer | None = None
    """To the pending save request, or a failure to verify a reported commit."""
    verified: Verified | None = None
    """A commit that verified."""
    unverifiable: str = ""
    """Key of a reported commit that does not verify."""
    refuted: tuple[Mismatch, ...] = ()
    """Commits that do not verify."""


class BucketReader:
    """Reads the bucket of any run, with the run's own credentials, or with the operator's where the list says so."""

    def __init__(
        self,
        kube: Reads,
        store: BucketStore,
        listed: tuple[Destination, ...] = (),
        *,
        wake: Callable[[str], None] = lambda _: None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        """``wake``: called with a run's uid when a proof is made for which no look waits. ``quiet_seconds``: as in `Proofs`."""
        self._kube, self._store, self._listed = kube, store, listed
        self._proofs: Proofs[BucketAnswer] = Proofs(
            wake, lambda made: made.verified is not None, quiet_seconds=quiet_seconds
        )
        self._stops: StopProofs[BucketAnswer] = StopProofs(wake)
        self._lists: Proofs[Looked] = Proofs(wake, lambda _: False)
        self._shared: WeakValueDictionary[bytes, Access] = WeakValueDictionary()
        self._reached: dict[str, Access] = {}
        """Last access by run uid: a namespace that is being deleted may lose its Secret before its pods."""

    def forget(self, uid: str) -> None:
        """Drop a run's credentials, and its proof."""
        self._reached.pop(uid, None)
        self._proofs.forget(uid)
        self._stops.forget(uid)
        self._lists.forget(uid)

    def forget_all(self) -> None:
        """Drop all credentials, and all proofs."""
        self._reached.clear()
        self._proofs.forget_all()
        self._stops.forget_all()
        self._lists.forget_all()

    async def close(self) -> None:
        """Cancel all proofs and lists; returns when they have ended."""
        await asyncio.gather(self._proofs.close(), self._stops.close(), self._lists.close())

    async def ask(
        self, run: Run, pods: Sequence[Pod], reports: Mapping[int, AgentReport], memory: Memory
    ) -> BucketAnswer:
        """Return the answer to the pending save request, or the verification of a newly reported commit.

        Makes no call if the agents report nothing new.

        Raises:
            ProvingError: a proof that a deletion depends on is still being made.
        """
        stop = run.status.termination
        if run.spec.checkpoint.mode is CheckpointMode.DISABLED or (stop is not None and stop.phase in _SILENT):
            return BucketAnswer()
        layout = valid_layout(run)
        if isinstance(layout, Problem):
            return BucketAnswer(Unreachable(layout.reason, layout.message))
        wanted = save_request(run, pods)
        shipped = _shipped(layout, reports, memory)
        all_gone = stop is not None and stop.phase is Phase.DELETING and all(pod.lost for pod in pods)
        if wanted is None and shipped is None and not all_gone:
            return BucketAnswer()
        # A proof that is being made has read the Secret: only its result is missing.
        proving = wanted is None and shipped is not None and self._proofs.begun(run.uid)
        access = (self._reached.get(run.uid) if proving else None) or await self.access(run)
        if isinstance(access, Problem) and access.reason == "SecretNotFound" and stop is not None:
            # The Secret was probably deleted with its namespace: verify with the last known credentials.
            access = self._reached.get(run.uid, access)
        if isinstance(access, Problem):
            return BucketAnswer(Unreachable(access.reason, access.message))
        self._reached[run.uid] = access
        if wanted is None and shipped is not None:
            return await self._beside(run, access, layout, shipped, memory)
        self._proofs.forget(run.uid)
        # Deletion depends on the proof of Verifying. The commit answers this stop, so it is younger than the request.
        fresh = stop is not None and stop.phase is Phase.VERIFYING
        valid = VERIFYING_SECONDS if fresh else PROOF_SECONDS
        can_save = any(pod.holds_files for pod in pods)
        # Of bytes that a pod still has, no older commit is the answer.
        last = wanted is None or not can_save
        spoiled = stop.spoiled if stop is not None else None
        # Not the keys: some are renewed every few minutes, and a proof that began with the old ones holds.
        question = (wanted, valid, last, layout, access.endpoint_url, _saved_by(pods), spoiled)
        prove = partial(self._of_stop, access, layout, wanted, valid, last=last, spoiled=spoiled)
        found = await self._stops.answer(run.uid, run.namespace, question, prove)
        return BucketAnswer() if can_save and _has_counted(stop, found.answer, memory) else found

    async def look_for(
        self, run: Run, ranks: Sequence[Sequence[Pod]], memory: Memory, wall: str, now: float
    ) -> Looked | None:
        """List one of the run's outputs, beside the look; None: none is due, or its list is still being made.

        Only keys in the run's own folder are listed, with the credentials that prove its checkpoints.
        """
        named = run.spec.completion.outputs
        training = [group[-1] for group in ranks if group]
        if not named or run.status.termination is not None or any(not pod.started_at for pod in training):
            return None
        if run.spec.checkpoint.mode is CheckpointMode.DISABLED or all(
            pod.training is not Training.RUNNING for pod in training
        ):
            return None
        pods = outputs.uids(training)
        due = memory.outputs.due(named, pods, now)
        layout = valid_layout(run)
        if due is None or outputs.complaint(due) or isinstance(layout, Problem):
            return None
        running = min(_seconds_between(pod.started_at, wall) for pod in training)
        listed = partial(self._list, run, layout, due, pods, running)
        return await self._lists.result(run.uid, run.namespace, listed, known=False, patient=True)

    async def _list(
        self, run: Run, layout: Layout, output: str, pods: tuple[str, ...], running_seconds: float
    ) -> Looked:
        access = await self.access(run)
        if isinstance(access, Problem):
            return Looked(output, pods, Unreachable(access.reason, access.message))
        listed = await self._store.ages(access, layout, outputs.prefix(layout, output))
        if isinstance(listed, Unreachable):
            return Looked(output, pods, listed)
        found = outputs.found(layout, output, listed.ages, running_seconds, more=listed.more)
        return Looked(output, pods, found)

    async def access(self, run: Run) -> Access | Problem:
        """Return the run's credentials as they are now, so that a corrected Secret takes effect at once.

        The server is checked against the list before every use, because `endpointURL` may change.
        """
        destination = allowed(run, self._listed)
        if isinstance(destination, Problem):
            return destination
        if (problem := identity.missing(run, destination)) is not None:
            return problem
        s3 = run.spec.checkpoint.s3
        if s3.credentials_secret_name:
            access = access_of(run.spec, await self._kube.secret(run.namespace, s3.credentials_secret_name))
        else:
            access = Access(
                endpoint_url=s3.endpoint_url, region=s3.region, requester_pays=s3.requester_pays, own_identity=True
            )
        if isinstance(access, Problem):
            return access
        access = replace(access, expected_bucket_owner=destination.expected_bucket_owner, owner=run.namespace)
        # Runs with the same credentials share one object, because certificates may be long.
        return self._shared.setdefault(access.digest, access)

    async def _of_stop(
        self,
        access: Access,
        layout: Layout,
        wanted: tuple[str, int] | None,
        valid: float,
        *,
        last: bool,
        spoiled: Spoiled | None,
    ) -> BucketAnswer:
        """Return the commit that answers a save request; without one, the newest of all, if nothing newer can come."""
        if wanted is not None:
            answer = await self._store.find(
                access, layout, lambda commit: (commit.termination_id, commit.attempt) == wanted, max_age_seconds=valid
            )
            if answer is not None:
                proven = answer if isinstance(answer, Verified) else None
                return BucketAnswer(answer, proven, refuted=(answer,) if isinstance(answer, Mismatch) else ())
        return await self._newest(access, layout, spoiled) if last else BucketAnswer()

    async def _newest(self, access: Access, layout: Layout, spoiled: Spoiled | None) -> BucketAnswer:
        """Return the newest verified commit after the last pod. Only a failure to read the bucket is an answer.

        ``spoiled``: the values of the training were no longer finite: the newest one from before comes first.
        """
        if spoiled is not None:
            wanted = partial(published.is_from_before, spoiled=spoiled)
            before = await self._store.find(access, layout, wanted, depth=FINITE_DEPTH, fall_back=True)
            if isinstance(before, Verified):
                return BucketAnswer(verified=before, refuted=before.passed_over)
        found = await self._store.find(access, layout, lambda _: True, fall_back=True)
        match found:
            case Verified():
                return BucketAnswer(verified=found, refuted=found.passed_over)
            case Mismatch():
                return BucketAnswer(refuted=(found,))
            case _:
                return BucketAnswer(found)

    async def _beside(self, run: Run, access: Access, layout: Layout, key: str, memory: Memory) -> BucketAnswer:
        """Return the proof of a reported commit, once it is made: until then, what the status records stays true."""
        recorded = run.status.checkpoint
        known = recorded is not None and recorded.commit == key and recorded.verified_at is not None
        prove = partial(self._new, access, layout, key)
        # At the first look, as at a start of the operator, other runs wait to be looked at.
        first = not memory.read_at
        made = await self._proofs.result(run.uid, run.namespace, prove, known=known, patient=not first and not known)
        return made if made is not None else BucketAnswer()

    async def _new(self, access: Access, layout: Layout, key: str) -> BucketAnswer:
        """Verify a checkpoint while the training runs."""
        found = await self._store.verify(access, layout, key)
        if isinstance(found, Verified):
            return BucketAnswer(verified=found)
        if isinstance(found, Mismatch):
            return BucketAnswer(found, unverifiable=key, refuted=(found,))
        return BucketAnswer(found)


def access_of(spec: TrainingRunSpec, secret: dict[str, bytes] | None) -> Access | Problem:
    """Return the credentials from the run's Secret, or the problem with it."""
    s3 = spec.checkpoint.s3
    name = s3.credentials_secret_name
    if secret is None:
        message = (
            f"spec.checkpoint.s3.credentialsSecretName is {name!r}, but there is no such Secret in this namespace."
        )
        return Problem("SecretNotFound", message, permanent=False)
    missing = [key for key in (names.ACCESS_KEY, names.SECRET_KEY) if not secret.get(key)]
    if missing:
        return Problem("SecretIncomplete", f"Secret {name!r} has no {' and no '.join(missing)}.", permanent=False)
    for key, most in _LONGEST.items():
        if len(secret.get(key, b"")) > most:
            message = f"{key} of Secret {name!r} has {len(secret[key])} bytes, more than {most}: {_SHORTEN.get(key, 'correct it')}."
            return Problem("SecretTooLarge", message, permanent=False)
    text = {key: secret.get(key, b"").decode(errors="replace").strip() for key in _LONGEST}
    return Access(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        requester_pays=s3.requester_pays,
        access_key=text[names.ACCESS_KEY],
        secret_key=text[names.SECRET_KEY],
        session_token=text.get(names.SESSION_TOKEN, ""),
        ca_pem=text.get(names.CA, ""),
    )


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _saved_by(pods: Sequence[Pod]) -> tuple[tuple[str, bool, bool], ...]:
    """Return which pods have run and which are over, as it was before the bucket was asked: what a pod that is over has not saved counts as lost.

    What agents report is no part of it: while a pod lives, a commit that is found one look later delays a stop and loses nothing.
    """
    return tuple((pod.uid, pod.ran, pod.terminal) for pod in pods)


def _has_counted(stop: Termination | None, answer: Answer | None, memory: Memory) -> bool:
    """Whether the answer is a commit that cannot be read, such as another run's, for which this stop has asked for another save already.

    It lies there for ever. Counted again, it would be the answer to every further request, before the agents could give one.
    """
    if stop is None or stop.phase not in (Phase.SAVING, Phase.HELD):
        return False
    if not isinstance(answer, Mismatch) or answer.id is not None:
        return False
    order = order_of_commit(answer.key)
    return order is not None and order in memory.refuted


def _shipped(layout: Layout, reports: Mapping[int, AgentReport], memory: Memory) -> str | None:
    """Return the key of a reported commit that is not verified yet; None: there is none."""
    known = {memory.verified.key if memory.verified is not None else "", memory.unverifiable}
    keys = (report.commit.key for report in reports.values() if report.commit is not None)
    new = (key for key in keys if key not in known and order_of_commit(key) not in memory.refuted)
    return next((key for key in new if layout.owns(key)), None)

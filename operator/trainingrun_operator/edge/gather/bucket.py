"""What the bucket says about one run. On the way, its newest verified commit is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.destinations import allowed, layout_of
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.core.destinations import Destination
    from trainingrun_operator.core.facts.bucket import Answer
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube
    from trainingrun_operator.edge.memory import Memory

PROOF_SECONDS: Final = 300
"""So long a proof is believed, except in Verifying."""
SAVING: Final = frozenset({Phase.SAVING, Phase.HELD, Phase.VERIFYING})
_SILENT: Final = frozenset({Phase.REQUESTED, Phase.RELEASING, Phase.DONE})


class Evidence:
    """Reads the bucket of any run, with the run's own credentials."""

    def __init__(self, kube: Kube, store: Store, listed: tuple[Destination, ...] = ()) -> None:
        self._kube, self._store, self._listed = kube, store, listed

    async def ask(self, run: Run, pods: Sequence[Pod], memory: Memory) -> Answer | None:
        """Return what the bucket says to the save request in hand, or about a checkpoint that the agent has just shipped.

        A training run whose agent reports nothing new costs no call at all.
        """
        stop = run.status.termination
        if run.spec.checkpoint.mode is CheckpointMode.DISABLED or (stop is not None and stop.phase in _SILENT):
            return None
        layout = layout_of(run)
        wanted = _wanted(run, pods)
        shipped = _shipped(layout, memory)
        all_gone = stop is not None and stop.phase is Phase.DELETING and all(pod.lost for pod in pods)
        if wanted is None and shipped is None and not all_gone:
            return None
        access = await self.access(run)
        if isinstance(access, Problem) and access.reason == "SecretNotFound" and stop is not None and memory.access:
            # Deleted with its namespace, most likely: what the agent still saves is proven with what was known.
            access = memory.access
        if isinstance(access, Problem):
            return Unreachable(access.reason, access.message)
        memory.access = access
        if wanted is None:
            return await (
                self._newest(access, layout, memory) if shipped is None else self._new(access, layout, shipped, memory)
            )
        # Deletion rests on what Verifying reads: all of it, now. Before that a recent proof will do.
        fresh = stop is not None and stop.phase is Phase.VERIFYING
        answer = await self._store.find(access, layout, wanted, max_age_seconds=0 if fresh else PROOF_SECONDS)
        _remember(memory, answer)
        holds = any(pod.training is not Training.NOT_STARTED for pod in pods if not pod.terminal)
        return answer if answer is not None or holds else await self._newest(access, layout, memory)

    async def access(self, run: Run) -> Access | Problem:
        """The run's credentials, read now: a Secret that was mended helps at once.

        The server is checked against the list before every use: `endpointURL` can be changed.
        """
        destination = allowed(run, self._listed)
        if isinstance(destination, Problem):
            return destination
        secret = await self._kube.secret(run.namespace, run.spec.checkpoint.s3.credentials_secret_name)
        access = access_of(run.spec, secret)
        if isinstance(access, Problem):
            return access
        return replace(access, expected_bucket_owner=destination.expected_bucket_owner)

    async def _newest(self, access: Access, layout: Layout, memory: Memory) -> Answer | None:
        """Whatever the bucket has, once no pod can add to it. Only a failure to read it is an answer."""
        found = await self._store.find(access, layout, lambda _: True, fall_back=True)
        _remember(memory, found)
        return found if isinstance(found, Unreachable) else None

    async def _new(self, access: Access, layout: Layout, key: str, memory: Memory) -> Answer | None:
        """Verify a checkpoint while the training goes on."""
        found = await self._store.verify(access, layout, key)
        _remember(memory, found)
        if isinstance(found, Mismatch):
            memory.unverifiable = key
        return None if isinstance(found, Verified) else found


def asked(run: Run, pods: Sequence[Pod]) -> tuple[str, int] | None:
    """The save request in hand, by id and attempt: of a stop, also for what was written after its proof, or of a crashed pod behind its gate."""
    stop = run.status.termination
    if stop is not None and stop.phase in SAVING:
        return stop.id, stop.attempt
    pod = pods[-1] if pods else None
    if pod is None or pod.terminal or pod.released or pod.save is None:
        return None
    if stop is not None and (stop.phase is not Phase.DELETING or pod.save.attempt <= stop.attempt):
        return None
    return pod.save.id, pod.save.attempt


def access_of(spec: TrainingRunSpec, secret: dict[str, bytes] | None) -> Access | Problem:
    """Read the credentials out of the run's Secret, or say what is missing in it."""
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
    text = {key: value.decode(errors="replace").strip() for key, value in secret.items()}
    return Access(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key=text[names.ACCESS_KEY],
        secret_key=text[names.SECRET_KEY],
        session_token=text.get(names.SESSION_TOKEN, ""),
        ca_pem=text.get(names.CA, ""),
    )


def _wanted(run: Run, pods: Sequence[Pod]) -> Callable[[Commit], bool] | None:
    request = asked(run, pods)
    return None if request is None else lambda commit: (commit.termination_id, commit.attempt) == request


def _shipped(layout: Layout, memory: Memory) -> str | None:
    """Key of a commit that the agent reports and nobody has verified yet."""
    commit = memory.agent.commit if memory.agent is not None else None
    known = memory.verified.key if memory.verified is not None else ""
    if commit is None or commit.key in (known, memory.unverifiable) or not layout.owns(commit.key):
        return None
    return commit.key


def _remember(memory: Memory, found: Answer | None) -> None:
    if isinstance(found, Verified) and (memory.verified is None or found.commit.order >= memory.verified.commit.order):
        memory.verified = found

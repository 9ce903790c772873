"""The outputs that the spec names: whether the training has written them to the bucket, and all its files."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.checkpoints.keys import LISTED_MAX
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.outputs import Found
from trainingrun_operator.core.rules import stall
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "outputs"
_SAID: Final = {
    Found.OLD: "has only objects that are older than the pod, which prove nothing",
    Found.TOO_MANY: f"is not among the first {LISTED_MAX:,} keys that begin like it: begin it with more literal text",
    Found.MISSING: "is not in the bucket",
}


def missing(seen: Observed) -> Finding | None:
    """Return what is missing for a completion by outputs; None: nothing."""
    named = seen.run.spec.completion.outputs
    lacking = seen.outputs.missing(named)
    if lacking:
        return _lacking(seen, lacking[0], f"{len(named) - len(lacking)} of {len(named)} outputs")
    words = "All outputs are in the bucket"
    # Any complete checkpoint will do: the outputs are what the training was for.
    return stall.refuted(seen, RULE, words) or stall.unwritten(seen, RULE, words, "", 0, inf)


def written(seen: Observed) -> Finding:
    """Return the finding of outputs that nothing is missing for."""
    named = ", ".join(seen.run.spec.completion.outputs)
    return Finding(
        RULE,
        "Written",
        f"Training wrote its outputs to the bucket: {named} (completion.outputs).",
        endings.AUTO_COMPLETE,
        actor=RULE,
        evidence=(Evidence(what="outputs", value=clipped(named, TEXT_MAX), step=seen.track.step),),
        inferred=True,
    )


def _lacking(seen: Observed, output: str, so_far: str) -> Finding:
    looked = seen.outputs.looked.get(output)
    if looked is None:
        return Finding(RULE, "NotListedYet", f"{so_far}: {output} was not looked for yet (completion.outputs).")
    if isinstance(looked, Found):
        return Finding(RULE, looked.value, f"{so_far}: {output} {_SAID[looked]} (completion.outputs).")
    return Finding(RULE, looked.code, f"{so_far}: {output} cannot be looked for (completion.outputs). {looked.message}")

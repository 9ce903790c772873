"""The metric sources Files and Push: loss and step of the files under the checkpoint path, or as the training posts them, both from the agent.

The names are the training's own, so they are judged as in a log: a name or a folder that says evaluation is none of the training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names as api_names
from trainingrun_operator.api.exchange import MEASURED_MAX_BYTES, Measured
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS, Failure, Reading
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.metrics import gradient
from trainingrun_operator.edge.metrics.log.words import Phase, name_of, names, phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.exchange import MeasuredFile
    from trainingrun_operator.edge.metrics.log.words import Names
    from trainingrun_operator.edge.metrics.source import Target, Tools

TIMEOUT_SECONDS: Final = 3.0
TOGETHER_SECONDS: Final = 60.0
"""Files of one kind that were written within this time of each other are written side by side."""
STATE: Final = "TrainerState"
KINDS: Final = ("JSONLines", "TensorBoard", "CSV", STATE)
"""The most prompt first: Lightning writes its CSV every 100 steps, Hugging Face's Trainer its state at each save."""


class _AgentSource(ABC):
    """Implements `MetricSource` for numbers that the agent has."""

    def __init__(self, tools: Tools, *, port: int = api_names.AGENT_PORT) -> None:
        self._http, self._port = tools.http, port

    async def read(self, target: Target) -> Reading | Failure:
        """See `MetricSource`."""
        measured = await _measured(self._http, target, self._port)
        if isinstance(measured, Failure):
            return measured
        return self._of(measured, names(target.run.spec.metrics.names))

    @abstractmethod
    def _of(self, measured: Measured, wanted: Names) -> Reading | Failure:
        """Return what counts of the agent's answer."""


class FileSource(_AgentSource):
    """Reads the training's files."""

    def _of(self, measured: Measured, wanted: Names) -> Reading | Failure:
        return of_files(measured.files, wanted)


class PushSource(_AgentSource):
    """Reads what the training posts."""

    def _of(self, measured: Measured, wanted: Names) -> Reading | Failure:
        if measured.pushed is None:
            return Failure("NothingPushed", f"The training has posted nothing to ${api_names.PUSH_ENV} yet.")
        reading = _reading(measured.pushed, wanted)
        if reading is None:
            return Failure(
                "NoSuchMetric", "The training has posted no loss under any of the names in spec.metrics.names.loss."
            )
        return reading


async def _measured(http: aiohttp.ClientSession, target: Target, port: int) -> Measured | Failure:
    """Return what the agent of a pod has read."""
    if target.pod.rank:
        return Failure("OtherRank", "The numbers of rank 0 are read; other ranks have the same ones.")
    url = f"http://{target.pod.host}:{port}/measured"
    calls.count(Api.AGENT)
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with http.get(url, timeout=timeout, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                return Failure(
                    "HTTPStatus", f"The agent answers {url} with {answer.status}: is it older than the operator?"
                )
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MEASURED_MAX_BYTES:
                    return Failure("TooLarge", f"{url} is larger than {MEASURED_MAX_BYTES} bytes.")
        measured = Measured.model_validate_json(body)
    except ValidationError:
        return Failure("BadResponse", f"{url} does not answer as an agent.")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Failure("AgentUnreachable", f"{url} does not answer ({type(error).__name__}).")
    return measured if measured.pod_uid == target.pod.uid else Failure("BadResponse", f"{url} answers for another pod.")


def of_files(files: Sequence[MeasuredFile], wanted: Names) -> Reading | Failure:
    """Return the newest numbers of the file that has the training's loss. Of several kinds of files the most prompt counts, of one kind the newest."""
    found = [(one, reading) for one in files if (reading := _reading(one, wanted)) is not None]
    known = [(one, reading) for one, reading in found if one.kind in KINDS]
    if not known:
        return Failure("NoSuchMetric", _nothing(files))
    kind = min((one.kind for one, _ in known), key=KINDS.index)
    newest = sorted((pair for pair in known if pair[0].kind == kind), key=lambda pair: pair[0].age_seconds)
    (first, reading), others = newest[0], newest[1:]
    if kind == STATE:
        # One is in each checkpoint: the newest has the highest step.
        return max((one for _, one in newest), key=lambda one: one.step if counts(one.step) else -1)
    for other, its in others:
        if other.age_seconds - first.age_seconds <= TOGETHER_SECONDS and its.loss != reading.loss:
            return Failure(
                "AmbiguousSeries",
                "Several files with a loss of the training are written at the same time, and disagree. None of them is used: let only rank 0 write, or select"
                " one name in spec.metrics.names.loss.",
            )
    if first.behind:
        return Failure("FileBehind", "The agent has not read the training's file to its end yet.")
    return reading


def _reading(file: MeasuredFile, wanted: Names) -> Reading | None:
    """Return the numbers of a file; None: it has no loss of the training."""
    if phase(file.path) is Phase.EVALUATION:
        return None
    # Of the names that one file has for the loss, the preferred one counts.
    values, steps, losses = dict[str, float](), dict[str, float | None](), dict[str, str]()
    for one in file.values:
        try:
            values[one.name] = float(one.value)
        except ValueError:
            continue
        steps[one.name] = one.step
        if phase(one.name) is not Phase.EVALUATION and name_of(one.name) in wanted.loss:
            losses.setdefault(name_of(one.name), one.name)
    name = next((losses[one] for one in wanted.loss if one in losses), "")
    if not name:
        return None
    # Values of a later row are not the loss's: step and norm are those of its own step, if that is known.
    at = steps[name]
    meanings = {name_of(one): one for one in values}
    step = at if at is not None else next((values[meanings[one]] for one in meanings if one in wanted.step), None)
    epoch = next((values[meanings[one]] for one in meanings if one in wanted.epoch), None)
    total = next((values[meanings[one]] for one in meanings if one in wanted.total_epochs), None)
    norm = next((values[one] for one in values if gradient.is_gradient_norm(one) and steps[one] == at), None)
    named = {name_of(one): value for one, value in values.items()}
    return Reading(
        step, epoch, total, {**named, LOSS: values[name], **({GRADIENT_NORM: norm} if norm is not None else {})}
    )


def _nothing(files: Sequence[MeasuredFile]) -> str:
    if not files:
        return (
            "No file with numbers is written under the checkpoint path: TensorBoard's events.out.tfevents.*, trainer_state.json, metrics.csv or *.jsonl, not"
            " excluded by spec.checkpoint."
        )
    return f"{len(files)} files under the checkpoint path have numbers, but no loss of the training under any of the names in spec.metrics.names.loss."

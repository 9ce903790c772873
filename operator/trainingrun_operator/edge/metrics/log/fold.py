"""Folds the lines of one pod's log into its newest numbers.

A log does not say everything on every line. The loss is taken under one name; the step from the lines that have one, else from a bar that is
certainly the training's; the epoch likewise. What is not certain is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS, VALUES_MAX, Failure, Reading
from trainingrun_operator.edge.metrics.log import bars, line, own
from trainingrun_operator.edge.metrics.log.bars import Bar, Kind
from trainingrun_operator.edge.metrics.log.line import LINE_MAX, Line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainingrun_operator.edge.metrics.log.words import Names

CANDIDATES_MAX: Final = 256
"""Lines with a loss, and as many without one, that are looked at in one piece of a log: the newest."""
OWN_LINES_MAX: Final = 2048
"""Lines of one piece of a log in which the spec's own patterns are searched: the newest."""
NAME_UNSEEN: Final = 50
"""Losses under another name after which that name takes the place of one that is not printed any more."""
CONFLICTS_MAX: Final = 4
"""Weight of steps with two different losses, less the steps with one, above which several processes print: two steps in a row."""
_SAME: Final = 1e-2
"""Relative difference of two roundings of one loss."""
_BARS_MAX: Final = 8

_TERMINAL: Final = re.compile(
    r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b\n]{0,256}(?:\x07|\x1b\\)|[@-Z\\^_])|[\x00\x08]"
)
"""Colours and other sequences for terminals, and the backspaces before Keras' bars."""


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, without what is for terminals. A carriage return ends a line, as in the output of bars."""
    if "\x1b" in text or "\x08" in text or "\x00" in text:
        text = _TERMINAL.sub("", text)
    return text.replace("\r", "\n").split("\n")


class Fold:
    """The newest numbers of one pod's log."""

    def __init__(self, names: Names, patterns: Sequence[str] = ()) -> None:
        self._names, self._patterns = names, patterns
        self._loss: float | None = None
        self._loss_name = ""
        self._unseen = 0
        self._norm: float | None = None
        self._values: dict[str, float] = {}
        self._steps = _Steps()
        self._rank: int | None = None
        self._conflicts = 0
        self._last: tuple[tuple[float | None, float | None], float] | None = None
        self.lines = self.long = self.fragments = self.evaluations = 0

    def add(self, text: str) -> None:
        """Add the next piece of the log, oldest line first."""
        for one in self._candidates(lines_of(text)):
            self._add(one)

    def _candidates(self, lines: list[str]) -> Iterator[str]:
        """Yield the lines that may have numbers, of many only the newest."""
        if self._patterns or self._names.own:
            self.long += sum(1 for one in lines if len(one) > LINE_MAX)
            self.lines += sum(1 for one in lines if one)
            yield from [one for one in lines if one and len(one) <= LINE_MAX][-OWN_LINES_MAX:]
            return
        with_loss, others = [], []
        for number, one in enumerate(lines):
            if len(one) > LINE_MAX:
                self.long += 1
            elif "loss" in one or "Loss" in one or "LOSS" in one:
                with_loss.append(number)
            elif ("poch" in one or "|" in one or "eval" in one or "val" in one or "{" in one) and one:
                others.append(number)
        self.lines += sum(1 for one in lines if one)
        for number in sorted((*with_loss[-CANDIDATES_MAX:], *others[-CANDIDATES_MAX:])):
            yield lines[number]

    def _add(self, text: str) -> None:
        if self._patterns:
            if (own_line := own.parse(text, self._patterns)) is not None:
                self._take(own_line, None)
            return
        if line.is_fragment(text):
            self.fragments += 1
            return
        if (head := bars.header(text)) is not None:
            self._steps.header(*head)
            return
        bar, said = bars.find(text), line.parse(text, self._names)
        if bar is not None and not self._steps.is_of_training(bar, said):
            self.evaluations += bool(said.losses)
            return
        if said.losses and not self._speaks(said):
            return
        self.evaluations += said.evaluation_losses
        if said.losses or said.evaluation_losses or bar is not None or "{" in text:
            self._keep(said)
        self._take(said, bar, drawn=bar is not None or bars.is_drawn(text))

    def _take(self, said: Line, bar: Bar | None, *, drawn: bool = False) -> None:
        """Take loss, step and epoch of a line."""
        if self._patterns:
            self._keep(said)
        self._steps.read(bar, said, own=bool(self._patterns), drawn=drawn)
        name = self._name(said)
        if name in said.losses:
            self._loss, self._norm = said.losses[name], said.gradient_norm
            if bar is None:
                self._compare(said, said.losses[name])

    def _speaks(self, said: Line) -> bool:
        """Whether the lowest rank that prints losses has printed a line; a line without a rank is the training's."""
        if said.rank is None:
            return True
        self._rank = said.rank if self._rank is None else min(self._rank, said.rank)
        return said.rank == self._rank

    def _keep(self, said: Line) -> None:
        """Keep all values by name; of too many, the newest names."""
        for name, value in (*said.values.items(), *said.losses.items()):
            self._values.pop(name, None)
            self._values[name] = value
        while len(self._values) > VALUES_MAX:
            del self._values[next(iter(self._values))]

    def _name(self, said: Line) -> str:
        """Return the name under which the loss is taken: the one that was seen first, unless the spec has an order of its own."""
        found = next((one for one in self._names.loss if one in said.losses), "")
        if not found or not self._loss_name:
            self._loss_name = self._loss_name or found
            return self._loss_name
        known = self._loss_name
        if self._names.own:
            self._loss_name = min(known, found, key=self._names.loss.index)
            return self._loss_name
        self._unseen = 0 if known in said.losses else self._unseen + 1
        if self._unseen > NAME_UNSEEN:
            self._loss_name, self._unseen = found, 0
        return self._loss_name

    def _compare(self, said: Line, loss: float) -> None:
        """Count steps that have two different losses: several processes print into one log."""
        at = (said.step, said.epoch)
        before, self._last = self._last, (at, loss)
        if before is None or at == (None, None):
            return
        if before[0] != at:
            self._conflicts = max(0, self._conflicts - 1)
        elif abs(loss - before[1]) > _SAME * max(abs(loss), abs(before[1])):
            self._conflicts = min(self._conflicts + 3, 3 * CONFLICTS_MAX)

    def reading(self) -> Reading | Failure:
        """Return the newest numbers, or why there are none."""
        if self._conflicts > CONFLICTS_MAX:
            return Failure(
                "AmbiguousSeries",
                "The log has several losses for one step: several processes print into it. None of them is used: let only rank 0 print, or print the"
                " rank.",
            )
        if self._loss is None:
            return Failure("NoSuchMetric", self._nothing())
        values = {**self._values, LOSS: self._loss}
        if self._norm is not None:
            values[GRADIENT_NORM] = self._norm
        steps = self._steps
        return Reading(steps.step, steps.epoch, steps.total_epochs, values, total_of_bar=steps.total_of_bar)

    def _nothing(self) -> str:
        told = [f"The log has no loss of the training in a known format, in {self.lines} lines that were read"]
        if self.evaluations:
            told.append(f"{self.evaluations} losses are of an evaluation, or not clearly of the training")
        if self.fragments:
            told.append(
                f"{self.fragments} lines are parts of objects over several lines, which are skipped: print each object on one line"
            )
        if self.long:
            told.append(f"{self.long} lines are longer than {LINE_MAX} characters, which are skipped")
        return f"{'; '.join(told)}. Set spec.metrics.logs.patterns, or another spec.metrics.source."


class _Steps:
    """The newest step and epoch, of lines and bars."""

    def __init__(self) -> None:
        self.step: float | None = None
        self.epoch: float | None = None
        self.total_epochs: float | None = None
        self._printed: float | None = None
        """The total that a line without a bar has said last."""
        self._own = False
        """Whether lines with a loss have a step: then no bar gives one."""
        self._from_0 = False
        """Whether an epoch 0 was seen."""
        self._header: int | None = None
        """The epoch of the last ``Epoch 1/10``."""
        self._keras: int | None = None
        """The total of the last bar of Keras that was full, since the last header; 0: none was."""
        self._plain = _PlainBars()
        self._numbered: tuple[float, float] | None = None
        """Epoch and step of the last line that has ``100/600``."""
        self._per_epoch: bool | None = None
        """Whether such steps begin again in every epoch; None: not known."""

    @property
    def total_of_bar(self) -> bool:
        """Whether only bars, or their headers, say this total."""
        return self.total_epochs != self._printed

    def header(self, epoch: int, total: int) -> None:
        self._header, self._keras = epoch, 0
        self._set_epoch(epoch, total)

    def is_of_training(self, bar: Bar, said: Line) -> bool:
        """Whether a line with a bar is of the training."""
        if bar.kind is Kind.KERAS:
            return self._is_of_fit(bar, said)
        return bar.kind in (Kind.TRAINING, Kind.PLAIN) or (bar.kind is Kind.OTHER and bool(said.losses))

    def _is_of_fit(self, bar: Bar, said: Line) -> bool:
        """Whether a bar of Keras is fit()'s. evaluate() prints the same one, but no header before it."""
        if self._keras is None:
            return False
        if self._keras:
            # The full bar is printed once more with the values of the validation.
            return bar.n == bar.total == self._keras and bool(said.evaluation_losses)
        if bar.n >= bar.total:
            self._keras = bar.total
        return True

    def read(self, bar: Bar | None, said: Line, *, own: bool, drawn: bool) -> None:
        if own or said.losses or said.evaluation_losses or (bar is not None and bar.epoch is not None):
            self._set_epoch(said.epoch, said.total_epochs)
            if not drawn and said.total_epochs is not None:
                self._printed = said.total_epochs
        if bar is None:
            if said.step is not None and (said.losses or own):
                self._own = True
                self.step = self._of_line(said)
        elif not self._own:
            self._read_bar(bar)
        if said.losses:
            self._plain.logged()

    def _read_bar(self, bar: Bar) -> None:
        if bar.kind is Kind.PLAIN:
            step = self._plain.read(bar)
            self.step = step if step is not None else self.step
            return
        epoch = bar.epoch if bar.epoch is not None else self._header
        counts_from_1 = not self._from_0 and (bar.epoch is None or bar.total_epochs is not None)
        self.step = bar.n if epoch is None else (epoch - counts_from_1) * bar.total + bar.n

    def _of_line(self, said: Line) -> float | None:
        """Return the step of a line. A ``100/600`` beside an epoch may be of the epoch, which shows when the second epoch begins."""
        step, epoch, total = said.step, said.epoch, said.of_steps
        if step is None or epoch is None or total is None or epoch % 1:
            return step
        before, self._numbered = self._numbered, (epoch, step)
        if before is not None and epoch > before[0]:
            self._per_epoch = step < before[1]
        if self._per_epoch is None:
            return step if epoch <= 1 else None
        return (epoch - (not self._from_0)) * total + step if self._per_epoch else step

    def _set_epoch(self, epoch: float | None, total: float | None) -> None:
        if epoch is not None:
            self.epoch = epoch
            self._from_0 = self._from_0 or 0 <= epoch < 1
        if total is not None:
            self.total_epochs = total


class _PlainBars:
    """Bars without words, told apart by their totals. One that moves on while losses are logged, and never begins again, is the training's."""

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self._marked: dict[int, int] = {}
        """Where each bar was when a loss was logged."""
        self._fell: set[int] = set()
        self._chosen: int | None = None

    def logged(self) -> None:
        self._marked.update(self._newest)

    def read(self, bar: Bar) -> int | None:
        """Add a bar; return the step, if it is the training's."""
        total, n = bar.total, bar.n
        if n < self._newest.get(total, n):
            self._fell.add(total)
        if total not in self._newest and len(self._newest) >= _BARS_MAX:
            return None
        self._newest[total] = n
        if self._chosen in self._fell:
            self._chosen = None
        others = self._newest.keys() - self._fell - {total}
        moves = n > self._marked.get(total, n)
        if self._chosen is None and total not in self._fell and not others and moves:
            self._chosen = total
        return n if total == self._chosen else None

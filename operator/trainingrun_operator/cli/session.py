"""What every command has: kubectl with the person's flags, and the screen. And the options that kubectl itself knows, wherever they are written."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from trainingrun_operator.api import names
from trainingrun_operator.cli.curve import points_of
from trainingrun_operator.cli.kubectl import Kubectl
from trainingrun_operator.cli.screen import Screen
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.facts.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.curve import Point

P = ParamSpec("P")
R = TypeVar("R")
FLAGS: Final = "trainingrun.flags"
"""Where click's context keeps kubectl's flags."""


@dataclass
class Session:
    """One call of the plugin."""

    kubectl: Kubectl
    screen: Screen = field(default_factory=Screen)

    @property
    def now(self) -> datetime:
        """The wall clock, for ages."""
        return datetime.now(UTC)

    def run(self, name: str) -> Run:
        """Read a run.

        Raises:
            TroubleError: there is none, it may not be read, or it is of a version that this plugin does not know.
        """
        return parsed(self.kubectl.run(name))

    def curve(self, run: Run) -> tuple[Point, ...]:
        """The losses of a run over its steps; empty if none were kept."""
        return points_of(self.kubectl.config_map(names.curve_name(run.name)), run.uid)


def parsed(stored: dict[str, Any]) -> Run:
    """Read a stored run.

    Raises:
        TroubleError: a newer operator wrote what this plugin does not understand.
    """
    try:
        return Run.of(stored)
    except ValueError as error:
        name = stored["metadata"]["name"]
        raise TroubleError(
            f"TrainingRun {name!r} has something that this version does not understand: install the plugin of your operator's version."
        ) from error


# -- where and as whom --------------------------------------------------------------------------------------------


def _remember(context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> None:
    """Keep a flag for kubectl, whether it was written before or after the command."""
    flags = context.meta.setdefault(FLAGS, {})
    if value:
        flags[parameter.opts[-1]] = value if isinstance(value, tuple) else (value,)


def _option(*names: str, help_text: str, **more: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    return click.option(*names, help=help_text, expose_value=False, callback=_remember, **more)


_WHERE: Final = (
    _option("-n", "--namespace", help_text="Namespace of the run.  [default: of the context]", metavar="NAME"),
    _option("--context", help_text="Context of the kubeconfig.", metavar="NAME"),
    _option("--kubeconfig", help_text="File that says where the cluster is.", metavar="FILE", type=click.Path()),
    _option("--cluster", help_text="Cluster of the kubeconfig.", metavar="NAME", hidden=True),
    _option("--user", help_text="User of the kubeconfig.", metavar="NAME", hidden=True),
    _option("--as", help_text="User to act as.", metavar="NAME", hidden=True),
    _option("--as-group", help_text="Group to act as.", metavar="NAME", multiple=True, hidden=True),
    _option("--request-timeout", help_text="How long to wait for an answer.", metavar="DURATION", hidden=True),
)


def where(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options by which kubectl knows the cluster and the person."""
    for option in reversed(_WHERE):
        command = option(command)
    return command


def kubectl_of(context: click.Context) -> Kubectl:
    """Kubectl with the flags that were written."""
    flags = context.meta.get(FLAGS, {})
    return Kubectl(tuple(f"{name}={value}" for name, values in flags.items() for value in values))


def in_session(command: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Hand the session to a command as its first argument."""

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        context = click.get_current_context()
        return command(Session(kubectl_of(context)), *args, **kwargs)

    return update_wrapper(called, command)


class RunName(click.ParamType[str]):
    """The name of a TrainingRun; completed from those that there are."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        """Names of the runs in the namespace; none where they cannot be read."""
        try:
            found = kubectl_of(ctx).names()
        except TroubleError:
            return []
        return [CompletionItem(one) for one in found if one.startswith(incomplete)]


RUN: Final = RunName()


def ask(question: str, *, yes: bool) -> None:
    """Have a person agree.

    Raises:
        TroubleError: they do not, or nobody is there to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise TroubleError("Nobody can be asked whether this is meant: give --yes.", Exit.USAGE)
    if not click.confirm(question, err=True):
        raise TroubleError("Nothing was changed.")

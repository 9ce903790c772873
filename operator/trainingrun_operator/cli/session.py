"""The session of a command: kubectl with the person's flags, and the screen. Also kubectl's own options."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from trainingrun_operator.api import names
from trainingrun_operator.cli.curve import curve_of
from trainingrun_operator.cli.kubectl import Kubectl
from trainingrun_operator.cli.screen import Screen
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.facts.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.curve import Curve

P = ParamSpec("P")
R = TypeVar("R")
FLAGS: Final = "trainingrun.flags"
"""Key of kubectl's flags in click's context."""


@dataclass
class Session:
    """One invocation of the plugin."""

    kubectl: Kubectl
    screen: Screen = field(default_factory=Screen)

    @property
    def now(self) -> datetime:
        """The current time, for ages."""
        return datetime.now(UTC)

    def run(self, name: str) -> Run:
        """Read a run.

        Raises:
            TroubleError: the run does not exist, may not be read, or was written by a newer operator.
        """
        return parsed(self.kubectl.run(name))

    def curve(self, run: Run) -> Curve:
        """The curves of a run; empty if none is stored."""
        return curve_of(self.kubectl.config_map(names.curve_name(run.name)), run.uid)


def parsed(stored: dict[str, Any]) -> Run:
    """Parse a stored run.

    Raises:
        TroubleError: the run was written by a newer operator.
    """
    try:
        return Run.of(stored)
    except ValueError as error:
        name = stored["metadata"]["name"]
        raise TroubleError(
            f"TrainingRun {name!r} was written by a newer operator. Install the plugin of the operator's version."
        ) from error


# -- cluster and identity -----------------------------------------------------------------------------------------


def _remember(context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> None:
    """Store a flag for kubectl, whether given before or after the command."""
    flags = context.meta.setdefault(FLAGS, {})
    if value:
        flags[parameter.opts[-1]] = value if isinstance(value, tuple) else (value,)


def _option(*names: str, help_text: str, **more: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    return click.option(*names, help=help_text, expose_value=False, callback=_remember, **more)


_WHERE: Final = (
    _option("-n", "--namespace", help_text="Namespace of the run.  [default: from the context]", metavar="NAME"),
    _option("--context", help_text="Context in the kubeconfig.", metavar="NAME"),
    _option("--kubeconfig", help_text="Path of the kubeconfig.", metavar="FILE", type=click.Path()),
    _option("--cluster", help_text="Cluster in the kubeconfig.", metavar="NAME", hidden=True),
    _option("--user", help_text="User in the kubeconfig.", metavar="NAME", hidden=True),
    _option("--as", help_text="User to act as.", metavar="NAME", hidden=True),
    _option("--as-group", help_text="Group to act as.", metavar="NAME", multiple=True, hidden=True),
    _option("--request-timeout", help_text="Timeout of a request.", metavar="DURATION", hidden=True),
)


def where(command: Callable[P, R]) -> Callable[P, R]:
    """Add kubectl's options for cluster and identity to a command."""
    for option in reversed(_WHERE):
        command = option(command)
    return command


def kubectl_of(context: click.Context) -> Kubectl:
    """Kubectl with the given flags."""
    flags = context.meta.get(FLAGS, {})
    return Kubectl(tuple(f"{name}={value}" for name, values in flags.items() for value in values))


def in_session(command: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Pass the session to a command as its first argument."""

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        context = click.get_current_context()
        return command(Session(kubectl_of(context)), *args, **kwargs)

    return update_wrapper(called, command)


class RunName(click.ParamType[str]):
    """The name of a TrainingRun, with completion."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        """Names of runs in the namespace; none if they cannot be read."""
        try:
            found = kubectl_of(ctx).names()
        except TroubleError:
            return []
        return [CompletionItem(one) for one in found if one.startswith(incomplete)]


RUN: Final = RunName()


def ask(question: str, *, yes: bool) -> None:
    """Ask the person for confirmation.

    Raises:
        TroubleError: the person declines, or there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise TroubleError("Confirmation needs a terminal. Use --yes to skip it.", Exit.USAGE)
    if not click.confirm(question, err=True):
        raise TroubleError("Nothing was changed.")

"""The command line `kubectl trainingrun` and its exit codes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from trainingrun_operator import __version__
from trainingrun_operator.cli import ending, inspect, inspecting, saved, simulate, suspending
from trainingrun_operator.cli.screen import complain
from trainingrun_operator.cli.session import where
from trainingrun_operator.cli.trouble import MEANINGS, Exit, TroubleError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "kubectl trainingrun"
_CODES: Final = "\b\nExit codes:\n" + "\n".join(f"  {code.value:<3}  {meaning}" for code, meaning in MEANINGS.items())


class Commands(click.Group):
    """Commands listed in the order of registration."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of registration."""
        return list(self.commands)


@click.group(
    cls=Commands, epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@where
def cli() -> None:
    """Inspect and stop TrainingRuns.

    Uses kubectl with your context, your login and your rights.
    """


for command in (
    inspecting.list_,
    inspecting.watch,
    inspecting.explain_,
    ending.stop,
    suspending.suspend,
    suspending.resume,
    inspecting.logs,
    inspecting.plot_,
    simulate.simulate,
    saved.checkpoints,
    inspect.inspect,
    inspecting.policy_,
    ending.proceed,
    ending.abandon,
):
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = cli.main(args=arguments, prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else Exit.DONE
    except TroubleError as error:
        complain(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter must not flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


def main() -> None:
    """Console script `kubectl-trainingrun`."""
    sys.exit(run())

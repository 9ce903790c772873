"""The command line: `kubectl trainingrun`, and what it leaves with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from trainingrun_operator import __version__
from trainingrun_operator.cli import ending, inspecting, saved, suspending
from trainingrun_operator.cli.screen import complain
from trainingrun_operator.cli.session import where
from trainingrun_operator.cli.trouble import MEANINGS, Exit, TroubleError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "kubectl trainingrun"
_CODES: Final = "\b\nExit codes:\n" + "\n".join(f"  {code.value:<3}  {meaning}" for code, meaning in MEANINGS.items())


class Commands(click.Group):
    """In the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """As they were added."""
        return list(self.commands)


@click.group(
    cls=Commands, epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@where
def cli() -> None:
    """Look at and end TrainingRuns.

    Speaks to the cluster through kubectl: with your context, your login and your rights.
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
    saved.checkpoints,
    inspecting.policy_,
    ending.proceed,
    ending.abandon,
):
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit code."""
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
        # Whoever read has seen enough. The interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


def main() -> None:
    """The console script `kubectl-trainingrun`."""
    sys.exit(run())

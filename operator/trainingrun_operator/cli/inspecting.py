"""The read-only commands: list, watch, explain, policy, plot, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from trainingrun_operator.api import names
from trainingrun_operator.cli import charted, iam, kept, live, policy, words
from trainingrun_operator.cli.draw import plot
from trainingrun_operator.cli.explain import explain
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.cli.rows import read, row_of
from trainingrun_operator.cli.saved import bucket_options, opened
from trainingrun_operator.cli.screen import GAP, note
from trainingrun_operator.cli.session import RUN, Session, in_session, where
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.reading import LOSS

if TYPE_CHECKING:
    from trainingrun_operator.cli.screen import Screen
    from trainingrun_operator.cli.server import Server
    from trainingrun_operator.core.facts.run import Run

HEIGHT = 16
"""Default number of plot lines."""
VALUE = 44
"""Width of a table value in characters; longer values shift the source."""
EVERYWHERE = click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In all namespaces.")
SELECTOR = click.option("-l", "--selector", default="", metavar="LABELS", help="Only runs with these labels.")


@click.command("list")
@click.option("-o", "--output", type=click.Choice(["wide"]), help="wide: best loss, nodes and checkpoint as well.")
@SELECTOR
@EVERYWHERE
@where
@in_session
def list_(session: Session, output: str | None, selector: str, *, everywhere: bool) -> None:
    """List runs with phase and reason."""
    stored = session.kubectl.runs(everywhere=everywhere, selector=selector)
    if not stored:
        place = "in any namespace" if everywhere else f"in namespace {session.kubectl.namespace}"
        note(f"There is no TrainingRun{' with these labels' if selector else ''} {place}.")
        return
    wide = output == "wide"
    columns = [*([live.NAMESPACE] if everywhere else []), *live.COLUMNS, *(live.WIDE if wide else ())]
    now = session.now
    session.screen.table(
        columns, [live.cells(row_of(one, read(one), now), everywhere=everywhere, wide=wide) for one in stored]
    )


@click.command()
@click.argument("run", type=RUN, required=False)
@SELECTOR
@EVERYWHERE
@where
@in_session
def watch(session: Session, run: str | None, selector: str, *, everywhere: bool) -> None:
    """Show runs live, with the trend of their loss.

    For one RUN, also explain why it has not stopped, and exit when it has. Without a terminal, print a line per change.
    """
    seen = live.KnownRuns(everywhere=everywhere, one=run is not None)
    if run is not None:
        session.kubectl.run(run)
    if session.screen.is_terminal:
        _take_curves(session, seen, run, everywhere=everywhere)
    changes = session.kubectl.changes(run or "", everywhere=everywhere, selector=selector)
    live.follow(changes, seen, session.screen, one=run is not None)


def _take_curves(session: Session, seen: live.KnownRuns, run: str | None, *, everywhere: bool) -> None:
    """Load stored curves; without the right to read ConfigMaps, the trend starts now."""
    try:
        one = session.kubectl.config_map(names.curve_name(run)) if run else None
        many = [] if run else session.kubectl.config_maps(everywhere=everywhere, selector=names.RUN_LABEL)
    except TroubleError as error:
        if error.exit_code is not Exit.FORBIDDEN:
            raise
        return
    seen.take_curves([one] if one else many)


@click.command("explain", short_help="Explain why a run has or has not stopped.")
@click.argument("run", type=RUN)
@bucket_options
@where
@in_session
def explain_(session: Session, run: str, server: Server) -> None:
    """Explain why RUN has or has not stopped, from its status alone.

    With s3://bucket/prefix/namespace/run/uid in place of RUN, explain a run that has ended from what the operator has kept of it in the bucket, with your
    own AWS credentials. A shorter address is enough if there is only one run below it.
    """
    if not run.startswith("s3://"):
        session.screen.explanation(explain(session.run(run), session.now))
        return
    with opened(session, run, server) as there:
        told = explain(kept.run_of(there), session.now)
        # What is to be done in the cluster is over.
        session.screen.explanation(Explanation(told.answer, told.because, kept.logs_of(there)))


@click.command("policy", short_help="Show effective settings and their sources, or the IAM policy for a bucket.")
@click.argument("run", type=RUN)
@click.option(
    "--for",
    "side",
    type=click.Choice(iam.SIDES),
    default=iam.AGENT,
    show_default=True,
    help="With s3://…: whose identity the policy is for.",
)
@click.option("--keep-last", is_flag=True, help="With s3://…: also allow what spec.checkpoint.keepLast deletes.")
@click.option("--kms-key", default="", metavar="ARN", help="With s3://…: the key that encrypts the bucket.")
@where
@in_session
def policy_(session: Session, run: str, side: str, kms_key: str, *, keep_last: bool) -> None:
    """Show the effective settings of RUN and their sources.

    With s3://bucket/prefix in place of RUN, print the IAM policy that an identity needs to save and prove checkpoints there.
    """
    if run.startswith("s3://"):
        click.echo(iam.policy(run, side, keep_last=keep_last, kms_key=kms_key))
        return
    topics = policy.in_force(session.run(run))
    rules = [rule for _, found in topics for rule in found]
    screen = session.screen
    first = max(len(rule.what) for rule in rules)
    second = max(len(rule.value) for rule in rules if len(rule.value) <= VALUE)
    if screen.is_terminal:
        second = min(second, screen.width - first - 3 * GAP - len(policy.DEFAULT))
    for place, (topic, found) in enumerate(topics):
        if place:
            screen.say()
        screen.say(topic, "bold")
        for rule in found:
            _show(screen, rule, first, second)


def _show(screen: Screen, rule: policy.Rule, first: int, second: int) -> None:
    """Print one setting; on a narrow terminal the source is on the next line."""
    what, value, source = (words.clean(text) for text in rule)
    style = "dim" if source == policy.DEFAULT else "cyan"
    line = Text(f"{'':{GAP}}{what:<{first}}{'':{GAP}}")
    if screen.is_terminal and first + max(second, len(value)) + len(source) + 3 * GAP > screen.width:
        screen.raw(line + Text(value))
        screen.raw(
            Text(f"{'':{first + 2 * GAP}}")
            + Text(source if source == policy.DEFAULT else f"from {source}", style=style)
        )
        return
    screen.raw(line + Text(f"{value:<{second}}{'':{GAP}}") + Text(source, style=style))


@click.command("plot", short_help="Draw the loss of a run, or another value, its threshold and end.")
@click.argument("run", type=RUN)
@click.option("--height", type=click.IntRange(4, 100), default=HEIGHT, show_default=True, help="Lines of the plot.")
@click.option("--log", "logarithmic", is_flag=True, help="Logarithmic axis.")
@click.option("--value", default=LOSS, show_default=True, metavar="NAME", help="The value, such as eval_loss.")
@bucket_options
@where
@in_session
def plot_(session: Session, run: str, height: int, value: str, server: Server, *, logarithmic: bool) -> None:
    """Draw the loss of RUN, or another value, over its steps, with threshold and end.

    With s3://bucket/prefix/namespace/run/uid in place of RUN, draw the curve that the operator has kept of an ended run in the bucket, with your own AWS
    credentials. A shorter address is enough if there is only one run below it.
    """
    if run.startswith("s3://"):
        with opened(session, run, server) as there:
            found, curve = kept.run_of(there), kept.curve_of(there)
    else:
        found = session.run(run)
        curve = session.curve(found)
    chart = charted.chart(found, curve, value)
    screen = session.screen
    screen.say(chart.caption, "bold")
    lines = plot(chart.plot, screen.width, height, plain=screen.plain, logarithmic=logarithmic)
    if not lines:
        raise TroubleError(f"{found.name} has no {chart.name} above 0 for a logarithmic plot. Omit --log.")
    for line in lines:
        text = Text(line)
        text.highlight_regex("[⠀-⣿*]+", "cyan")
        text.highlight_regex("╌+", "yellow")
        text.highlight_regex("[▲^].*|ended at.*", "magenta")
        screen.raw(text)


@click.command("logs", short_help="Print the log of the training.")
@click.argument("run", type=RUN)
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the training ends.")
@click.option("--tail", type=int, metavar="LINES", help="Number of lines from the end.")
@click.option("--since", metavar="DURATION", help="Only lines newer than this, such as 5m.")
@click.option("--timestamps", is_flag=True, help="Print a time stamp with each line.")
@click.option(
    "-c",
    "--container",
    default="",
    metavar="NAME",
    help="Container, such as checkpoint-agent.  [default: the training's container]",
)
@where
@in_session
def logs(
    session: Session, run: str, tail: int | None, since: str | None, container: str, *, follow: bool, timestamps: bool
) -> None:
    """Print the log of RUN's training."""
    found = session.run(run)
    if follow and found.status.termination is None and found.status.phase in (None, "Pending"):
        found = _started(session, found)
    pods = found.status.pods
    if not pods or (found.status.phase == "Pending" and not follow):
        raise TroubleError(_no_log(found), Exit.NO_SUCH_RUN)
    more = [
        *(["--follow"] if follow else []),
        *([f"--tail={tail}"] if tail is not None else []),
        *([f"--since={since}"] if since else []),
        *(["--timestamps"] if timestamps else []),
    ]
    code = session.kubectl.logs(pods[-1].name, container or manifests.main_container(found.spec), *more)
    if code:
        # kubectl has printed the reason.
        raise click.exceptions.Exit(Exit.FAILED)


def _started(session: Session, run: Run) -> Run:
    """Wait until the training starts, or can no longer start."""
    note(f"{run.name} has not started yet. Waiting.")
    for _, stored in session.kubectl.changes(run.name):
        phase = (stored.get("status") or {}).get("phase")
        if phase not in (None, "Pending"):
            break
    return session.run(run.name)


def _no_log(run: Run) -> str:
    stop = run.status.termination
    if stop is not None and stop.suspends:
        return f"{run.name} is suspended: its pod and its log are deleted."
    if stop is not None:
        return f"The pod of {run.name} and its log are deleted: {stop.message} To keep logs, install a log collector."
    return f"{run.name} has no log yet: its training has not started. See why: {words.explain(run.name)}"

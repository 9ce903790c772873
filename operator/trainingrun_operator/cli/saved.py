"""The commands `checkpoints list`, `verify` and `download`. They use the user's own credentials."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from trainingrun_operator.checkpoints import names
from trainingrun_operator.cli import words
from trainingrun_operator.cli.screen import Column, note
from trainingrun_operator.cli.server import Server
from trainingrun_operator.cli.session import RUN, Session, in_session, where
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.facts.bucket import Mismatch
from trainingrun_operator.core.past import UNNAMED
from trainingrun_operator.core.words import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainingrun_operator.checkpoints.documents import Manifest
    from trainingrun_operator.cli.bucket import Checkpoints, Listed

R = TypeVar("R")
COLUMNS = (
    Column("GENERATION"),
    Column("STEP", drop=2),
    Column("CHECKPOINT"),
    Column("FILES", drop=6),
    Column("SIZE", drop=4),
    Column("SAVED", drop=5),
    Column("WHY", drop=3),
    Column("NOTE", drop=1),
)
_WHY = {"checkpoint": "complete", "save": "requested", "sigterm": "pod terminated"}


@click.group(short_help="List, verify and download checkpoints in the bucket.")
@where
def checkpoints() -> None:
    """List, verify and download the checkpoints of a run in its bucket.

    RUN is a TrainingRun, or s3://bucket/prefix/namespace/run/uid if the run is no longer in the cluster; a shorter address is enough if there is only
    one run below it. The commands use your own AWS credentials, as boto3 finds them.
    """


def bucket_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options for the bucket's server to a command, which takes them as ``server``."""

    @functools.wraps(command)
    def with_server(*args: Any, endpoint_url: str, region: str, requester_pays: bool, **named: Any) -> R:
        return command(*args, server=Server(endpoint_url, region, requester_pays), **named)

    decorated: Callable[..., R] = with_server
    for option in (
        click.option(
            "--requester-pays",
            is_flag=True,
            help="Pay for the requests and transfers of a Requester Pays bucket.  [default: as in the run's spec]",
        ),
        click.option(
            "--region", default="", metavar="NAME", help="Region of the bucket.  [default: from the run's spec]"
        ),
        click.option(
            "--endpoint-url",
            default="",
            envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
            metavar="URL",
            help="Address of the S3 server, https unless it is this machine.  [default: AWS_ENDPOINT_URL_S3, else the run's if it is AWS]",
        ),
    ):
        decorated = option(decorated)
    return decorated


@contextlib.contextmanager
def opened(session: Session, run: str, server: Server) -> Iterator[Checkpoints]:
    """Open the run's checkpoints. Loads boto3, which takes longer than all other commands together."""
    from trainingrun_operator.cli import bucket, finding  # noqa: PLC0415 - see above

    place = finding.place(run, server) if run.startswith("s3://") else bucket.place_of(session.run(run), server)
    found = bucket.Checkpoints(place)
    try:
        yield found
    finally:
        found.close()


@checkpoints.command("list")
@click.argument("run", type=RUN)
@bucket_options
@where
@in_session
def list_(session: Session, run: str, server: Server) -> None:
    """List the saved checkpoints of RUN, newest first."""
    with opened(session, run, server) as there:
        listed = there.listed()
        if not listed:
            note(there.nothing)
            return
        session.screen.table(COLUMNS, [_cells(one, there.place.proven, session) for one in listed])


def _cells(one: Listed, proven: str, session: Session) -> list[str]:
    name = words.generation(one.key)
    commit = one.commit
    if commit is None:
        return [name, "", "", "", "", "", "", f"unreadable: {one.complaint}"]
    found = commit.checkpoint
    notes = [
        "proven by the operator" if one.key == proven else "",
        "incomplete, saved as it was" if found is not None and not found.complete else "",
        "final" if commit.final else "",
    ]
    return [
        name,
        str(found.step) if found is not None and found.step is not None else "",
        found.dir if found is not None else "none",
        str(commit.total_files),
        size(commit.total_bytes),
        words.ago(commit.written_at, session.now).strip(" ()"),
        _WHY.get(commit.reason, commit.reason),
        ", ".join(filter(None, notes)),
    ]


@checkpoints.command(short_help="Prove every file of a checkpoint.")
@click.argument("run", type=RUN)
@click.argument("generation", required=False, default="")
@click.option("--all", "all_of_them", is_flag=True, help="Verify every generation.")
@bucket_options
@where
@in_session
def verify(session: Session, run: str, generation: str, server: Server, *, all_of_them: bool) -> None:
    """Prove a checkpoint of RUN as the operator does: read commit and manifests, compare size and checksum of every file.

    GENERATION is a name from `checkpoints list`. Default: the generation that the operator has proven, else the furthest.
    """
    if all_of_them and generation:
        raise click.UsageError("Give a GENERATION or --all, not both.")
    with opened(session, run, server) as there:
        wanted = there.keys() if all_of_them else (there.key(generation),)
        wrong = [name for key in wanted if (name := _verified(session, there, key))]
    if wrong:
        raise TroubleError(
            f"{len(wrong)} of {len(wanted)} not proven: {', '.join(wrong)}.",
            Exit.NOT_PROVEN,
        )


def _verified(session: Session, there: Checkpoints, key: str) -> str:
    """Verify one generation and print the result. Return its name if it is not proven."""
    name = words.generation(key)
    answer = there.verify(key)
    if isinstance(answer, Mismatch):
        session.screen.say(f"{name}  NOT PROVEN  {answer.complaint}", "red")
        return name
    commit = answer.commit
    what = commit.checkpoint.dir if commit.checkpoint is not None else "no checkpoint"
    session.screen.say(
        f"{name}  proven  {what}: {commit.total_files} files, {size(commit.total_bytes)}, sizes and checksums match",
        "green",
    )
    if answer.uri:
        session.screen.command(f"    {words.address(answer.uri)}")
    return ""


@checkpoints.command(short_help="Download a checkpoint and prove every file.")
@click.argument("run", type=RUN)
@click.argument("generation", required=False, default="")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to, in place of the checkpoint path.  [default: RUN-GENERATION]",
)
@bucket_options
@where
@in_session
def download(session: Session, run: str, generation: str, folder: Path | None, server: Server) -> None:
    """Download a checkpoint of RUN into a folder. Prove every file by its checksum.

    Identical files are kept. Other files are never overwritten. After an interruption, run the same command again to continue.
    """
    with opened(session, run, server) as there:
        one = there.find(generation)
        name = words.generation(one.key)
        if one.commit is None:
            raise TroubleError(f"{name} is not readable: {one.complaint}.", Exit.NOT_PROVEN)
        target = folder or Path(f"{there.place.layout.base.split('/')[-3]}-{name}")
        found = there.manifests(one.commit)
        for manifest in found:
            place = target if len(found) == 1 else target / f"r{manifest.pod.rank}"
            with _bar(session, manifest) as told:
                left_out = there.fetch(manifest, place, told)
            for path, why in left_out.items():
                note(f"The link {words.address(names.to_text(path))} is left out: {why}.")
        what = one.commit.checkpoint.dir if one.commit.checkpoint is not None else ""
        inside = target if what in UNNAMED or len(found) > 1 else target / what
        session.screen.say(f"{one.commit.total_files} files, {size(one.commit.total_bytes)}, checksums match:")
        session.screen.command(f"    {words.address(str(inside))}")


@contextlib.contextmanager
def _bar(session: Session, manifest: Manifest) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yields the function that takes the number of downloaded bytes."""
    if not session.screen.is_terminal:
        yield lambda _: None
        return
    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=session.screen.console, transient=True
    ) as progress:
        task = progress.add_task("", total=manifest.total_bytes)
        yield lambda count: progress.advance(task, count)

"""What the operator takes for objects, manifests and reports that tenants made to hurt it, beside the plain parsers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fakes import stored_run
from pydantic import ValidationError

from trainingrun_operator.api.exchange import AgentReport
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.documents import Manifest, PodRef, RankManifest, RunRef
from trainingrun_operator.checkpoints.manifest_reader import ManifestReader, Piece
from trainingrun_operator.checkpoints.proof import BadCommitError
from trainingrun_operator.checkpoints.s3 import PIECE_BYTES, Access
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.edge.apiserver import slim
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.gather.store import PARSERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB: Final = 2**20
HOSTILE: Final = 50
"""Runs that are hostile in each of the ways."""
UNITS: Final = (b"{}", b"[]", b'{"a":1}', b'{"a":{"b":{}}}', b'""')
_HEAD: Final = Manifest(
    run=RunRef(namespace="ml", name="b", uid="u"), pod=PodRef(name="b-0", uid="p"), incarnation=1, generation=1
)


class Cost(NamedTuple):
    """Of one measurement, in a process of its own."""

    mib: float
    """By which the process grew."""
    held_ms: float
    """The most CPU time of one call, during which no other thread may go on."""


def bench(count: int) -> None:
    """Measure each way by itself, and all of them together, and print."""
    print(
        f"hostile input: one object of each kind, and {count:,} runs of which {HOSTILE} are hostile in each of {len(_WAYS)} ways"
    )
    print(f"  {'':34}{'ours':>18}{'plain parser':>22}")
    for name in _WAYS:
        mine, theirs = (Cost(*_apart(_one, name, place)) for place in (0, 1))
        print(f"  {name:34}{mine.mib:8.1f} MiB {mine.held_ms:5.0f} ms{theirs.mib:11.1f} MiB {theirs.held_ms:6.0f} ms")
    grown, gap = _apart(_everything, count)
    print(
        f"  all together: the process grows by {grown:.0f} MiB, the event loop is held for {gap * 1e3:.0f} ms at most"
    )


def template(unit: bytes, size: int = 1_400_000) -> bytes:
    """A run whose template is this many bytes of one unit."""
    run = json.dumps(stored_run(spec={"template": {"x": None}}), separators=(",", ":")).encode()
    return run.replace(b"null", b"[" + b",".join([unit] * (size // (len(unit) + 1))) + b"]", 1)


def manifest(unit: bytes, size: int = 12 * MIB) -> bytes:
    """A manifest with this many bytes of one unit for files."""
    start = _HEAD.model_dump_json(by_alias=True, exclude_none=True).removesuffix("]}").encode()
    return start + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


def report(unit: bytes) -> bytes:
    """A report of 60 kB, below its limit, of markers."""
    return b'{"podUid":"p","markers":[' + b",".join([unit] * (60_000 // (len(unit) + 1))) + b"]}"


def _pieces(body: bytes) -> Iterator[Piece]:
    for at in range(0, len(body), PIECE_BYTES):
        yield Piece(body[at : at + PIECE_BYTES], at + PIECE_BYTES >= len(body))


def _read_manifest(body: bytes) -> Iterator[None]:
    digest = hashlib.sha256(body).hexdigest()
    reader, pieces = ManifestReader(RankManifest(rank=0, incarnation=1, key="k", sha256=digest)), _pieces(body)
    try:
        while reader.head is None:
            if reader.wants:
                reader.feed(next(pieces))
            reader.files()
            yield
    except BadCommitError:
        return


def _keep_run(body: bytes) -> Iterator[None]:
    cache = Cache()
    stored = slim.loads(body)
    yield
    cache.put_run(stored)
    yield
    assert Run.of(cache.runs[stored["metadata"]["uid"]]).spec.template.gpus == 0
    yield


def _parse_report(body: bytes) -> Iterator[None]:
    try:
        AgentReport.model_validate_json(body)
    except ValidationError:
        yield


def _plain(parse: Callable[[bytes], Any], body: bytes) -> Iterator[None]:
    try:
        parse(body)
    except ValidationError as error:
        error.errors()
    yield


Way = tuple["Callable[[bytes], Iterator[None]]", "Callable[[bytes], Iterator[None]]", "Callable[[], bytes]"]
"""Ours, the plain parser, and the input."""


def _ways() -> Iterator[tuple[str, Way]]:
    for unit in UNITS:
        plain = partial(_plain, json.loads)
        yield f"template of {unit.decode()}, 1.4 MB", (_keep_run, plain, partial(template, unit))
    for unit in (b'{"path":""}', b'{"path":"","linkTarget":""}'):
        plain = partial(_plain, Manifest.model_validate_json)
        yield f"manifest of {unit.decode()}, 12 MiB", (_read_manifest, plain, partial(manifest, unit))
    plain = partial(_plain, AgentReport.model_validate_json)
    yield "report of {}, 60 kB", (_parse_report, plain, partial(report, b"{}"))


_WAYS: Final[dict[str, Way]] = dict(_ways())


def _one(name: str, place: int) -> tuple[float, float]:
    ours, plain, made = _WAYS[name]
    body, held = made(), [0.0]
    before, steps = _now(), (ours, plain)[place](body)
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration:
            break
        finally:
            held.append(time.thread_time() - began)
    return _peak() - before, max(held) * 1e3


def _everything(count: int) -> tuple[float, float]:
    return asyncio.run(_all_at_once(count))


async def _all_at_once(count: int) -> tuple[float, float]:
    """Keep all runs, read 50 hostile manifests in threads, parse 50 hostile reports, and use 50 sets of credentials."""
    hostile = [template(unit) for unit in UNITS]
    honest = json.dumps(stored_run(), separators=(",", ":")).encode()
    bad = manifest(b'{"path":"","linkTarget":""}')
    before, gap = _now(), asyncio.create_task(_longest_gap())
    bodies = [*hostile * HOSTILE, *[honest] * (count - HOSTILE * len(hostile))]
    with ThreadPoolExecutor(PARSERS) as pool:
        loop = asyncio.get_running_loop()
        reads = [loop.run_in_executor(pool, lambda: list(_read_manifest(bad))) for _ in range(HOSTILE)]
        clients, cache = Clients(), Cache()
        for number, body in enumerate(bodies):
            stored = await asyncio.to_thread(slim.loads, body) if len(body) > MIB else slim.loads(body)
            stored["metadata"] |= {"uid": f"run-{number}"}
            cache.put_run(stored)
            Run.of(cache.runs[f"run-{number}"])
            await asyncio.sleep(0)
        for number in range(HOSTILE):
            list(_parse_report(report(b"{}")))
            access = Access(region=f"made-up-{number}", access_key="k", secret_key="s", owner="loud")
            await loop.run_in_executor(pool, clients.door, access)
        await asyncio.gather(*reads)
    gap.cancel()
    clients.close()
    return _peak() - before, await gap


async def _longest_gap() -> float:
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.perf_counter() - last - 0.005), time.perf_counter()
    except asyncio.CancelledError:
        return longest


def _now() -> float:
    """Forget the peak so far, and return what the process takes now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / MIB


def _apart(function: Callable[..., tuple[float, float]], *arguments: Any) -> tuple[float, float]:
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)

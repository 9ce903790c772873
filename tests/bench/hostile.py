"""What the operator takes for objects, manifests and reports that tenants made to hurt it, beside the plain parsers."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench.bombs import MIB, UNITS, manifest, report, template
from pydantic import ValidationError

from trainingrun_operator.api.exchange import AgentReport
from trainingrun_operator.checkpoints.documents import Manifest, RankManifest
from trainingrun_operator.checkpoints.manifest_reader import ManifestReader, Piece
from trainingrun_operator.checkpoints.proof import BadCommitError
from trainingrun_operator.checkpoints.s3 import PIECE_BYTES
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.edge.apiserver import slim
from trainingrun_operator.edge.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cost(NamedTuple):
    """Of one measurement, in a process of its own."""

    mib: float
    """By which the process grew."""
    held_ms: float
    """The most CPU time of one call, during which no other thread may go on."""


def bench() -> None:
    """Measure one object of each kind, and print."""
    print("hostile input: one object of each kind")
    print(f"  {'':34}{'ours':>18}{'plain parser':>22}")
    for name in _WAYS:
        mine, theirs = (Cost(*_apart(_one, name, place)) for place in (0, 1))
        print(f"  {name:34}{mine.mib:8.1f} MiB {mine.held_ms:5.0f} ms{theirs.mib:11.1f} MiB {theirs.held_ms:6.0f} ms")


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

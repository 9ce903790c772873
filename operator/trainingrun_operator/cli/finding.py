"""Find a run in a bucket by an address that may be shorter than its own."""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.checkpoints import bucket_names, s3
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS
from trainingrun_operator.cli import identity
from trainingrun_operator.cli.bucket import Place, access_to, place_of_uri, unreadable
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.cli.server import Server

DEPTH: Final = 6
"""Levels of folders below an address that are searched: prefixes, namespace, run and UID."""
LISTS_MAX: Final = 200
"""Requests of one search."""
NAMED: Final = 20
"""Runs to name in the error if there are several."""
_ADDRESS: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<path>.*))?\Z", re.DOTALL)
_OF_A_RUN: Final = "commits/"
"""A folder that a run has once it has saved something."""


def place(uri: str, server: Server) -> Place:
    """Return the place of the run at an address, or of the only run below it.

    Raises:
        TroubleError: there is none or there are several, the address has another form, or the bucket cannot be read.
    """
    address = _ADDRESS.match(uri)
    path = (address["path"] or "").strip("/") if address is not None else ""
    if (
        address is None
        or bucket_names.complaint(address["bucket"])
        or (path and any(part in ("", ".", "..") for part in path.split("/")))
    ):
        return place_of_uri(uri, server)
    access = access_to(server)
    clients = Clients(1, partial(calls.count_all, api=Api.S3))
    try:
        client = clients.door(access).client
        identity.check_encrypted(client.meta.endpoint_url)
        found, whole = _runs(client, address["bucket"], f"{path}/" if path else "")
    except STORE_ERRORS as error:
        raise unreadable(address["bucket"], access, s3.code_of(error)) from error
    finally:
        clients.close()
    if len(found) == 1 and whole:
        return place_of_uri(found[0], server)
    if not found:
        # The complaint about an address that is not a run's, or the place of a run that has saved nothing.
        return place_of_uri(uri, server)
    named = "\n".join(f"  {one}" for one in found[:NAMED])
    more = f"\n  and {len(found) - NAMED} more" if len(found) > NAMED else "" if whole else "\n  and perhaps more"
    raise TroubleError(f"There are several runs below {uri}. Name one:\n{named}{more}", Exit.USAGE)


def _runs(client: S3Client, bucket: str, prefix: str) -> tuple[list[str], bool]:
    """Return the addresses of the runs below a prefix, and whether all of it was searched."""
    found: list[str] = []
    waiting, asked = deque([(prefix, 0)]), 0
    while waiting:
        where, depth = waiting.popleft()
        if asked == LISTS_MAX:
            return found, False
        asked += 1
        answer: dict[str, Any] = dict(client.list_objects_v2(Bucket=bucket, Prefix=where, Delimiter="/"))
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
        if where and f"{where}{_OF_A_RUN}" in folders:
            found.append(f"s3://{bucket}/{where.rstrip('/')}")
        elif depth < DEPTH:
            waiting.extend((folder, depth + 1) for folder in folders)
    return found, True

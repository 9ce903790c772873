"""Which S3 servers get requests that are signed with the user's own AWS credentials.

A signed request carries the access key's id and the session token. The author of a run writes the server's address into the spec, so an address
from there gets such a request only if it is AWS S3.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.commands import UnprintableError, command

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.run import Run

_REGION: Final = r"[a-z]{2}(-[a-z]+){1,3}-\d{1,2}"
_AWS: Final = re.compile(
    r"https://("
    rf"s3(-fips)?(\.dualstack)?[.-]{_REGION}"
    r"|s3(-external-1|-accelerate(\.dualstack)?)?"
    rf"|(bucket\.)?vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce"
    r")\.amazonaws\.com(\.cn)?(:443)?/?"
)
"""Endpoints of S3 itself. Other names below amazonaws.com belong to AWS's customers: load balancers, machines, functions."""


def check_named_by_spec(run: Run) -> None:
    """Check that the spec's address may get a request with the user's credentials.

    Raises:
        TroubleError: it is not an address of AWS S3.
    """
    url = run.spec.checkpoint.s3.endpoint_url
    if not url or _AWS.fullmatch(url):
        return
    try:
        option = command("--endpoint-url", url)
    except UnprintableError:
        option = "--endpoint-url URL"
    raise TroubleError(
        f"spec.checkpoint.s3.endpointURL of {run.namespace}/{run.name} is {url!r}, which is not an https address of AWS S3. Your own AWS"
        " credentials are not sent to an address from a spec: its author would get your session token. If you trust the server, name it"
        f" yourself: {option}",
        Exit.FORBIDDEN,
    )


def check_encrypted(url: str) -> None:
    """Check that the address in use is https, or this machine, as with `kubectl port-forward`.

    Raises:
        TroubleError: requests would go over the network in clear text.
    """
    split = urlsplit(url)
    if split.scheme == "https" or _is_loopback(split.hostname or ""):
        return
    raise TroubleError(
        f"The S3 server's address is {url!r}: your AWS credentials are not sent over http, where others could read your session token. Use an"
        " https address, or forward a port of this machine: kubectl port-forward, then --endpoint-url http://127.0.0.1:PORT",
        Exit.FORBIDDEN,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False

"""TLS connections to a store that fail: the kind of failure, and the certificates that an agent trusts."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from urllib3.util.ssl_match_hostname import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from botocore.exceptions import SSLError
    from mypy_boto3_s3 import S3Client

NOT_TRUSTED: Final = "CertificateNotTrusted"
EXPIRED: Final = "CertificateExpired"
NOT_YET_VALID: Final = "CertificateNotYetValid"
OTHER_NAME: Final = "CertificateOfAnotherName"
BAD_CA: Final = "BadCertificate"
NO_HANDSHAKE: Final = "HandshakeFailed"

OF_THE_SERVER: Final = {
    EXPIRED: "the server's certificate has expired: renew it on the server",
    NOT_YET_VALID: "the server's certificate is not valid yet: are the clocks of both machines right?",
    OTHER_NAME: "the server's certificate is for another name: use a name that is in the certificate, or give the server a certificate for this one",
    NO_HANDSHAKE: "the TLS handshake fails: does a server with TLS 1.2 or newer listen on this port?",
}
"""What is wrong and what to do, where that does not depend on the side that asks."""

# From OpenSSL's x509_vfy.h.
_CODES: Final = {9: NOT_YET_VALID, 10: EXPIRED, 62: OTHER_NAME, 64: OTHER_NAME}
_NO_PEM: Final = ("NO_CERTIFICATE_OR_CRL", "PEM")


def code_of(failure: SSLError) -> str:
    """Return the code of a TLS connection that failed."""
    for cause in _causes(failure):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CODES.get(cause.verify_code, NOT_TRUSTED)
        if isinstance(cause, CertificateError):  # urllib3 compares the names itself
            return OTHER_NAME
    # OpenSSL reports a file of CAs without a certificate in it like this.
    return BAD_CA if any(part in str(failure) for part in _NO_PEM) else NO_HANDSHAKE


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it wraps: botocore, urllib3 and ssl wrap in three ways."""
    error: object = failure
    while isinstance(error, BaseException):
        yield error
        first = error.args[0] if error.args else None
        error = getattr(error, "kwargs", {}).get("error") or (
            first if isinstance(first, BaseException) else error.__cause__
        )


def trust(client: S3Client, ca: Path) -> None:
    """Let a client trust the CAs in a file instead of the usual ones while there is such a file: the kubelet adds and replaces it."""
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no public access to it
    client.meta.events.register("before-send.s3", partial(_set, session, ca, session._verify))  # noqa: SLF001


def _set(session: Any, ca: Path, usual: Any, **_: Any) -> None:
    session._verify = str(ca) if ca.exists() else usual  # noqa: SLF001

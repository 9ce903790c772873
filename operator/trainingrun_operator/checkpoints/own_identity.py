"""The process's own AWS identity: what the SDK's own chain finds, without a Secret.

In a pod this is the role of its ServiceAccount (a web identity token, as IRSA mounts it, or the EKS Pod Identity endpoint); on a laptop it is the
user's own profile. The chain is asked at the first request and not when a client is made, and again after a failure: an endpoint that starts
after this process, or a trust policy that is corrected, needs no restart.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import botocore.session
from botocore import exceptions
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, create_credential_resolver

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

ASK_AGAIN_SECONDS: Final = 2.0
"""The chain may wait for seconds for an endpoint that does not answer; meanwhile, other requests fail as the last one did."""
PROVIDER: Final = "the process's own AWS identity"
"""Its name in errors."""


def own_session(region: str = "") -> botocore.session.Session:
    """Return a session with the process's own identity. ``region``: of the identity's own calls, if the environment names none."""
    core = botocore.session.get_session()
    where = core.get_config_variable("region") or region or None
    chain = create_credential_resolver(core, region_name=where)
    core.register_component("credential_provider", CredentialResolver([_OwnIdentity(chain)]))
    return core


class _OwnIdentity(CredentialProvider):
    METHOD = CANONICAL_NAME = "trainingrun-own"

    def __init__(self, chain: CredentialResolver) -> None:
        super().__init__()
        self._found = _Found(chain)

    def load(self) -> Credentials:
        return self._found


class _Found(Credentials):
    """The credentials that the chain finds, when they are needed. Thread-safe."""

    def __init__(self, chain: CredentialResolver) -> None:
        super().__init__("", "", method=_OwnIdentity.METHOD)
        self._chain = chain
        self._lock = threading.Lock()
        self._resolved: Any = None
        self._failure: Exception | None = None
        self._failed_at = 0.0

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the credentials to sign with.

        Raises:
            botocore.exceptions.NoCredentialsError: the process has no identity.
            botocore.exceptions.CredentialRetrievalError: it has one, which gives no credentials.
        """
        with self._lock:
            if self._failure is not None and time.monotonic() - self._failed_at < ASK_AGAIN_SECONDS:
                raise self._failure
            try:
                found = self._ask()
            except Exception as error:
                self._failure, self._failed_at = _said(error), time.monotonic()
                raise self._failure from error
            self._failure = None
            return found

    def _ask(self) -> ReadOnlyCredentials:
        self._resolved = self._resolved or self._chain.load_credentials()
        if self._resolved is None:
            raise exceptions.NoCredentialsError
        found: ReadOnlyCredentials = self._resolved.get_frozen_credentials()
        return found


def _said(error: Exception) -> Exception:
    """Return a failure of the chain as one of two kinds. The chain also raises errors of files, of JSON and of calls to STS."""
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        return error
    return exceptions.CredentialRetrievalError(provider=PROVIDER, error_msg=_what(error))


def _what(error: Exception) -> str:
    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "")) or "no code"
        return f"{error.operation_name} failed with {code}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

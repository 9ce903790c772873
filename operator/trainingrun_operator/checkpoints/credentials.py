"""Credentials from the run's Secret, read from the files that the kubelet updates. New keys are used without a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.credentials import CredentialProvider, CredentialResolver, RefreshableCredentials

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from pathlib import Path

READ_AGAIN_SECONDS: Final = 5.0


def secret_session(folder: Path) -> boto3.session.Session:
    """Return a session that uses these keys only: the machine's own credentials are not the run's."""
    core = botocore.session.get_session()
    core.register_component("credential_provider", CredentialResolver([SecretFiles(folder)]))
    return boto3.session.Session(botocore_session=core)


class SecretFiles(CredentialProvider):
    """Provides the credentials in a folder with one file per key."""

    METHOD = CANONICAL_NAME = "trainingrun-secret"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def load(self) -> RefreshableCredentials:
        """Read the keys now, and again before later requests.

        Raises:
            OSError: a key is missing.
        """
        return RefreshableCredentials.create_from_metadata(
            self._read(), self._read, self.METHOD, advisory_timeout=0, mandatory_timeout=0
        )

    def _read(self) -> dict[str, Any]:
        return {
            "access_key": self._key(names.ACCESS_KEY),
            "secret_key": self._key(names.SECRET_KEY),
            "token": self._key(names.SESSION_TOKEN) if (self._folder / names.SESSION_TOKEN).exists() else None,
            "expiry_time": (datetime.now(UTC) + timedelta(seconds=READ_AGAIN_SECONDS)).isoformat(),
        }

    def _key(self, name: str) -> str:
        return (self._folder / name).read_text().strip()

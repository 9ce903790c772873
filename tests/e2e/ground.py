"""The running test ground, as `.cluster/env` describes it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENV_FILE = REPOSITORY / ".cluster" / "env"
OUTPUTS = REPOSITORY / "build" / "outputs"
"""Where captured command outputs go, for the README to quote."""

OPERATOR_NAMESPACE = "trainingrun-system"
OPERATOR = "trainingrun-operator"
"""Deployment, ServiceAccount, Service, ClusterRole, Role and Lease all carry the release's name."""
CLOUD_NAMESPACE = "trainingrun-cloud"
POOL = "gpu"
"""The GPUNodePool, and the Auto Scaling group behind it."""

MISSING = "These tests need the running cluster with the operator installed: run `make cluster image install` first. {}"


class NoGroundError(Exception):
    """The cluster is not there; the text says what to do."""


@dataclass(frozen=True)
class Ground:
    """Addresses and keys of everything that a test may ask."""

    environ: dict[str, str]

    @classmethod
    def find(cls) -> Ground:
        """Read the file that `make cluster` writes.

        Raises:
            NoGroundError: there is none, or it lacks something.
        """
        if not ENV_FILE.exists():
            raise NoGroundError(MISSING.format(f"There is no {ENV_FILE.relative_to(REPOSITORY)}."))
        found = dict(os.environ)
        for line in ENV_FILE.read_text().splitlines():
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                # The values are shell words; the one variable in them is PATH's own.
                found[name] = "".join(shlex.split(value)).replace("$PATH", os.environ.get("PATH", ""))
        for needed in ("KUBECONFIG", "TRAININGRUN_S3_ENDPOINT", "TRAININGRUN_TRAINING_IMAGE", "TRAININGRUN_AUDIT_LOG"):
            if not found.get(needed):
                raise NoGroundError(MISSING.format(f"{ENV_FILE.relative_to(REPOSITORY)} does not set {needed}."))
        return cls(found)

    def __getitem__(self, name: str) -> str:
        """One variable; a KeyError is a bug of the test."""
        return self.environ[name]

    @property
    def kubeconfig(self) -> Path:
        """Of a cluster administrator."""
        return Path(self["KUBECONFIG"])

    @property
    def training_image(self) -> str:
        """With digits.py as its entry point."""
        return self["TRAININGRUN_TRAINING_IMAGE"]

    @property
    def frameworks(self) -> str:
        """Where the control plane has the libraries that `tools/frameworks` installs.

        Raises:
            NoGroundError: it was made before there were any.
        """
        found = self.environ.get("TRAININGRUN_FRAMEWORKS_IN_CLUSTER", "")
        if not found:
            raise NoGroundError(
                "This cluster was made without a mount of the libraries: run `make cluster-down cluster image install`."
            )
        return found

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self["TRAININGRUN_BUCKET"]

    @property
    def s3_in_cluster(self) -> str:
        """Address of the S3 server for pods and operator."""
        return self["TRAININGRUN_S3_ENDPOINT_IN_CLUSTER"]

    @property
    def s3_ca(self) -> str:
        """PEM of the CA that the S3 server's certificate is of."""
        return Path(self["TRAININGRUN_S3_CA"]).read_text()

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, JSON lines."""
        return Path(self["TRAININGRUN_AUDIT_LOG"])

    @property
    def locks(self) -> Path:
        """Folder of the locks by which test processes take turns."""
        return ENV_FILE.parent

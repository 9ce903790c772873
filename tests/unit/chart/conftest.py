"""Helm as the tests use it: rendering only, without a cluster."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "trainingrun-operator"
RELEASE = ("trainingrun-operator", str(CHART), "--namespace", "trainingrun-system")


def find_helm():
    """On PATH, or where `make cluster` puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainingrun"
    built = sorted(cache.glob("bin/helm-*/helm"))
    candidates = [shutil.which("helm"), ROOT / ".cluster" / "bin" / "helm", *built]
    return next((str(path) for path in candidates if path and os.access(path, os.X_OK) and Path(path).is_file()), None)


@dataclass(frozen=True)
class Rendered:
    """What Helm would apply: the documents, and their text for goldens."""

    text: str

    @functools.cached_property
    def documents(self):
        # libyaml's parser: the definitions alone are ten thousand lines.
        return [document for document in yaml.load_all(self.text, yaml.CSafeLoader) if document]

    def of(self, kind, suffix=""):
        """Return the documents of a kind, or the one whose name ends like this."""
        return [each for each in self.documents if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]

    @property
    def pod(self):
        (deployment,) = self.of("Deployment")
        return deployment["spec"]["template"]

    @property
    def container(self):
        (container,) = self.pod["spec"]["containers"]
        return container

    @property
    def env(self):
        return {each["name"]: each.get("value") for each in self.container["env"]}

    def without(self, kind):
        """Return the text without the documents of a kind."""
        documents = re.split(r"(?m)^---\n", self.text)
        return "---\n".join(each for each in documents if f"\nkind: {kind}\n" not in each)


@dataclass(frozen=True)
class Helm:
    """The helm binary."""

    binary: str

    def run(self, *arguments):
        environment = os.environ | {"KUBECONFIG": os.devnull}
        return subprocess.run([self.binary, *arguments], env=environment, capture_output=True, text=True, check=False)

    def render(self, *options):
        done = self.run("template", *RELEASE, *options)
        assert done.returncode == 0, done.stderr
        return Rendered(done.stdout)

    def refusal(self, *options):
        """Return what Helm says when it refuses to render."""
        done = self.run("template", *RELEASE, *options)
        assert done.returncode != 0, f"helm accepted {options}"
        return done.stderr

    def notes(self, *options):
        """Return what a person reads after installing."""
        done = self.run("install", *RELEASE, "--dry-run=client", "--set", "crds.enabled=false", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("\nNOTES:\n")[2]


@pytest.fixture(scope="session")
def helm():
    binary = find_helm()
    if binary is None:
        pytest.fail("helm is not there: `make cluster` builds it, or put helm 4 on PATH", pytrace=False)
    return Helm(binary)


@pytest.fixture(scope="session")
def tool():
    """`tools/chart_readme.py`."""
    spec = importlib.util.spec_from_file_location("chart_readme", ROOT / "tools" / "chart_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def default(helm):
    return helm.render()

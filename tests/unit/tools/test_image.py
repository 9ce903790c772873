"""The image of a release: from a commit, on a base named by its digest, with its bill of materials in it and what it is made of in its labels."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BASE = "python:3.11-slim-bookworm@sha256:" + "5" * 64
DOCKER = """#!/usr/bin/env bash
echo "$@" >> "$TOLD"
case $1 in
  build) cp -R "${@: -1}" "$TOLD.context" ;;
  image) [ "$2" = inspect ] && exit 1 || exit 0 ;;
esac
"""
LOCK = "kopf==1.45.2 --hash=sha256:" + "a" * 64 + "\n"


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit, whose packages are installed already, and a docker that writes down what it is told."""
    root = tmp_path / "checkout"
    for path in ("tools/image", "tools/site-packages", "tools/sbom.py", "operator/Dockerfile", "tools/lib"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, root / path)
    chart = root / "charts" / "trainingrun-operator"
    chart.mkdir(parents=True)
    (chart / "Chart.yaml").write_text("appVersion: 0.1.0\n")
    (root / "operator" / "trainingrun_operator").mkdir()
    (root / "operator" / "trainingrun_operator" / "__init__.py").write_text("")
    (root / "requirements.lock").write_text(LOCK)
    (root / ".gitignore").write_text("build/\n")
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "x")):
        subprocess.run([*git, *command], cwd=root, check=True)
    inputs = (root / "tools/site-packages").read_bytes() + LOCK.encode() + f"{platform.machine()}\n".encode()
    package = (
        tmp_path / "cache/trainingrun/packages" / hashlib.sha256(inputs).hexdigest()[:16] / "kopf-1.45.2.dist-info"
    )
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.4\nName: kopf\nVersion: 1.45.2\n")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    return root


@pytest.fixture
def release(checkout, tmp_path):
    def run(*arguments, base=BASE):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "TOLD": str(tmp_path / "told"),
            "TRAININGRUN_BASE": base,
            "TRAININGRUN_IMAGE": "registry.example.com:5000/team/trainingrun-operator:0.1.0",
            "TRAININGRUN_SOURCE": "https://example.com/source",
        }
        return subprocess.run(
            ["tools/image", *(arguments or ("release",))], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip

    return run


def test_a_release_is_built_on_the_named_base_with_its_labels_and_its_bill(release, checkout, tmp_path):
    done = release()
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "told").read_text().splitlines()
    (build,) = [line for line in commands if line.startswith("build ")]
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()
    for said in (
        f"--build-arg BASE={BASE}",
        "--network none",
        "--label org.opencontainers.image.version=0.1.0",
        f"--label org.opencontainers.image.revision={revision}",
        "--label org.opencontainers.image.created=20",
        "--label org.opencontainers.image.base.name=python:3.11-slim-bookworm",
        f"--label org.opencontainers.image.base.digest=sha256:{'5' * 64}",
        "--label org.opencontainers.image.source=https://example.com/source",
        "--tag registry.example.com:5000/team/trainingrun-operator:0.1.0",
    ):
        assert said in build
    assert f"pull {BASE}" in commands
    in_image = json.loads((tmp_path / "told.context" / "sbom.cdx.json").read_text())
    assert [one["purl"] for one in in_image["components"]] == ["pkg:pypi/kopf@1.45.2"]
    assert in_image["metadata"]["component"]["name"] == "trainingrun-operator"
    beside = checkout / "build" / "sbom" / "trainingrun-operator.cdx.json"
    assert json.loads(beside.read_text()) == in_image


@pytest.mark.parametrize(
    "base",
    [
        pytest.param("", id="none"),
        pytest.param("python:3.11-slim-bookworm", id="a tag, which moves"),
        pytest.param("python@sha256:5555", id="half a digest"),
        pytest.param("@sha256:" + "5" * 64, id="no name"),
    ],
)
def test_a_base_without_a_digest_is_refused(release, tmp_path, base):
    done = release(base=base)
    assert done.returncode == 1
    assert f"TRAININGRUN_BASE is '{base}': expected the base image with its digest" in done.stderr
    assert not (tmp_path / "told").exists()


def test_what_is_in_no_commit_is_not_released(release, checkout, tmp_path):
    (checkout / "operator" / "trainingrun_operator" / "new.py").write_text("")
    done = release()
    assert (done.returncode, "has changes that are in no commit" in done.stderr) == (1, True)
    assert not (tmp_path / "told").exists()


def test_another_word_is_refused(release):
    done = release("publish")
    assert (done.returncode, "'publish' is unknown" in done.stderr) == (1, True)

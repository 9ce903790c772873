"""`tools/install` hands Helm the right values and says what went wrong, tried with programs that only write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HELM = """
printf '%s\\n' "$@" >> "$CALLS/helm-$1"
case $1 in
  status) if [ -n "$STATUS" ]; then printf 'STATUS: %s\\nREVISION: 7\\n' "$STATUS"; else exit 1; fi ;;
  get) echo 'The next three commands' ;;
  upgrade) if [ -n "$BROKEN" ]; then echo "$BROKEN"; exit 3; fi ;;
esac
"""
KUBECTL = """
printf '%s ' "$@" >> "$CALLS/kubectl"
case " $* " in *' logs '*) echo 'the last words of the operator' ;; esac
"""


class Ground:
    """A checkout with nothing but the script, and a PATH with nothing but stand-ins and the machine's own tools."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        for path in ("tools/lib", "bin", "calls"):
            (folder / path).mkdir(parents=True)
        for path in ("tools/install", "tools/lib/progress.sh"):
            shutil.copy(ROOT / path, folder / path)
        for name, body in {"helm": HELM, "kubectl": KUBECTL, "docker": "echo sha256:1234"}.items():
            (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)

    def install(self, *arguments, status="deployed", **environment):
        given = {"KUBECONFIG": "somewhere", "STATUS": status, "BROKEN": "", "CALLS": str(self.calls)} | environment
        given |= {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.folder / "tools" / "install", *arguments], env=given, capture_output=True, text=True, check=False
        )

    def asked(self, program):
        path = self.calls / program
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path)


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("trainingrun-operator:dev", "trainingrun-operator", "dev", ""),
        ("host.test:5000/team/operator:v1", "host.test:5000/team/operator", "v1", ""),
        ("host.test:5000/team/operator", "host.test:5000/team/operator", "", ""),
        ("host.test/operator@sha256:ab", "host.test/operator", "", "sha256:ab"),
        ("host.test:5000/operator:v1@sha256:ab", "host.test:5000/operator", "v1", "sha256:ab"),
    ],
)
def test_an_image_is_taken_apart_as_the_chart_wants_it(ground, image, repository, tag, digest):
    assert ground.install(TRAININGRUN_IMAGE=image).returncode == 0
    asked = ground.asked("helm-upgrade").splitlines()
    assert {f"image.repository={repository}", f"image.tag={tag}", f"image.digest={digest}"} <= set(asked)


def test_other_content_under_the_same_tag_restarts_the_operator(ground):
    ground.install()
    assert r"podAnnotations.trainingrun\.dev/image-id=sha256:1234" in ground.asked("helm-upgrade")


def test_a_simulated_cloud_is_the_operators_aws(ground):
    ground.install(TRAININGRUN_CLOUD_ENDPOINT_IN_CLUSTER="http://cloud.test")
    asked = ground.asked("helm-upgrade")
    assert '{"name": "AWS_ENDPOINT_URL_AUTO_SCALING", "value": "http://cloud.test"}' in asked
    assert '{"name": "AWS_ENDPOINT_URL_EC2", "value": "http://cloud.test"}' in asked
    assert "cloudCredentialsSecretName=simulated-cloud" in asked
    assert "create secret generic simulated-cloud" in ground.asked("kubectl")


def test_the_real_cloud_is_reached_by_nothing_made_up(ground):
    ground.install()
    assert "AWS_" not in ground.asked("helm-upgrade") + ground.asked("kubectl")


def test_arguments_go_on_to_helm(ground):
    ground.install("--set", "logLevel=info")
    assert ground.asked("helm-upgrade").endswith("--set\nlogLevel=info\n")


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        pytest.param("", True, id="first install"),
        pytest.param("failed", True, id="after a failure"),
        pytest.param("deployed", False, id="renewal"),
    ],
)
def test_the_next_commands_are_shown_until_the_operator_has_run(ground, status, shown):
    assert ("The next three commands" in ground.install(status=status).stdout) is shown


@pytest.mark.parametrize(
    ("status", "way_out"), [("pending-install", "helm-uninstall"), ("pending-upgrade", "helm-rollback")]
)
def test_a_killed_install_does_not_block_the_next(ground, status, way_out):
    assert ground.install(status=status).returncode == 0
    assert ground.asked(way_out)


def test_a_failure_shows_what_helm_and_the_operator_said(ground):
    done = ground.install(BROKEN="Deployment not ready")
    assert done.returncode == 3
    assert "| Deployment not ready" in done.stderr
    assert "| the last words of the operator" in done.stderr


def test_without_a_test_cluster_nothing_is_touched(ground):
    done = ground.install(KUBECONFIG="")
    assert done.returncode == 1
    assert "make cluster" in done.stderr
    assert not list(ground.calls.iterdir())

"""`kubectl trainingrun`, called by kubectl itself: what a person sees of a run, how they end it, and what they get of it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.bucket import TRIES, again
from e2e.ground import OUTPUTS
from e2e.runs import WAIT_SECONDS

from trainingrun_operator.cli.trouble import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.runs import Space

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
"""Where the console scripts are: kubectl finds plugins on PATH."""
LONG = ("--epochs", "400", "--step-seconds", "0.05", "--save-every", "20")
TARGET = 0.001
"""Never reached here."""


def environment(space: Space) -> dict[str, str]:
    """A person outside of the cluster, with credentials of their own for the bucket."""
    environ = space.environ
    own = {
        "AWS_ENDPOINT_URL_S3": space.ground["TRAININGRUN_S3_ENDPOINT"],
        "AWS_CA_BUNDLE": space.ground["TRAININGRUN_S3_CA"],
        "COLUMNS": "100",
    }
    return {**environ, **own, "PATH": f"{BIN}:{environ['PATH']}"}


def plugin(space: Space, arguments: str, *, code: int = 0, keep: str = "") -> str:
    """What `kubectl trainingrun …` prints; with `keep`, kept for the README."""
    command = f"kubectl trainingrun {arguments}"
    done = _called(space, command)
    for _ in range(TRIES - 1):
        # On a busy machine the way to the bucket now and then breaks.
        if code == Exit.NO_CLUSTER or done.returncode != Exit.NO_CLUSTER:
            break
        done = _called(space, command)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"$ {command}\nleft with {done.returncode} and said:\n{said}"
    if keep:
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        (OUTPUTS / f"plugin-{keep}.txt").write_text(f"$ {command}\n{said}")
    return said


def _called(space: Space, command: str) -> subprocess.CompletedProcess[str]:
    environ = environment(space)
    shell = ["bash", "-c", command]
    return subprocess.run(
        shell, env=environ, cwd=space.folder, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


@contextlib.contextmanager
def background(space: Space, arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The same beside whatever follows; ended with it at the latest."""
    environ = environment(space)
    kubectl = shutil.which("kubectl", path=environ["PATH"])
    assert kubectl
    command = [kubectl, "trainingrun", *arguments.split()]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next that it prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def rest(process: subprocess.Popen[str]) -> str:
    """What it prints until it ends by itself."""
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait(WAIT_SECONDS) == 0, said
    return said


def test_a_person_looks_at_a_run_stops_it_and_takes_its_checkpoint_home(space, tmp_path):
    run = space.run("digits", *LONG, autoStopLoss=TARGET)
    run.wait_training()
    run.wait(
        lambda s: (s.get("checkpoint") or {}).get("uri") and (s.get("progress") or {}).get("loss"),
        "a first checkpoint is verified, and a loss is read",
    )

    # While it trains.
    header, row = (line.split() for line in plugin(space, "list", keep="list").splitlines())
    assert header[:5] == ["NAME", "PHASE", "LOSS", "TARGET", "STEP"]
    assert row[:2] == ["digits", "Running"]
    assert float(row[2]) > TARGET
    assert space.name in plugin(space, "list -A")
    told = plugin(space, "explain digits", keep="explain-running")
    assert told.startswith("digits has not ended: no rule ends it yet.\n")
    assert re.search(rf"\n- Loss [\d.e-]+ at step \d+ is not below {TARGET} \(autoStopLoss\)", told)
    assert "is proven in the bucket" in told
    assert re.search(
        r"loss +loss < 0.001, 2 times in a row +spec.autoStopLoss", plugin(space, "policy digits", keep="policy")
    )
    assert "step" in plugin(space, "logs digits --tail 3")
    assert plugin(space, "explain digit", code=Exit.NO_SUCH_RUN).endswith(
        f"in namespace {space.name}. There is: digits.\n"
    )
    assert space.shell(f"PATH={BIN}:$PATH kubectl __complete trainingrun explain '' 2>/dev/null").splitlines() == [
        "digits",
        ":4",
    ]

    # Nobody who may not.
    refused = plugin(space, "stop digits --as eve", code=Exit.FORBIDDEN)
    assert refused.startswith("error: You (eve) may not get trainingruns in namespace")
    assert "stop" not in (run.read() or {})["spec"]

    # Stopped, in the person's own name; what was followed ends by itself.
    me = space.shell("kubectl auth whoami -o jsonpath='{.status.userInfo.username}'")
    with background(space, "logs digits -f") as logs, background(space, "watch digits") as watch:
        begun = [line(each) for each in (logs, watch)]
        said = plugin(space, "stop digits --reason 'need the GPU' --wait --timeout 3m", keep="stop")
        followed, watched = (first + rest(each) for first, each in zip(begun, (logs, watch), strict=True))
    assert "stopped at step" in followed
    assert watched.splitlines()[-1].endswith("user_stop")
    assert said.splitlines()[0].startswith("digits will stop")
    assert said.splitlines()[-1].startswith("Stopped by hand: spec.stop is true (need the GPU). Checkpoint checkpoint-")
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["termination"]["actor"] == me, "The person is the actor, not the program."

    # When it is over.
    assert f"Requested by {me}." in plugin(space, "explain digits", keep="explain-ended")
    assert plugin(space, "stop digits").startswith("digits has already ended (user_stop)")
    run.wait_curve(lambda curve: curve.points, "it has a curve")
    drawn = plugin(space, "plot digits", keep="plot").splitlines()
    assert drawn[0].endswith(f"threshold {TARGET}, user_stop")
    assert any(line.strip().startswith(f"{TARGET}┤╌") for line in drawn)
    assert "its log are deleted" in plugin(space, "logs digits", code=Exit.NO_SUCH_RUN)

    _take_home(space, run, tmp_path)


def _take_home(space, run, tmp_path):
    """List, verify and download with the person's own credentials; and no more once the bucket holds other bytes."""
    saved = run.status["checkpoint"]
    generation = saved["commit"].rpartition("/")[2].removesuffix(".json")
    listed = plugin(space, "checkpoints list digits", keep="checkpoints-list")
    assert [line for line in listed.splitlines() if line.startswith(generation) and "proven by the operator" in line]
    assert len(listed.splitlines()) == 1 + len(run.commits())
    proven = plugin(space, "checkpoints verify digits", keep="checkpoints-verify")
    assert proven.startswith(f"{generation}  proven  {saved['dir']}: {saved['files']} files")
    plugin(space, f"checkpoints download digits --to {tmp_path}/home", keep="checkpoints-download")
    key = saved["uri"].removeprefix(f"s3://{space.bucket.name}/")
    inside = {one["Key"] for one in space.bucket.objects(key)}
    assert inside
    for one in inside:
        path = tmp_path / "home" / saved["dir"] / one.removeprefix(key)
        assert path.read_bytes() == space.bucket.read(one), "It is what the bucket holds."

    damaged = min(inside)
    body = bytes(reversed(space.bucket.read(damaged)))
    again(
        lambda: space.bucket.client.put_object(
            Bucket=space.bucket.name, Key=damaged, Body=body, ChecksumAlgorithm="CRC64NVME"
        )
    )
    assert "has other bytes in the bucket" in plugin(space, "checkpoints verify digits", code=Exit.NOT_PROVEN)
    plugin(space, f"checkpoints download digits --to {tmp_path}/damaged", code=Exit.NOT_PROVEN)
    assert not [path for path in (tmp_path / "damaged").rglob("*") if path.is_file()], (
        "Nothing that is not proven is left."
    )


def test_a_cluster_that_does_not_answer_is_no_missing_run(space):
    nowhere = space.folder / "nowhere"
    nowhere.write_text(space.ground.kubeconfig.read_text())
    space.shell(
        f"kubectl config --kubeconfig={nowhere} set clusters.$(kubectl config view -o jsonpath='{{.clusters[0].name}}').server https://127.0.0.1:1"
    )
    said = plugin(space, f"explain digits --kubeconfig {nowhere}", code=Exit.NO_CLUSTER)
    assert said.startswith("error: The cluster does not answer:")
    assert plugin(space, "list --context nowhere", code=Exit.NO_CLUSTER).endswith(
        "kubectl config get-contexts lists the existing contexts.\n"
    )

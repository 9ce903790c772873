"""The gate as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from trainingrun_operator.agent import gate
gate.POLL_SECONDS = float(sys.argv[2])
print("up", flush=True)
sys.exit(gate.run(Path(sys.argv[1])))
"""


@pytest.fixture
def gate(tmp_path, request):
    """A gate; a test may say how long it sleeps between two looks."""
    pause = str(getattr(request, "param", 0.2))
    path = ":".join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-E",
            "-c",
            f"import sys; sys.path[:0] = {path!r}.split(':')\n{CODE}",
            str(tmp_path),
            pause,
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_it_waits_until_it_is_released(gate, tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        gate.wait(0.5)
    (tmp_path / "annotations").write_text('trainingrun.dev/released="true"\n')
    assert gate.wait(2) == 0


@pytest.mark.parametrize("gate", [60], indirect=True, ids=["while it sleeps for a minute"])
def test_it_leaves_at_once_on_sigterm(gate):
    time.sleep(0.3)
    gate.send_signal(signal.SIGTERM)
    assert gate.wait(10) == 143, "a pod that is ended from outside has not succeeded"


def test_a_released_gate_that_is_told_to_leave_has_still_succeeded(gate, tmp_path):
    time.sleep(0.3)
    gate.send_signal(signal.SIGSTOP)
    (tmp_path / "annotations").write_text('trainingrun.dev/released="true"\n')
    gate.send_signal(signal.SIGTERM)
    gate.send_signal(signal.SIGCONT)
    assert gate.wait(2) == 0


def test_it_is_small_because_it_rides_in_every_pod(gate):
    status = Path(f"/proc/{gate.pid}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident <= 16 * 1024


def test_it_imports_the_standard_library_only():
    code = "import sys; before = set(sys.modules); from trainingrun_operator.agent import gate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pydantic", "boto3", "botocore", "awscrt", "kopf", "kubernetes", "aiohttp", "asyncio"}
    assert not heavy & set(loaded)

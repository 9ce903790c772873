"""`tools/bare` hides what a machine has that never saw this project would lack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(home, *command, **environment):
    given = {"HOME": str(home), "PATH": os.environ["PATH"]} | environment
    done = subprocess.run([ROOT / "tools" / "bare", *command], env=given, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done


def test_of_the_environment_goes_on_what_is_named(tmp_path):
    mine = {"UV_INDEX": "x", "PIP_CONFIG_FILE": "x", "GOFLAGS": "x", "VIRTUAL_ENV": "x"}
    passed = {
        "CI": "true",
        "PIP_INDEX_URL": "https://pypi.test",
        "GOPROXY": "https://go.test",
        "SSL_CERT_FILE": "/ca.crt",
    }
    shown = run(tmp_path, "env", **mine, **passed).stdout.splitlines()
    seen = dict(line.split("=", 1) for line in shown)
    home = seen.pop("HOME")
    assert home != str(tmp_path)
    assert not Path(home).exists(), "it is gone with the command"
    assert seen == passed | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_CACHE_HOME": f"{tmp_path}/.cache"}


def test_the_home_is_empty(tmp_path):
    assert run(tmp_path, "bash", "-c", 'ls -A "$HOME"').stdout == ""


def test_what_earlier_runs_fetched_is_where_the_caller_keeps_it(tmp_path):
    assert run(tmp_path, "bash", "-c", "echo $XDG_CACHE_HOME", XDG_CACHE_HOME="/kept").stdout == "/kept\n"


def test_a_command_that_fails_fails(tmp_path):
    assert run(tmp_path, "bash", "-c", "exit 7").returncode == 7

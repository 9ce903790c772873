"""A kubectl that answers from a list, and writes down what it was asked."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_UID

from trainingrun_operator.cli.main import run as main

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """#!{python} -IS
import json, os, sys
folder, asked = {folder!r}, sys.argv[1:]
with open(folder + "/asked", "a") as log:
    log.write(json.dumps(asked) + "\\n")
for words, answer in json.load(open(folder + "/answers")):
    if all(word in asked for word in words):
        sys.stdout.write(answer["out"])
        sys.stderr.write(answer["err"])
        sys.exit(answer["code"])
sys.exit("the test has no answer to: " + " ".join(asked))
"""
KIND = "trainingruns.trainingrun.dev"


@dataclass
class FakeKubectl:
    """Of the answers whose words were all asked, the first counts."""

    folder: Path
    answers: list[tuple[list[str], dict[str, Any]]] = field(default_factory=list)

    def says(self, *words: str, out: Any = "", err: str = "", code: int = 0) -> None:
        """Answer a call with all of these words; `out` is text, or an object that is written as JSON."""
        text = out if isinstance(out, str) else json.dumps(out, indent=4) + "\n"
        self.answers.append((list(words), {"out": text, "err": err, "code": code}))
        (self.folder / "answers").write_text(json.dumps(self.answers))

    def has(self, *runs: dict[str, Any]) -> None:
        """These runs are there, and no others."""
        for one in runs:
            self.says("get", KIND, "--output=json", "--", one["metadata"]["name"], out=one)
        self.says(
            "get", KIND, "--", err='Error from server (NotFound): trainingruns.trainingrun.dev "x" not found\n', code=1
        )
        self.says(
            "get",
            KIND,
            "--watch",
            out="".join(json.dumps({"type": "ADDED", "object": one}) + "\n" for one in runs),
        )
        self.says("get", KIND, "--output=json", out={"items": list(runs)})
        listed = "".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}\n" for one in runs)
        self.says("get", KIND, out=listed)
        self.says("config", "view", out="ml")
        self.says("auth", "whoami", out={"status": {"userInfo": {"username": "ada"}}})

    @property
    def asked(self) -> list[list[str]]:
        """Every call so far."""
        file = self.folder / "asked"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def patches(self) -> list[Any]:
        """What was patched, in order."""
        flags = (word for call in self.asked if call[0] == "patch" for word in call)
        found = [json.loads(flag.partition("=")[2]) for flag in flags if flag.startswith("--patch=")]
        for patch in found:
            assert patch["metadata"].pop("uid") == RUN_UID, "It is about this very run, not about the next of its name."
            if not patch["metadata"]:
                del patch["metadata"]
        return found


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "kubectl"
    script.write_text(SCRIPT.format(python=sys.executable, folder=str(tmp_path)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("COLUMNS", "100")
    return FakeKubectl(tmp_path)


@dataclass
class Said:
    """What one call of the plugin left with."""

    code: int
    out: str
    err: str


@pytest.fixture
def plugin(kubectl, capfd):
    def call(*arguments: str) -> Said:
        code = main(arguments)
        return Said(int(code), *capfd.readouterr())

    return call

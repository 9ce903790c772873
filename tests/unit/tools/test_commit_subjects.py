"""`tools/commit-subjects` refuses a subject that a log or a mail would cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


class Checkout:
    """A repository of its own with the script in it; no user's configuration of git."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "commit-subjects", folder / "tools" / "commit-subjects")

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{role}_{what}": "test@host.test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1"} | who
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def check(self, *since: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "tools" / "commit-subjects", *since], capture_output=True, text=True, check=False
        )


@pytest.fixture
def checkout(tmp_path):
    made = Checkout(tmp_path)
    made.git("init", "--quiet")
    return made


def test_a_subject_may_have_72_characters_and_no_more(checkout):
    base = checkout.commit("begin")
    checkout.commit("f" * 72)
    assert checkout.check(base).returncode == 0
    checkout.commit("g" * 73)
    refused = checkout.check(base)
    assert refused.returncode == 1
    assert "73 characters" in refused.stderr
    assert "f" * 72 not in refused.stderr


def test_commits_from_before_are_left_alone(checkout):
    checkout.commit("h" * 100)
    base = checkout.commit("begin")
    assert checkout.check(base).returncode == 0


def test_a_clone_that_lacks_the_first_commit_passes_with_a_word(checkout):
    checkout.commit("h" * 100)
    passed = checkout.check()
    assert passed.returncode == 0
    assert "are not looked at" in passed.stdout


def test_without_git_there_is_nothing_to_look_at(tmp_path):
    passed = Checkout(tmp_path).check()
    assert passed.returncode == 0
    assert "not a git checkout" in passed.stdout

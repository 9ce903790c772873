"""Every command of kubectl and helm that the docs show is run, where it writes as a dry run at the API server; every manifest is accepted by it."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import documented
import pytest
import yaml
from documented import ENDLESS, PLUGINS, READS, RELEASED, RENDERED, ROOT, WRITES, elsewhere, titled
from e2e.api import RUNS

from trainingrun_operator.api import names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WATCHED_SECONDS = 3
FORWARD_SECONDS = 120
COMMAND_SECONDS = 240
READERS = 4
ASKED = ("kubectl", "helm")
# A reader's kubectl: what writes is tried and not done, what would never end is watched for a moment.
KUBECTL = f"""#!/usr/bin/env bash
case " $* " in *" --watch "* | *" watch "*) timeout {WATCHED_SECONDS} @KUBECTL@ "$@"; [ $? = 124 ]; exit ;; esac
verb=$1; [ "$1" != -n ] || verb=$3
case $verb in
  {"|".join(sorted(WRITES))}) exec @KUBECTL@ "$@" --dry-run=server ;;
  {"|".join(sorted(READS | PLUGINS))}) exec @KUBECTL@ "$@" ;;
  {"|".join(sorted(ENDLESS))})
    coproc timeout {FORWARD_SECONDS} @KUBECTL@ "$@" 2>&1
    forwards=$COPROC_PID status=0
    grep --max-count 1 Forwarding <&"${{COPROC[0]}}" || status=$?
    kill "$forwards" 2>/dev/null
    exit "$status" ;;
esac
echo "nobody knows how to run kubectl $verb" >&2; exit 64
"""
# What is installed was rendered by tests/unit/docs/test_commands.py.
HELM = f"""#!/usr/bin/env bash
case $1 in
  {"|".join(sorted(RENDERED))}) exit 0 ;;
  uninstall) exec @HELM@ "$@" --dry-run ;;
  {"|".join(sorted(RELEASED))}) exec @HELM@ "$@" ;;
esac
echo "nobody knows how to run helm $1" >&2; exit 64
"""


def of_the_cluster():
    """Every command that asks the cluster, once, with where it stands."""
    found: dict[str, str] = {}
    for command in documented.commands():
        if elsewhere(command.text):
            continue
        if {call[0] for call in command.calls} & set(ASKED) and {call[0] for call in command.calls} <= set(ASKED):
            found.setdefault(command.text, command.where)
    return found


def manifests():
    """Every object of ours in the docs and the samples, by where it stands."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "manifests" / "samples").glob("*.yaml")}
    texts |= {block.where: block.text for block in documented.all_blocks("yaml")}
    return {
        (where, number): document
        for where, text in texts.items()
        for number, document in enumerate(yaml.safe_load_all(text))
        if isinstance(document, dict) and document.get("kind") in (names.RUN_KIND, names.POOL_KIND)
    }


class Desk:
    """Where a reader sits: the files that the docs have them write, and a namespace with the runs that they name."""

    def __init__(self, space, folder):
        self.space, self.folder = space, folder
        folder.mkdir()
        for shared in ("manifests", "charts"):
            (folder / shared).symlink_to(ROOT / shared)
        for name, text in titled().items():
            (folder / name).write_text(text)
        programs = folder / "bin"
        programs.mkdir()
        environ = space.environ
        for name, script in (("kubectl", KUBECTL), ("helm", HELM)):
            real = shutil.which(name, path=environ["PATH"])
            assert real, f"{name} is not on the PATH of .cluster/env."
            (programs / name).write_text(script.replace(f"@{name.upper()}@", real))
            (programs / name).chmod(0o755)
        plugins = ROOT / ".venv" / "bin"
        self.environ = environ | {"PATH": f"{programs}:{plugins}:{environ['PATH']}"}

    def run(self, command):
        """What is wrong with a command; empty if nothing."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stdout}{done.stderr}"

    def have_runs(self, wanted):
        """Runs of these names as the docs write them, ended before anything of them began."""
        written = {one["metadata"]["name"]: one for one in manifests().values() if one["kind"] == names.RUN_KIND}
        runs = []
        for name in sorted(wanted & written.keys()):
            spec = written[name]["spec"]
            saved_nowhere = {**spec["checkpoint"], "mode": "Disabled"}
            runs.append(self.space.apply(name, {**spec, "stop": True, "checkpoint": saved_nowhere}))
        for run in runs:
            run.wait_finished()
        assert not self.space.pods(), "None of them needed a pod."


def test_every_command_of_the_docs_does_what_it_says(steady_operator, space, tmp_path):
    desk = Desk(space, tmp_path / "desk")
    # A reader makes it by one of the commands.
    space.api.delete(f"/api/v1/namespaces/{space.name}/secrets/s3-credentials")
    commands = of_the_cluster()
    assert len(commands) > 20, "The docs show commands."
    desk.have_runs({word for text in commands for word in re.findall(r"[a-z][a-z0-9-]*", text)})
    # Most of them wait for the API server, or for what they watch.
    with ThreadPoolExecutor(READERS) as readers:
        said = dict(zip(commands, readers.map(desk.run, commands), strict=True))
    assert not any(said.values()), "\n".join(
        f"{commands[text]}: {text}\n    {words}" for text, words in said.items() if words
    )


def test_the_reader_notices_what_is_wrong(space, tmp_path):
    desk = Desk(space, tmp_path / "desk")
    assert "not found" in desk.run("kubectl get trun nobody-wrote-this")
    assert "nobody knows" in desk.run("kubectl cordon x")
    assert "nobody knows" in desk.run("helm rollback x")
    assert "unknown field" in desk.run("sed s/autoStopLoss/autoStopLos/ trainingrun.yaml | kubectl apply -f -")
    assert not desk.run("kubectl apply -f trainingrun.yaml")
    assert not space.api.list(f"{RUNS}/namespaces/{space.name}/trainingruns"), "A reader who writes has done nothing."


def test_every_manifest_of_the_docs_is_accepted_by_the_api_server(space, tmp_path):
    whole = manifests()
    assert len(whole) > 5
    for number, document in enumerate(whole.values()):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(document))
    files = " ".join(f"-f {tmp_path / f'{number}.yaml'}" for number in range(len(whole)))
    said = space.shell(f"kubectl apply --dry-run=server {files}")
    assert said.count("(server dry run)") == len(whole), said

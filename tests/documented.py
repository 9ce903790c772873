"""What the documentation shows: its fenced blocks, the commands in them and between them, its links. And who runs which command.

A command that nobody here knows how to run fails `tests/unit/docs/test_commands.py`: give it a runner, or write it otherwise.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = tuple(
    sorted(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "charts" / "trainingrun-operator" / "README.md", ROOT / "tools" / "cluster" / "README.md", *ROOT.glob("docs/**/*.md")]
    )
)  # fmt: skip

RUNBOOKS: Final = ROOT / "docs" / "runbooks"
"""Their shell blocks are run by tests/e2e/test_alerts.py, all but those for a cloud's account (`aws`), on a run that trains."""

SHELL: Final = ("sh", "shell", "bash")
"""Commands that a reader types."""
CONSOLE: Final = "console"
"""A session: commands after a `$`, and what they answered."""
PICTURES: Final = ("text", "mermaid")
"""Outputs and drawings: nothing to type."""
DATA: Final = ("yaml", "json", "python", "dockerfile")
LANGUAGES: Final = (*SHELL, CONSOLE, *PICTURES, *DATA)

PROGRAMS: Final = ("kubectl", "helm", "make")
"""What is run by tests, whatever the arguments."""
OTHERS: Final = ("aws", "curl", "docker", "git", "pip", "python", "kubectl-trainingrun")
"""What else is a command when it stands between backquotes with arguments."""
NAMING: Final = {"make": 1, "aws": 3, ".venv/bin/pre-commit": 1}
"""Up to so many words only name a program or what it can do: `kubectl drain`, `aws s3 sync`. Others: 2."""
READS: Final = frozenset({"get", "describe", "explain", "wait", "logs", "auth", "version", "api-resources"})
"""Verbs of kubectl that the e2e test runs as they are."""
WRITES: Final = frozenset({"apply", "create", "patch", "annotate", "label", "delete"})
"""Verbs of kubectl that it runs with `--dry-run=server`: the API server checks everything, and does nothing."""
PLUGINS: Final = frozenset({"trainingrun"})
"""Verbs that are a program of this package, which the e2e test runs; what they ask kubectl to write is a dry run again."""
ENDLESS: Final = frozenset({"port-forward"})
"""Verbs of kubectl that go on until somebody ends them: the e2e test does so once they work."""
RENDERED: Final = frozenset({"install", "upgrade", "template"})
"""Verbs of helm that a unit test renders, with the same options."""
RELEASED: Final = frozenset({"uninstall", "status", "list"})
"""Verbs of helm that the e2e test runs, the first with `--dry-run`."""
ELSEWHERE: Final = {
    ". .cluster/env": "it is read by tests/e2e/ground.py, with the same result",
    "kubectl rollout restart": "the operator is everybody's; tests/e2e/test_two_operators.py has another take over, and tests/e2e/test_release.py renews one",
    "kubectl trainingrun explain digits": "tests/e2e/test_plugin.py does, on a run that trains and is then ended; a unit test holds that it does so with each",
    "kubectl trainingrun stop digits": "likewise",
    "kubectl trainingrun plot digits": "likewise",
    "kubectl trainingrun checkpoints": "likewise",
    "kubectl trainingrun explain s3": "tests/integration/edge/test_story.py does, on a real S3 server",
    "kubectl trainingrun plot s3": "likewise",
    "kubectl trainingrun simulate": "tests/unit/cli/test_simulate.py does, on recorded trainings of every format",
    "kubectl trainingrun inspect": "tests/unit/cli/test_inspect.py does, on folders as writers leave them",
    "helm test": "tests/e2e/test_release.py does",
    "kubectl apply --server-side -f manifests/install.yaml": "over Helm's installation it would meet Helm's fields; `make verify` holds that it is the chart",
    "kubectl create token": "it knows no dry run; tests/e2e/tenant.py asks the API server for the same",
    "kubectl port-forward --namespace trainingrun-system service/trainingrun-operator-dashboard": "the ground has none; tests/e2e/test_dashboard.py installs one and forwards to it",
    "cat > trust.json": "a trust policy; what it trusts is in an AWS account",
    "aws iam": "there is no AWS account; tests/unit/cli/test_iam.py holds the policies, tests/integration/agent/test_identity.py what they are for",
    "aws eks": "likewise",
    "kubectl annotate serviceaccount trainer": "likewise",
    "docker tag": "no registry answers here; tools/image builds, names and loads the same image",
    "docker push": "no registry answers here",
    "docker pull": "no registry answers here; tests/unit/tools/test_image.py holds what the build asks for",
    "docker image inspect": "it reads what a push to a registry has left",
    "TRAININGRUN_BASE=": "tests/unit/tools/test_image.py runs it before a docker that writes down what it is told",
    "grype": "no scanner is installed here; the document was validated by CycloneDX's own schema",
    "syft": "no scanner is installed here",
    "cosign": "there is no registry, and nobody to sign as",
    "helm package": "tests/unit/chart/test_readme.py packs the chart",
    "helm push": "no registry answers here",
    "docker kill": "tests/e2e/cloud.py does it to the same container",
    "docker start": "tests/e2e/cloud.py does it to the same container",
    "tools/cluster/cluster": "`make cluster` and `make cluster-down` run it",
    ".venv/bin/pre-commit install": "it changes the hooks of this checkout",
}
"""What no test of the docs runs, by how it begins (but for a `-n`), and why. Keep it short."""

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)$")
_INLINE: Final = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)")
_HEREDOC: Final = re.compile(r"<<-?\s*'?(?P<end>\w+)'?")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")


def elsewhere(text: str) -> str | None:
    """How a command begins that no test of the docs runs; None for all others."""
    plain = re.sub(r"^(\S+) -n \S+", r"\1", text)
    return next((begin for begin in ELSEWHERE if plain.startswith(begin)), None)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    path: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The first word behind the fence."""
        return self.info.split(" ", 1)[0]

    @property
    def title(self) -> str:
        """``title="…"`` behind the fence."""
        match = re.search(r'title="([^"]*)"', self.info)
        return match[1] if match else ""

    @property
    def where(self) -> str:
        """For a person, and as the id of a test."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command as a reader would type it: continuation lines and a here-document belong to it."""

    text: str
    where: str

    @property
    def calls(self) -> list[list[str]]:
        """The words of every program that it runs, variables before it left out."""
        lexer = shlex.shlex(self.text.partition("\n")[0], posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        found: list[list[str]] = [[]]
        for word in lexer:
            if word in ("|", "&&", "||", ";"):
                found.append([])
            else:
                found[-1].append(word)
        return [_without_variables(words) for words in found if words]


def verb_of(call: list[str]) -> str:
    """What a program is asked to do: its first word that is neither ``-n`` nor the namespace behind it."""
    words = call[3:] if call[1:2] == ["-n"] else call[1:]
    return words[0] if words else ""


def _without_variables(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    return words


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a document, those in lists without their indentation.

    Raises:
        ValueError: one has no end.
    """
    found: list[Block] = []
    opening: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if opening is None and match:
            opening, start, lines = match, number, []
        elif opening is not None and match and match["fence"] == opening["fence"] and not match["info"]:
            found.append(Block(path, start, opening["info"].strip(), "".join(f"{each}\n" for each in lines)))
            opening = None
        elif opening is not None:
            lines.append(line.removeprefix(opening["indent"]))
    if opening is not None:
        message = f"{path}:{start}: a block has no end"
        raise ValueError(message)
    return found


def all_blocks(*languages: str) -> list[Block]:
    """Of every document; all, or those of these languages."""
    return [block for path in DOCUMENTS for block in blocks(path) if not languages or block.language in languages]


def titled() -> dict[str, str]:
    """Files that the docs have a reader write: the YAML blocks that are named ``something.yaml``, by that name.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, str] = {}
    for block in all_blocks("yaml"):
        if not block.title.endswith(".yaml"):
            continue
        if block.title in found:
            message = f"{block.where}: there is another {block.title}"
            raise ValueError(message)
        found[block.title] = block.text
    return found


def prose(path: Path) -> list[tuple[int, str]]:
    """The lines between the blocks, numbered."""
    lines = path.read_text(encoding="utf-8").splitlines()
    inside = {n for block in blocks(path) for n in range(block.line, block.line + block.text.count("\n") + 2)}
    return [(number, line) for number, line in enumerate(lines, 1) if number not in inside]


def commands() -> list[Command]:
    """Every command of every document: of shell blocks, after the $ of a session, and between backquotes. Without the blocks of runbooks."""
    found = [
        command
        for block in all_blocks(*SHELL, CONSOLE)
        if not block.path.is_relative_to(RUNBOOKS)
        for command in _typed(block)
    ]
    for path in DOCUMENTS:
        found += [Command(code, f"{path.relative_to(ROOT)}:{line}") for line, code in inline(path) if is_command(code)]
    return found


def inline(path: Path) -> list[tuple[int, str]]:
    """What stands between backquotes in the text, by line; it may go on over the end of a line."""
    lines = [""] * (len(path.read_text(encoding="utf-8").splitlines()) + 1)
    for number, line in prose(path):
        lines[number] = line
    text = "\n".join(lines)
    return [(text.count("\n", 0, code.start()), " ".join(code[1].split())) for code in _INLINE.finditer(text)]


def is_command(code: str) -> bool:
    """Whether code between backquotes is something to type, and does not only name a program or a verb."""
    words = code.split()
    if words[0] not in (*PROGRAMS, *OTHERS) and not words[0].startswith(".venv/"):
        return False
    return len(words) > NAMING.get(words[0], 2)


def _typed(block: Block) -> Iterator[Command]:
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        line, where = lines[number], f"{block.path.relative_to(ROOT)}:{block.line + number + 1}"
        number += 1
        if block.language == CONSOLE:
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.endswith("\\"):
            line = f"{line[:-1].rstrip()} {lines[number].strip()}"
            number += 1
        if document := _HEREDOC.search(line):
            while lines[number] != document["end"]:
                line += f"\n{lines[number]}"
                number += 1
            line += f"\n{lines[number]}"
            number += 1
        yield Command(line, where)


def links(path: Path) -> list[str]:
    """Every target of a link or picture between the blocks."""
    return [m["target"] or m["image"] for _, line in prose(path) for m in _LINK.finditer(_INLINE.sub("", line))]

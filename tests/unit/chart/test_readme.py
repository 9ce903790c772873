"""The table of values in the chart's README is what values.yaml says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "trainingrun-operator"


def test_the_readme_is_made_of_what_is_there_now(tool):
    assert (CHART / "README.md").read_text(encoding="utf-8") == tool.render(CHART), "run `make generate`"


def test_every_value_is_explained_once(tool):
    def below(values, prefix=""):
        for key, value in values.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from below(value, f"{prefix}{key}.")

    paths = [value.path for value in tool.values(CHART)]
    assert len(set(paths)) == len(paths)
    everything = list(below(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))))
    assert [path for path in paths if path not in everything] == []
    covered = [
        path
        for path in everything
        if any(f"{path}.".startswith(f"{one}.") or one.startswith(f"{path}.") for one in paths)
    ]
    assert covered == everything


def of(tool, tmp_path, text):
    (tmp_path / "values.yaml").write_text(text, encoding="utf-8")
    return [tuple(value) for value in tool.values(tmp_path)]


def test_a_comment_over_several_lines_is_one_text_and_what_stands_before_its_mark_is_none(tool, tmp_path):
    text = "# Of the file.\n\n# An aside.\n# -- How many:\n# a | b.\nreplicas: 1\n"
    assert of(tool, tmp_path, text) == [("replicas", "1", "How many: a | b.")]
    assert tool.cell("a | b") == "a \\| b"


def test_an_explained_section_is_one_value_and_another_its_parts(tool, tmp_path):
    text = "# -- All of it.\nresources:\n  limits: {cpu: 1}\n\n# Seconds.\ntiming:\n  # -- Wait.\n  hold: 5\n"
    assert of(tool, tmp_path, text) == [
        ("resources", '{"limits": {"cpu": 1}}', "All of it."),
        ("timing.hold", "5", "Wait."),
    ]


def test_a_value_that_nobody_explains_is_named(tool, tmp_path):
    with pytest.raises(SystemExit) as caught:
        of(tool, tmp_path, "a:\n  # A word.\n  b: 1\n")
    assert caught.value.code == "values.yaml: a.b has no comment that begins with '# -- '"


def test_the_chart_is_packed_without_what_it_is_made_from(helm, tmp_path):
    done = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    shown = helm.run("show", "readme", *map(str, tmp_path.glob("*.tgz")))
    assert "| `watchNamespaces` |" in shown.stdout
    assert "{%" not in shown.stdout

"""What the chart renders for a matrix of values, as it was reviewed. UPDATE_GOLDENS=1 rewrites tests/golden/chart/NAME.yaml from NAME.values.yaml.

All but `default` hold what differs from the default render, and name what is not there: the difference is what a reviewer reads. Alerts and dashboards are cut
short: what they say is compared with their sources in test_monitoring.py.
"""

from __future__ import annotations

import re

import goldens
import pytest
import yaml
from goldens import assert_golden
from unit.chart.conftest import CHART

GOLDENS = goldens.GOLDENS / "chart"
MATRIX = goldens.CHART_ROWS
CRD = "CustomResourceDefinition"
FROM_FILES = ("/alerts.yaml\n", "/dashboards.yaml\n")
HEAD_LINES = 30


def documents(text):
    """By kind, namespace and name, in order; the text as it is."""
    found = {}
    for part in re.split(r"(?m)^---\n", text):
        if stored := yaml.safe_load(part):
            meta = stored["metadata"]
            found[stored["kind"], meta.get("namespace", ""), meta["name"]] = shortened(part.strip())
    return found


def shortened(part):
    """A document that carries a generated file, without most of it."""
    source, _, rest = part.partition("\n")
    lines = rest.splitlines()
    if not f"{source}\n".endswith(FROM_FILES) or len(lines) <= HEAD_LINES:
        return part
    return "\n".join([source, *lines[:HEAD_LINES], "# … and so on"])


def differing(rendered, default):
    """What is not as by default, and a line for each document that is there by default and not here."""
    gone = [" ".join(filter(None, key)) for key in default if key not in rendered]
    changed = [part for key, part in rendered.items() if default.get(key) != part]
    return "".join([*(f"# not there: {each}\n" for each in gone), *(f"---\n{part}\n" for part in changed)])


def test_default_values_render_what_was_reviewed(default):
    assert_golden("chart/default.yaml", "".join(f"---\n{part}\n" for part in documents(default.without(CRD)).values()))


@pytest.mark.parametrize("name", MATRIX)
def test_values_render_what_was_reviewed(helm, default, name):
    rendered = helm.render("--values", str(GOLDENS / f"{name}.values.yaml"))
    assert_golden(f"chart/{name}.yaml", differing(documents(rendered.without(CRD)), documents(default.without(CRD))))


def test_every_golden_has_its_values():
    rendered = {path.name.removesuffix(".yaml") for path in GOLDENS.glob("*.yaml") if ".values." not in path.name}
    assert rendered == {"default", *MATRIX}


def test_every_value_is_set_by_some_row(tool):
    """A value that no row sets renders as nobody has looked at."""
    rows = [yaml.safe_load((GOLDENS / f"{name}.values.yaml").read_text()) for name in MATRIX]

    def sets(row, path):
        for key in path.split("."):
            if not isinstance(row, dict) or key not in row:
                return False
            row = row[key]
        return True

    unset = [value.path for value in tool.values(CHART) if not any(sets(row, value.path) for row in rows)]
    assert unset == []

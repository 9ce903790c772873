"""The generator of alerts and dashboards is a script beside its helpers: found as Python finds them for it, and forgotten afterwards."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "tools" / "monitoring"
MODULES = sorted(path.stem for path in TOOLS.glob("*.py"))
FILES = ROOT / "charts" / "trainingrun-operator" / "files"


@pytest.fixture(scope="session")
def tools():
    sys.path.insert(0, str(TOOLS))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(TOOLS))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="session")
def rules(tools):
    return tools["rules"].load(ROOT / "alerts" / "rules.yaml").rules


def alerts():
    """Name of every rule, for tables."""
    return [rule["alert"] for rule in yaml.safe_load((ROOT / "alerts" / "rules.yaml").read_text())["rules"]]


def boards():
    """Every dashboard as it is committed, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}

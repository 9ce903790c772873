#!/usr/bin/env python3
"""Write the files generated from `alerts/rules.yaml`, and Grafana's dashboards: `generate.py [FOLDER]`, by default into the repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from document import as_json, as_yaml
from fleet import fleet
from rules import for_grafana, for_grafana_operator, for_prometheus, load
from run import run

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = "charts/trainingrun-operator/files"


def files() -> dict[str, str]:
    """Content of each generated file, by path."""
    rules = load(ROOT / "alerts" / "rules.yaml")
    prometheus, grafana = as_yaml(for_prometheus(rules)), as_yaml(for_grafana(rules))
    return {
        "alerts/prometheus.yaml": prometheus,
        "alerts/grafana.yaml": grafana,
        f"{CHART}/alerts/prometheus.yaml": prometheus,
        f"{CHART}/alerts/grafana.yaml": grafana,
        f"{CHART}/alerts/operator.yaml": as_yaml(for_grafana_operator(rules)),
        f"{CHART}/dashboards/fleet.json": as_json(fleet()),
        f"{CHART}/dashboards/run.json": as_json(run()),
    }


def main(folder: str = str(ROOT)) -> None:
    """Write all files."""
    for path, text in files().items():
        target = Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

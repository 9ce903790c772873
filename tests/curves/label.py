"""Labels the recorded curves by the criterion of README.md, from their rows alone: no rule is run.

label.py    writes labels.json beside the curves of each folder
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
FOLDERS: Final = (HERE, HERE / "held-out")
WORTH: Final = 0.05
"""Share of all that a training gains; a gain of less is not worth the rest of the training."""


def label(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return the labels of one curve."""
    values = [row["eval_loss"] for row in rows]
    finite = [value for value in values if isfinite(value)]
    best = min(finite, default=0.0)
    gained = max(finite[0] - best, 0.0) if finite else 0.0
    enough = next((at for at, value in enumerate(values) if isfinite(value) and value <= best + WORTH * gained), 0)
    broken = [at for at, row in enumerate(rows) if not isfinite(row["loss"])]
    return {
        "rows": len(rows),
        "enoughStep": rows[enough]["step"],
        "rowsAfterEnough": len(rows) - 1 - enough,
        "nonFiniteStep": rows[broken[0]]["step"] if broken else None,
    }


def main() -> None:
    """Write the labels of all curves."""
    for folder in FOLDERS:
        labels = {}
        for path in sorted(folder.glob("*.jsonl")):
            labels[path.stem] = label([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

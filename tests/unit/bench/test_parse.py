"""The row `parse/logs` of `make bench`."""

from __future__ import annotations

import json

from bench import parse
from bench.results import keep


def test_lines_that_are_read_are_counted_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(parse, "PIECE", 20)
    found = parse.bench(1)
    keep(tmp_path / "results.json", [found])
    kept = json.loads((tmp_path / "results.json").read_text())["parse/logs"]
    assert (kept["unit"], kept["peers"]) == ("lines/s", {})
    assert kept["ours"] > 0
    assert kept["one_in_ten"] > 0
    assert "parse/logs" in capsys.readouterr().out

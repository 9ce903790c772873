"""The row `parse/events` of `make bench`."""

from __future__ import annotations

import json

import pytest
from bench import scalars
from bench.results import keep


def test_scalars_are_counted_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scalars, "COPIES", 50)
    keep(tmp_path / "results.json", [scalars.bench(1)])
    kept = json.loads((tmp_path / "results.json").read_text())["parse/events"]
    assert (kept["unit"], kept["peers"]) == ("scalars/s", {})
    assert 0 < kept["ours"] < kept["bytes_per_s"]
    assert "parse/events" in capsys.readouterr().out


def test_a_file_that_is_not_read_to_its_end_is_not_measured(monkeypatch):
    whole = scalars.read
    monkeypatch.setattr(scalars, "COPIES", 2)
    monkeypatch.setattr(scalars, "read", lambda data: whole(data)[:3])
    with pytest.raises(RuntimeError, match="3 scalars were read, and the file has 6"):
        scalars.bench(1)

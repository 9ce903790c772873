"""The row `parse/prometheus` of `make bench`."""

from __future__ import annotations

import json

import pytest
from bench import pages
from bench.results import keep


def test_both_readers_find_the_same_numbers_on_a_page_of_200_lines():
    page = pages.page(pages.LINES)
    assert page.count(b"\n") == 200
    assert pages.read_by_us(page) == pages.read_by_peer(page) == (0.25, 0.5, 0.75, 1.0)


def test_a_page_has_room_for_what_is_on_every_page():
    with pytest.raises(ValueError, match="lines at least, and not 20"):
        pages.page(20)


@pytest.mark.parametrize("read", [pages.read_by_us, pages.read_by_peer])
@pytest.mark.parametrize("page", [b"", b"up 1\n", b"training_loss 1\n"])
def test_a_page_without_the_numbers_is_not_counted(read, page):
    with pytest.raises(ValueError, match="has not all"):
        read(page)


def test_pages_are_counted_beside_the_peer_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pages, "SECONDS", 0)
    keep(tmp_path / "results.json", [pages.bench(2)])
    kept = json.loads((tmp_path / "results.json").read_text())["parse/prometheus"]
    assert kept["unit"] == "pages/s"
    assert kept["ours"] > 0
    assert kept["peers"]["prometheus_client"]["theirs"] > 0
    assert "parse/prometheus" in capsys.readouterr().out


def test_the_ratio_is_how_many_times_as_many_pages_ours_reads():
    document = pages.Parsed(8000, 500).document()
    assert document == {
        "unit": "pages/s",
        "ours": 8000,
        "peers": {"prometheus_client": {"theirs": 500, "ratio": 16}},
    }


def test_a_reader_that_reads_other_numbers_is_not_measured(monkeypatch):
    monkeypatch.setattr(pages, "read_by_us", lambda _: (9.0, 0.5, 0.75, 1.0))
    pages.read_by_us.__name__ = "read_by_us"
    with pytest.raises(RuntimeError, match="reads other numbers"):
        pages.bench(1)

"""The rows of `make bench`: what the table says and what the file keeps."""

from __future__ import annotations

import json

import pytest
from bench.results import OURS, Measured, Medians, Row, keep
from rich.console import Console

GB = 1_000_000_000


def medians(rate: float) -> Medians:
    return Medians(rate, 1.5, 64.0)


def printed(row: Row) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(row.table())
    return captured.get()


def test_each_figure_is_its_own_median_per_bytes_moved():
    measured = [Measured(4, 8, 30), Measured(1, 4, 90), Measured(2, 6, 60)]
    assert Medians.of(2 * GB, measured) == Medians(1000.0, 3.0, 60)


def test_a_row_keeps_ours_and_each_peer_with_the_ratio_between_them():
    row = Row("upload/big", {OURS: medians(300), "obstore": medians(400), "s5cmd": medians(200)})
    found = row.document()
    assert (found["ours"], found["unit"]) == (300, "MB/s")
    assert found["peers"]["obstore"] == {"theirs": 400, "ratio": 0.75, "cpu_s_per_gb": 1.5, "peak_rss_mib": 64.0}
    assert found["peers"]["s5cmd"]["ratio"] == 1.5
    assert "missing" not in found


def test_a_missing_peer_is_kept_with_its_reason_and_without_figures():
    found = Row("upload/big", {OURS: medians(300)}, {"rclone": "403 Forbidden"}).document()
    assert found["missing"] == {"rclone": "403 Forbidden"}
    assert found["peers"] == {}


def test_peers_have_no_ratio_where_ours_failed():
    row = Row("upload/big", {"s5cmd": medians(200)}, {OURS: "status 1"})
    assert row.document()["peers"]["s5cmd"]["ratio"] is None
    assert "ours" not in row.document()


@pytest.mark.parametrize("reason", ["403 Forbidden", "[Errno 2] no such file", "see [/dim] and [bold]"])
def test_the_table_has_ours_first_then_peers_by_speed_then_reasons_as_they_are(reason):
    row = Row("upload/small", {"s5cmd": medians(200), OURS: medians(300), "obstore": medians(400)}, {"rclone": reason})
    said = printed(row)
    assert said.index("│ ours ") < said.index("obstore") < said.index("s5cmd") < said.index("rclone")
    assert reason in said
    assert "0.75" in said


def test_rows_that_were_not_measured_now_stay_in_the_file(tmp_path):
    path = tmp_path / ".bench" / "results.json"
    keep(path, [Row("upload/big", {OURS: medians(1)}), Row("upload/small", {OURS: medians(2)})])
    keep(path, [Row("upload/small", {OURS: medians(3)})])
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {name: row["ours"] for name, row in kept.items()} == {"upload/big": 1, "upload/small": 3}

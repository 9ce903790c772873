"""What `make bench ONLY=...` runs, and by which commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.__main__ import matching
from bench.results import OBJECTS, OURS
from bench.transfers.clients import PEERS, Move, Programs, command, environment, took
from bench.transfers.moving import tasks
from bench.transfers.sets import SETS, FileSet
from bench.transfers.sink import Sink

NAMES = ["exporter", "upload/big", "upload/big/wan", "upload/small", "restore/big"]
PATHS = {"s5cmd": Path("/programs/s5cmd"), "rclone": Path("/programs/rclone"), "python": Path("/programs/bin/python")}


def make_move(way: str, count: int = 1) -> Move:
    sink = Sink("https://127.0.0.1:9", Path("/work/ca.crt"))
    return Move(way, sink, "prefix/", Path("/work/files"), count, Path("/work"))


@pytest.mark.parametrize(
    ("only", "parts"),
    [
        ("", NAMES),
        ("upload", ["upload/big", "upload/big/wan", "upload/small"]),
        ("upload/big", ["upload/big", "upload/big/wan"]),
        ("upload/big/wan", ["upload/big/wan"]),
        ("restore/,exporter", ["exporter", "restore/big"]),
        ("exporter restore", ["exporter", "restore/big"]),
    ],
)
def test_only_names_parts_and_what_is_below_them(only, parts):
    assert matching(only, NAMES) == parts


@pytest.mark.parametrize("only", ["up", "upload/bi", "uploads", "upload/big/lan"])
def test_an_unknown_part_is_refused_with_those_that_exist(only):
    with pytest.raises(ValueError, match=f"ONLY={only} names no part of the bench; its parts are exporter, upload/big"):
        matching(only, NAMES)


def test_every_set_is_uploaded_and_restored_over_both_networks():
    assert {task.name for task in tasks() if task.way != "verify"} == {
        f"{way}/{files}{network}"
        for way in ("upload", "restore")
        for files in ("big", "shards", "small")
        for network in ("", "/wan")
    }
    assert [(files.count, files.size) for files in SETS] == [(1, 2 << 30), (200, 5 << 20), (5000, 64 << 10)]


def test_a_proof_is_measured_over_both_networks_and_counts_objects():
    proofs = [task for task in tasks() if task.way == "verify"]
    assert [task.name for task in proofs] == ["verify/5000", "verify/5000/wan"]
    assert {(task.work, task.measure) for task in proofs} == {(5000, OBJECTS)}


def test_a_set_has_its_files_of_its_size_and_no_two_alike(tmp_path):
    files = FileSet("some", 3, (4 << 20) + 5)
    files.write(tmp_path / "files")
    written = [path.read_bytes() for path in (tmp_path / "files").iterdir()]
    assert [len(body) for body in written] == [files.size] * 3
    assert len(set(written)) == 3
    assert files.total_bytes == sum(map(len, written))


def test_a_program_that_was_not_built_takes_its_clients_with_it():
    programs = Programs.parse("sink\t/programs/sink\ns5cmd\tmissing: 403 Forbidden\npython\tmissing: no index\n")
    assert programs.paths == {"sink": Path("/programs/sink")}
    assert {client: programs.why_missing(client) for client in (OURS, *PEERS)} == {
        OURS: None,
        "s5cmd": "403 Forbidden",
        "rclone": None,
        "boto3": "no index",
        "awscli": "no index",
        "crt": "no index",
        "obstore": "no index",
    }


@pytest.mark.parametrize("client", [OURS, *PEERS])
def test_every_client_reads_the_files_on_upload_and_writes_them_on_restore(client):
    there, back = (command(client, make_move(way), Programs(PATHS)) for way in ("upload", "restore"))
    assert any("https://127.0.0.1:9" in word for word in there)
    assert any(word.startswith("/work/files") for word in there)
    assert there != back


def test_rclone_moves_many_files_by_more_requests_at_once():
    few, many = (command("rclone", make_move("upload", count), Programs(PATHS)) for count in (200, 5000))
    assert "--transfers=16" in few
    assert "--transfers=64" in many


def test_clients_see_no_keys_settings_or_proxies_of_this_user(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    seen = environment(make_move("upload"))
    assert not {"AWS_PROFILE", "HTTPS_PROXY"} & seen.keys()
    assert (seen["HOME"], seen["SSL_CERT_FILE"]) == ("/work", "/work/ca.crt")


def test_the_start_of_python_is_not_counted_for_libraries_and_is_for_programs():
    whole = {"seconds": 3.0, "cpu_seconds": 2.0, "peak_rss_mib": 80.0}
    said = "a warning\n" + json.dumps({"seconds": 1.0, "cpu_seconds": 0.5}) + "\n"
    assert took("boto3", said, whole) == {"seconds": 1.0, "cpu_seconds": 0.5, "peak_rss_mib": 80.0}
    assert took("awscli", "", whole) == whole

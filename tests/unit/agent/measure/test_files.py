"""What the agent answers about the training's files, while they are written, replaced and removed."""

from __future__ import annotations

import os
import threading

import pytest
from event_files import TENSORBOARD, TENSORBOARD_X

from trainingrun_operator.agent.measure import files as module
from trainingrun_operator.agent.measure.files import Measures
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.exchange import MEASURED_FILES_MAX, MEASURED_MAX_BYTES, Measured

EVENTS = "runs/events.out.tfevents.1767323045.host"
SINCE_NS = 1_000_000_000


@pytest.fixture
def measures(tmp_path):
    return Measures(str(tmp_path), "uid", SINCE_NS)


def write(root, path, data, *, second=10):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    os.utime(file, ns=(0, second * 10**9))


def look(measures, root):
    measures.looked(scan(str(root), Filter()).entries)
    return Measured.model_validate_json(measures.page())


def values(file):
    return {one.name: (one.value, one.step) for one in file.values}


def test_each_kind_of_file_is_read_the_newest_first(measures, tmp_path):
    write(tmp_path, EVENTS, TENSORBOARD_X, second=4)
    write(tmp_path, "checkpoint-7/trainer_state.json", '{"log_history": [{"loss": 0.5, "step": 7}]}', second=3)
    write(tmp_path, "csv/metrics.csv", "step,train_loss\n7,0.5\n", second=2)
    write(tmp_path, "out.jsonl", '{"step": 7, "loss": 0.5}\n', second=1)
    write(tmp_path, "config.json", '{"loss": 0.5}')
    found = look(measures, tmp_path)
    assert found.pod_uid == "uid"
    assert [one.kind for one in found.files] == ["TensorBoard", "TrainerState", "CSV", "JSONLines"]
    assert values(found.files[0]) == {"Loss/train": ("0.75", 30), "Loss/test": ("0.25", 30)}
    for one in found.files[1:]:
        assert ("0.5", 7) in values(one).values()


def test_files_that_an_earlier_pod_has_written_and_links_do_not_count(measures, tmp_path):
    write(tmp_path, "old.jsonl", '{"step": 7, "loss": 0.5}\n', second=0)
    write(tmp_path, "new.txt", '{"step": 7, "loss": 0.5}\n')
    (tmp_path / "link.jsonl").symlink_to("new.txt")
    assert look(measures, tmp_path).files == ()


def test_an_event_file_is_read_on_where_it_was_whole(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    seen = []
    for size in range(100, len(TENSORBOARD) + 1, 7):
        write(tmp_path, EVENTS, TENSORBOARD[:size], second=size)
        seen.append(values(look(measures, tmp_path).files[0]).get("train/loss"))
    assert [one for number, one in enumerate(seen) if number == 0 or one != seen[number - 1]] == [
        None,
        ("2.0", 10),
        ("1.5", 20),
    ]


@pytest.mark.parametrize("in_place", [True, False])
def test_an_event_file_that_was_replaced_is_read_from_its_beginning(measures, tmp_path, in_place):
    write(tmp_path, EVENTS, TENSORBOARD)
    look(measures, tmp_path)
    if not in_place:
        (tmp_path / EVENTS).rename(tmp_path / "kept")
    write(tmp_path, EVENTS, TENSORBOARD_X * 3, second=11)
    assert values(look(measures, tmp_path).files[0]).keys() == {"Loss/train", "Loss/test"}


def test_an_event_file_that_is_damaged_for_good_keeps_what_was_read(measures, tmp_path):
    write(tmp_path, EVENTS, TENSORBOARD + b"\xff" * 100)
    for second in (10, 11, 12):
        write(tmp_path, EVENTS, TENSORBOARD + b"\xff" * 10 * second, second=second)
        (found,) = look(measures, tmp_path).files
        assert values(found)["train/loss"] == ("1.5", 20)
        assert not found.behind


def test_a_file_that_takes_long_is_read_in_several_answers(measures, tmp_path, monkeypatch):
    write(tmp_path, EVENTS, TENSORBOARD)
    monkeypatch.setattr(module, "WORK_SECONDS", -1)
    (found,) = look(measures, tmp_path).files
    assert (found.behind, found.values) == (True, ())
    monkeypatch.undo()
    (found,) = look(measures, tmp_path).files
    assert not found.behind
    assert values(found)["train/loss"] == ("1.5", 20)


def test_of_a_long_file_the_end_is_read(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TAIL_BYTES", 60)
    write(tmp_path, "a.jsonl", "".join(f'{{"step": {step}, "loss": {step}.5}}\n' for step in range(100)))
    write(tmp_path, "b/metrics.csv", "step,loss\n" + "".join(f"{step},{step}.5\n" for step in range(100)))
    write(tmp_path, "c/metrics.csv", "step,lo")
    first, second, third = look(measures, tmp_path).files
    assert values(first)["loss"] == values(second)["loss"] == ("99.5", 99)
    assert third.values == ()


def test_a_state_that_is_too_large_is_not_read(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STATE_MAX", 10)
    write(tmp_path, "trainer_state.json", '{"log_history": [{"loss": 0.5, "step": 7}]}')
    assert look(measures, tmp_path).files[0].values == ()


def test_a_file_that_is_gone_or_breaks_its_reader_does_not_hide_the_others(measures, tmp_path, monkeypatch, caplog):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path, name, '{"step": 7, "loss": 0.5}\n')
    write(tmp_path, "metrics.csv", "step,loss\n1,2\n")
    measures.looked(scan(str(tmp_path), Filter()).entries)
    (tmp_path / "a.jsonl").unlink()

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setitem(module._READERS, "CSV", broken)
    assert [one.path for one in Measured.model_validate_json(measures.page()).files] == ["b.jsonl"]
    assert "metrics.csv cannot be read as CSV" in caplog.text


def test_the_answer_is_bounded(measures, tmp_path):
    row = ", ".join(f'"{"é" * 100}{number}": {number}.123456789' for number in range(500))
    for number in range(50):
        write(tmp_path, f"{'d' * 200}/{number}.jsonl", f"{{{row}}}\n")
    measures.looked(scan(str(tmp_path), Filter()).entries)
    answer = measures.page()
    assert len(answer.encode()) < MEASURED_MAX_BYTES
    assert len(Measured.model_validate_json(answer).files) == MEASURED_FILES_MAX


def test_while_a_volume_hangs_the_last_answer_stands(measures, tmp_path, monkeypatch):
    write(tmp_path, "a.jsonl", '{"step": 7, "loss": 0.5}\n')
    before = look(measures, tmp_path)
    hangs, goes_on = threading.Event(), threading.Event()

    def hanging(*_):
        hangs.set()
        goes_on.wait()
        raise OSError

    monkeypatch.setattr(measures, "_read", hanging)
    thread = threading.Thread(target=measures.page)
    thread.start()
    hangs.wait()
    assert Measured.model_validate_json(measures.page()) == before
    goes_on.set()
    thread.join()

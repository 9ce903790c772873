"""What lies under temporary names, and what the agent's report says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import rights

from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.stop import StopFile
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.exchange import AgentConfig, AgentReport
from trainingrun_operator.checkpoints.documents import PodRef
from trainingrun_operator.checkpoints.names import is_temporary

if TYPE_CHECKING:
    from pathlib import Path


def watcher(root: Path, **options) -> Watcher:
    config = {"namespace": "ml", "run": "bert", "run_uid": "u", "path": str(root), "destination": "s3://b", **options}
    return Watcher(AgentConfig(**config), "STOP_TRAINING")


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"12345")


@pytest.mark.parametrize(
    "path",
    [
        ".tmp",
        ".tmp-checkpoint-100/w.pt",
        ".tmp_x",
        "tmp-lora/adapter.dat",
        "a/tmp-1",
        "w.tmp",
        "a.tmp/b/c.pt",
        "ema.partial",
        "1200.orbax-checkpoint-tmp-3/d/0",
        "tmp-\n",
        "step2000-tmp/w.pt",
        "checkpoint_2000.tmp-1699999999/w.pt",
        "ckpt-12_temp/part-00000-of-00001",
        "model.ckpt-12.data-00000-of-00001.tempstate123",
        "model.safetensors.incomplete",
        "m-step=100-unfinished",
        "checkpoint_tmp",
        "tmpab12cd_3",
        "model.pt.tmp.17",
    ],
)
def test_a_path_is_temporary(path):
    assert is_temporary(path)


@pytest.mark.parametrize("path", ["w.pt", "tmp", "tmp/w.pt", "x-tmp-1", "a.tmp.pt", "a.partial.pt", "temperature.json", "checkpoint-1/.metadata", "data_staging/w.pt", "pending/w.pt", "step_1/config.yaml.bak", "model.old"])  # fmt: skip
def test_a_path_is_not_temporary(path):
    assert not is_temporary(path)


def test_both_kinds_are_listed_and_neither_is_taken_for_the_other(tmp_path):
    write(tmp_path, "step_1/w", ".tmp-step_2/w", ".tmp-step_2/deep/er", "step_1/x.partial", "b.tmp")
    found = scan(str(tmp_path), Filter())
    assert set(found.entries) == {"step_1/w"}
    assert set(found.temporary) == {".tmp-step_2/w", ".tmp-step_2/deep/er", "step_1/x.partial", "b.tmp"}
    assert set(found.everything) == {*found.entries, *found.temporary}


def test_what_is_excluded_is_excluded_under_every_name(tmp_path):
    write(tmp_path, "a.pt", "cache/x.tmp", ".tmp-1/cache/y")
    found = scan(str(tmp_path), Filter(exclude=("cache",)))
    assert set(found.everything) == {"a.pt"}


def test_temporary_names_are_no_checkpoint_whether_or_not_the_training_has_ended(tmp_path):
    write(tmp_path, ".tmp-checkpoint-100/w", "tmp-sweep-3/w", "checkpoint-7.tmp")
    for ended in (False, True):
        view = watcher(tmp_path).look(ended=ended)
        assert (view.seen, view.rest) == ((), None)


def test_the_agents_own_files_are_none_of_the_trainings(tmp_path):
    write(tmp_path, ".tmp-STOP_TRAINING", "STOP_TRAINING")
    assert watcher(tmp_path).look().scan.everything == {}
    (tmp_path / ".tmp-STOP_TRAINING").unlink()
    StopFile(tmp_path, tmp_path, "STOP_TRAINING", 0).write("t1")
    assert watcher(tmp_path).look().scan.everything == {}


def test_too_many_files_are_too_many_under_any_name(tmp_path):
    write(tmp_path, *(f".tmp-1/{number}" for number in range(5)))
    found = scan(str(tmp_path), Filter(), limit=4)
    assert (found.too_many, found.known) == (True, False)


def report(root: Path | None, **options) -> AgentReport:
    board = Board(PodRef(name="bert-0", uid="p1"), 0)
    if root is not None:
        board.looked(watcher(root, **options).look())
    return board.report()


def counts(of: AgentReport) -> tuple[int | None, int | None, int]:
    return of.files, of.temporary_files, of.temporary_bytes


def test_the_report_counts_both_kinds_once_the_agent_has_looked(tmp_path):
    assert counts(report(None)) == (None, None, 0)
    assert counts(report(tmp_path)) == (0, 0, 0)
    write(tmp_path, "a", ".tmp-1/b", ".tmp-1/c")
    assert counts(report(tmp_path)) == (1, 2, 10)


def test_what_cannot_be_read_is_not_empty(tmp_path):
    file = tmp_path / "no-directory"
    file.write_text("")
    assert counts(report(file)) == (None, None, 0)


def test_an_unreadable_temporary_folder_does_not_matter_while_it_trains_but_is_not_empty(tmp_path):
    write(tmp_path, "step_1/w", ".tmp-1/x")
    (tmp_path / ".tmp-1").chmod(0)
    with rights.of_a_user():
        view = watcher(tmp_path).look()
        assert (view.scan.error, view.error, view.scan.unread) == ("", "", (".tmp-1", "Permission denied"))
        assert counts(report(tmp_path)) == (None, None, 0)
    (tmp_path / ".tmp-1").chmod(0o700)


def test_reports_of_earlier_agents_are_understood():
    old = AgentReport.model_validate_json('{"podUid": "p1", "files": 0, "bytes": 0}', by_alias=True, by_name=False)
    assert counts(old) == (0, None, 0)
    new = report(None).model_dump_json(by_alias=True)
    assert AgentReport.model_validate_json(new, by_alias=True, by_name=False) == report(None)


# -- what is not entered, and what is not the training's ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "exclude", "folder", "enters"),
    [
        (["**"], ["cache"], "cache", False),
        (["**"], ["cache/"], "cache", False),
        (["**"], ["cache/**"], "cache", False),
        (["**"], ["cache/*"], "cache", False),
        (["**"], ["cache/**/*"], "cache", False),
        (["**"], ["**/cache/**"], "a/b/cache", False),
        (["**"], ["cache"], "a/cache", False),
        (["**"], ["cache/**"], "a/cache", True),
        (["**"], ["cache/*.bin"], "cache", True),
        (["**"], ["*.log"], "logs", True),
        (["**"], ["a/b"], "a", True),
        (["**"], ["a/b"], "a/b/c", False),
        (["**"], ["lost+found"], "lost+found", False),
        (["checkpoint-*/**"], [], "checkpoint-100", True),
        (["checkpoint-*/**"], [], "checkpoint-100/deep/er", True),
        (["checkpoint-*/**"], [], "data", False),
        (["checkpoint-*/**"], ["checkpoint-1"], "checkpoint-1", False),
        (["a/b/*.pt"], [], "a", True),
        (["a/b/*.pt"], [], "a/b", True),
        (["a/b/*.pt"], [], "a/c", False),
        (["a/b/*.pt"], [], "a/b/c", False),
        (["a/**/w.pt"], [], "a/b/c", True),
        (["a/**/w.pt"], [], "b", False),
        (["**/w.pt"], [], "anything", True),
        (["*.pt"], [], "anything", True),
        (["checkpoint-100"], [], "checkpoint-100", True),
        (["[ab]/w.pt"], [], "a", True),
        (["x/[!a]/w.pt"], [], "x/b", True),
        (["x/[!a]/w.pt"], [], "y", False),
        (["weights/last.pt", "configs/*"], [], "configs", True),
        (["weights/last.pt", "configs/*"], [], "data", False),
        ([], [], "anything", True),
    ],
)
def test_a_folder_is_entered_only_if_something_in_it_may_be_selected(include, exclude, folder, enters):
    assert Filter(include, exclude).enters(folder) is enters


@pytest.mark.parametrize(("include", "exclude"), [(("**",), ("data",)), (("**",), ("data/**",)), (("step_*/**",), ())])
def test_an_excluded_folder_need_not_be_readable_and_its_files_do_not_count(tmp_path, include, exclude):
    write(tmp_path, "step_1/w", *(f"data/{number}" for number in range(9)))
    (tmp_path / "data").chmod(0)
    with rights.of_a_user():
        found = scan(str(tmp_path), Filter(include, exclude), limit=2)
    (tmp_path / "data").chmod(0o755)
    assert set(found.entries) == {"step_1/w"}
    assert (found.too_many, found.known, dict(found.unreadable)) == (False, True, {})
    assert not scan(str(tmp_path), Filter(include, exclude), limit=2).too_many


def test_excluded_files_of_a_folder_do_not_count(tmp_path):
    write(tmp_path, "w.pt", *(f"{number}.log" for number in range(9)))
    found = scan(str(tmp_path), Filter(exclude=("*.log",)), limit=1)
    assert (set(found.entries), found.too_many) == ({"w.pt"}, False)


@pytest.mark.parametrize("folder", ["lost+found", ".snapshot", ".snapshots", "~snapshot", ".zfs", "deep/lost+found"])
@pytest.mark.parametrize("mode", [0o700, 0])
def test_a_folder_of_the_file_system_is_left_out_and_named(tmp_path, folder, mode):
    write(tmp_path, "step_1/w", f"{folder}/hourly/step_1/w")
    (tmp_path / folder).chmod(mode)
    with rights.of_a_user():
        found = scan(str(tmp_path), Filter())
    (tmp_path / folder).chmod(0o755)
    assert (set(found.everything), found.known) == ({"step_1/w"}, True)
    assert dict(found.left_out) == {folder: "a folder of the file system"}


@pytest.mark.parametrize("name", [".nfs00000000000a1b2c0000001f", ".fuse_hidden0000000a00000001", ".smbdelete00A1"])
def test_what_a_file_system_keeps_of_a_removed_file_is_left_out_and_named(tmp_path, name):
    write(tmp_path, f"step_1/{name}", "step_1/w")
    found = scan(str(tmp_path), Filter())
    assert set(found.everything) == {"step_1/w"}
    assert set(found.left_out) == {f"step_1/{name}"}


@pytest.mark.parametrize("name", ["lost+found", ".snapshot", ".nfs", ".nfs-config.json", "snapshot/w", "x.nfs00000000000a1b2c", ".fuse_hidden.txt"])  # fmt: skip
def test_names_that_only_look_alike_are_the_trainings(tmp_path, name):
    write(tmp_path, name)
    assert set(scan(str(tmp_path), Filter()).entries) == {name}


@pytest.mark.parametrize("path", ["core.123", "private/x", "deep/private/x"])
def test_what_cannot_be_read_beside_a_checkpoint_is_said_and_blocks_nothing_while_it_trains(tmp_path, path):
    write(tmp_path, "step_1/w", path)
    sealed = path.rpartition("/")[0] or path
    (tmp_path / sealed).chmod(0)
    with rights.of_a_user():
        view = watcher(tmp_path, quiet_seconds=0).look()
    (tmp_path / sealed).chmod(0o755)
    assert [one.unit.name for one in view.seen if one.complete] == ["step_1"]
    assert view.scan.error == ""
    assert view.error.startswith(f"{tmp_path}/{sealed}: Permission denied; ")
    assert "spec.checkpoint.exclude" in view.error


@pytest.mark.parametrize("path", ["step_1/optimizer/shard", "step_1/secret"])
def test_a_checkpoint_that_cannot_be_read_whole_is_not_complete(tmp_path, path):
    write(tmp_path, "step_1/w", path)
    sealed = "step_1/optimizer" if "optimizer" in path else path
    (tmp_path / sealed).chmod(0)
    with rights.of_a_user():
        view = watcher(tmp_path, quiet_seconds=0).look()
    (tmp_path / sealed).chmod(0o755)
    (one,) = view.seen
    assert not one.complete
    assert "cannot be read" in one.verdict.evidence


def test_a_tree_that_cannot_be_read_whole_is_not_complete(tmp_path):
    write(tmp_path, "model.dat", "optimizer/shard")
    (tmp_path / "optimizer").chmod(0)
    with rights.of_a_user():
        view = watcher(tmp_path, quiet_seconds=0).look()
    (tmp_path / "optimizer").chmod(0o755)
    (one,) = view.seen
    assert (one.complete, one.verdict.evidence) == (False, "optimizer cannot be read")


def test_every_mode_of_a_file_is_judged_as_the_kernel_does(tmp_path):
    write(tmp_path, "w")
    for mode in range(0o1000):
        (tmp_path / "w").chmod(mode)
        with rights.of_a_user():
            said = "w" in scan(str(tmp_path), Filter()).unreadable
            try:
                (tmp_path / "w").read_bytes()
                readable = True
            except PermissionError:
                readable = False
        assert said is not readable, oct(mode)

"""Stop files and markers."""

from __future__ import annotations

import os
import time

import pytest

from trainingrun_operator.agent import stop


@pytest.fixture
def folders(tmp_path):
    for name in ("volume", "control"):
        (tmp_path / name).mkdir()
    return tmp_path / "volume", tmp_path / "control"


def make(folders):
    volume, control = folders
    return stop.StopFile(volume, control, "STOP_TRAINING", time.time() - 1)


def age(file, seconds=1000):
    os.utime(file, (time.time() - seconds,) * 2)


def test_it_is_written_into_both_folders_and_is_not_foreign(folders):
    stop_file = make(folders)
    stop_file.write("t1")
    assert all("t1" in (folder / "STOP_TRAINING").read_text() for folder in folders)
    assert not stop_file.is_foreign()
    assert not make(folders).is_foreign()  # recognised by content after a restart


def test_it_is_written_once_for_each_request(folders):
    stop_file = make(folders)
    stop_file.write("t1")
    (folders[0] / "STOP_TRAINING").unlink()
    stop_file.write("t1")
    assert not (folders[0] / "STOP_TRAINING").exists()
    stop_file.write("t2")
    assert "t2" in (folders[0] / "STOP_TRAINING").read_text()


@pytest.mark.parametrize("folder", [0, 1], ids=["in the volume", "in the control directory"])
def test_a_persons_stop_file_is_foreign_and_stays(folders, folder):
    stop_file = make(folders)
    (folders[folder] / "STOP_TRAINING").write_text("")
    stop_file.write("t1")
    assert stop_file.is_foreign()
    assert (folders[folder] / "STOP_TRAINING").read_text() == ""


def test_an_old_stop_file_is_no_persons_wish_now(folders):
    (folders[0] / "STOP_TRAINING").write_text("")
    age(folders[0] / "STOP_TRAINING")
    stop_file = make(folders)
    assert not stop_file.is_foreign()
    stop_file.write("t1")
    assert "t1" in (folders[0] / "STOP_TRAINING").read_text()


def test_only_our_own_old_stop_file_is_cleared(folders):
    make(folders).write("t1")
    age(folders[0] / "STOP_TRAINING")
    (folders[1] / "STOP_TRAINING").write_text("by hand")
    age(folders[1] / "STOP_TRAINING")
    make(folders).clear_stale()
    assert not (folders[0] / "STOP_TRAINING").exists()
    assert (folders[1] / "STOP_TRAINING").exists()


def test_a_volume_that_cannot_be_written_leaves_the_control_directory(folders):
    folders[0].rmdir()
    folders[0].write_text("not a directory")
    make(folders).write("t1")
    assert "t1" in (folders[1] / "STOP_TRAINING").read_text()


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../x", "a/../../x", ""])
def test_a_name_that_leads_out_is_refused(name):
    with pytest.raises(ValueError, match="relative"):
        stop.inside(name)


def test_only_markers_of_this_pod_count(folders):
    volume = folders[0]
    (volume / "done").write_text("")
    (volume / "COMPLETE").write_text("")
    age(volume / "COMPLETE")
    now = time.time()
    found = stop.markers(volume, ("done", "COMPLETE", "absent"), now - 10, now + 5)
    assert [marker.name for marker in found] == ["done"]
    assert 4 < found[0].age_seconds < 7

"""Small files and links beside the checkpoints that name one of them."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.volume.look import open_inside
from trainingrun_operator.agent.volume.pointers import POINTER_MAX_BYTES, Pointers, names_unit
from trainingrun_operator.agent.volume.scan import Entry, Filter, scan
from trainingrun_operator.agent.volume.units import Number, Unit
from trainingrun_operator.checkpoints.documents import WHOLE

FILE = Unit("model_0009999.pth", "model_0009999.pth", {"model_0009999.pth": Entry(1, 1, 1, 0o644)}, Number(9999, 9999))
FOLDER = Unit(
    "global_step1200", "global_step1200", {"global_step1200/model.pt": Entry(1, 1, 1, 0o644)}, Number(1200, 1200)
)


@pytest.mark.parametrize(
    ("text", "unit", "names"),
    [
        ("model_0009999.pth", FILE, True),
        ("model_0009999.pth\n", FILE, True),
        ('model_checkpoint_path: "model_0009999"', FILE, True),
        ("./model_0009999.pth", FILE, True),
        ("model_0004999.pth", FILE, False),
        ("9999", FILE, True),
        ("9", FILE, False),
        ("global_step1200", FOLDER, True),
        ("1200", FOLDER, True),
        ("global_step600", FOLDER, False),
        ("model.pt", FOLDER, False),
        ("", FOLDER, False),
    ],
)
def test_a_text_names_a_checkpoint(text, unit, names):
    assert names_unit(text, unit) is names


def test_what_may_be_a_pointer_is_read_once_it_is_quiet(tmp_path):
    (tmp_path / "latest").write_text("step_1")
    (tmp_path / "link").symlink_to("step_1")
    (tmp_path / "train.log").write_text("step_1")
    (tmp_path / "large").write_bytes(b"x" * (POINTER_MAX_BYTES + 1))
    read: list[str] = []

    def opened(root, path):
        read.append(path)
        return open_inside(root, path)

    def look(at):
        return pointers.look(Unit(WHOLE, WHOLE, scan(str(tmp_path), Filter()).entries), at)

    pointers = Pointers(str(tmp_path), 10, opened)
    assert look(0) == look(9) == {}
    assert look(10) == {"latest": "step_1", "link": "step_1"}
    (tmp_path / "latest").write_text("step_200")
    assert look(11) == {"link": "step_1"}
    assert look(21) == {"latest": "step_200", "link": "step_1"}
    assert read == ["latest", "latest"], "Once for each content."
    assert pointers.look(None, 22) == {}

"""File names on their way through JSON and S3 keys."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints import names


@pytest.mark.parametrize(
    "path",
    ["plain/päth", "bad-\udcff", "looks\\udcff", "both\\udc5c\udcff", "back\\slash", "new\nline"],
    ids=["unicode", "not UTF-8", "a lookalike", "a lookalike of the escape", "a backslash", "a newline"],
)
def test_a_name_survives_the_manifest(path):
    text = names.to_text(path)
    text.encode()
    assert names.from_text(text) == path


@pytest.mark.parametrize(
    ("path", "as_is"),
    [("a b/ü.pt", True), ("bad-\udcff", False), ("new\nline", False), ("x" * 1100, False), ("back\\slash", False)],
    ids=["a readable name", "not UTF-8", "a control character", "longer than a key may be", "a backslash"],
)
def test_a_key_is_the_path_wherever_a_key_can_say_it(path, as_is):
    key = names.to_key("base/", path)
    assert (key == f"base/{path}") is as_is
    assert len(key.encode()) <= 1024

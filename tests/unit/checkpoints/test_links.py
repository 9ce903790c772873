"""Where the links of a manifest lead, compared with what the kernel makes of the same links, and which of them are left out."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from trainingrun_operator.checkpoints import links as links_module
from trainingrun_operator.checkpoints.links import leading_out

FOLDERS = ("", "d", "d/e", "d/e/f", "g")
NAMES = ("k", "l", "m", "n")
PLACES = [f"{folder}/{name}".lstrip("/") for folder in FOLDERS for name in NAMES]


def _steps():
    return some.lists(some.sampled_from(["..", "..", ".", "", "d", "e", "f", "g", *NAMES]), min_size=1, max_size=7)


def _targets():
    """Relative, absolute below the root, and absolute elsewhere."""
    relative = _steps().map("/".join).filter(lambda text: bool(text) and not text.startswith("/"))
    return some.one_of(
        relative, relative.map("ROOT/{}".format), some.sampled_from(["/etc", "ROOT", "ROOT/..", "ROOTS/x"])
    )


@settings(deadline=None)
@given(
    some.dictionaries(some.sampled_from(PLACES), _targets(), min_size=1, max_size=6),
    some.sets(some.sampled_from(PLACES)),
)
@example({"d/e/f/l": "../../..", "k": "d/e/f/l/../../../secret"}, set())
@example({"d/e/f/l": "../../..", "k": "d/e/f/l/../secret"}, {"d/e/f/l"})
@example({"k": "l/..", "l": "d"}, set())
@example({"k": "k/.."}, set())
@example({"k": "l", "l": "k"}, set())
def test_every_link_that_is_made_stays_below_the_folder_and_none_is_left_out_without_need(links, there_already):
    """Links of the manifest, of which some are in the folder already."""
    with tempfile.TemporaryDirectory() as outside:
        root = Path(os.path.realpath(outside), "volume")
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        links = {path: target.replace("ROOT", str(root)) for path, target in links.items()}
        for path in links.keys() & there_already:
            (root / path).symlink_to(links[path])
        left_out = leading_out(root, links, ())
        made = links.keys() - left_out.keys()
        for path in left_out.keys() & there_already:
            (root / path).unlink()
        for path in made - there_already:
            (root / path).symlink_to(links[path])
        assert all(_stays(root, path) for path in made)
        for path in links.keys() - made:
            (root / path).symlink_to(links[path])
        if all(_stays(root, path) for path in links):
            assert left_out == {}
        else:
            assert left_out


def _stays(root, path):
    try:
        (root / path).stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
    return Path(os.path.realpath(root / path)).is_relative_to(root)


@pytest.mark.parametrize(
    "links",
    [
        pytest.param({"esc": "../secret"}, id="it climbs"),
        pytest.param({"esc": "/etc/passwd"}, id="it is absolute"),
        pytest.param({"d/esc": "../../secret"}, id="it climbs from a folder"),
        pytest.param({"d2/e/f/l": "../../..", "esc": "d2/e/f/l/../../../secret"}, id="it climbs through another link"),
        pytest.param({"a": "d", "d/b": "..", "esc": "a/b/../x"}, id="through two others"),
        pytest.param({"esc": "ROOT/../secret"}, id="it is absolute, below the folder by its text"),
        pytest.param({"esc": "ROOT-2/x"}, id="a folder whose name begins with this one's"),
        pytest.param({"esc": ""}, id="no target"),
        pytest.param({"esc": "a\0b"}, id="a target that is no name"),
        pytest.param({"esc": "a/" * 3000}, id="a target that is too long"),
        pytest.param({"a": "d", "a/b": "x"}, id="one is below another"),
    ],
)
def test_what_leads_out_or_nowhere_is_left_out_and_the_rest_is_made(tmp_path, links):
    root = tmp_path / "volume"
    targets = {path: target.replace("ROOT", str(root)) for path, target in links.items()}
    left_out = leading_out(root, targets | {"latest": "step_100"}, ())
    assert left_out.keys() == ({"a"} if "a/b" in links else {path for path in links if path.endswith("esc")})
    assert all(left_out.values()), "each has its reason"


@pytest.mark.parametrize("path", [pytest.param("a/b", id="below a link"), pytest.param("a", id="in a link's place")])
def test_a_file_is_never_where_a_link_is(tmp_path, path):
    assert leading_out(tmp_path, {"a": "d"}, [path]).keys() == {"a"}


@pytest.mark.parametrize(
    "links",
    [
        pytest.param({"latest": "step_100"}, id="a neighbour"),
        pytest.param({"d/latest": "../step_100/w"}, id="up and down again"),
        pytest.param({"a": "b", "b": "step_100", "step_100/w": "../a/v"}, id="through others"),
        pytest.param({"latest": "ROOT/step_100"}, id="the folder's own absolute path"),
        pytest.param({"a": "a"}, id="a loop, which no program opens"),
        pytest.param({"whole": "."}, id="the folder itself"),
    ],
)
def test_what_stays_inside_passes(tmp_path, links):
    targets = {path: target.replace("ROOT", str(tmp_path)) for path, target in links.items()}
    assert leading_out(tmp_path, targets, ["step_100/w2"]) == {}


def test_a_link_through_one_that_is_on_disk_is_judged_by_where_that_one_leads(tmp_path):
    root = tmp_path / "volume"
    root.mkdir()
    (root / "mine").symlink_to(tmp_path)
    assert "points out" in leading_out(root, {"a": "mine/secret"}, ())["a"]


def test_a_link_on_disk_that_is_replaced_or_renamed_leads_nowhere(tmp_path):
    root = tmp_path / "volume"
    root.mkdir()
    (root / "mine").symlink_to(tmp_path)
    assert leading_out(root, {"a": "mine/w", "mine": "step_100"}, ()) == {}
    assert leading_out(root, {"a": "mine/w"}, ["mine/w"], aside={"mine"}) == {}


def test_a_long_chain_of_links_that_lead_out_ends_with_none_made(tmp_path, monkeypatch):
    monkeypatch.setattr(links_module, "ROUNDS_MAX", 2)
    chain = {f"d{n}/l": f"../d{n + 1}/l/.." for n in range(4)} | {"d4/l": "../.."}
    assert leading_out(tmp_path, chain, ()).keys() == chain.keys()

"""Where the links of a manifest lead, compared with what the kernel makes of the same links."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from trainingrun_operator.checkpoints.links import check_links
from trainingrun_operator.checkpoints.proof import BadCommitError

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
def test_a_link_passes_where_the_kernel_stays_below_the_folder(links, there_already):
    """Links of the manifest, of which some are in the folder already."""
    with tempfile.TemporaryDirectory() as outside:
        root = Path(os.path.realpath(outside), "volume")
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        links = {path: target.replace("ROOT", str(root)) for path, target in links.items()}
        for path in links.keys() & there_already:
            (root / path).symlink_to(links[path])
        try:
            check_links(root, links, ())
            passes = True
        except BadCommitError:
            passes = False
        for path in links.keys() - there_already:
            (root / path).symlink_to(links[path])
        assert passes == all(_stays(root, path) for path in links)


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
def test_what_leads_out_or_nowhere_is_refused_with_its_name(tmp_path, links):
    root = tmp_path / "volume"
    with pytest.raises(BadCommitError, match=r"esc|'a/b'"):
        check_links(root, {path: target.replace("ROOT", str(root)) for path, target in links.items()}, ())


@pytest.mark.parametrize("path", [pytest.param("a/b", id="below a link"), pytest.param("a", id="in a link's place")])
def test_a_file_is_never_where_a_link_is(tmp_path, path):
    with pytest.raises(BadCommitError, match="symbolic link"):
        check_links(tmp_path, {"a": "d"}, [path])


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
    check_links(
        tmp_path, {path: target.replace("ROOT", str(tmp_path)) for path, target in links.items()}, ["step_100/w2"]
    )


def test_a_link_through_one_that_is_on_disk_is_judged_by_where_that_one_leads(tmp_path):
    root = tmp_path / "volume"
    root.mkdir()
    (root / "mine").symlink_to(tmp_path)
    with pytest.raises(BadCommitError, match="points out"):
        check_links(root, {"a": "mine/secret"}, ())

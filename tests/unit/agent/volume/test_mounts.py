"""Which file systems keep a removed file for who has it open, and let its folder go."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.volume.mounts import LOCAL, file_system

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - overlay overlay rw
22 21 0:5 / /memory rw - tmpfs shm rw
30 21 0:40 / /checkpoints rw,relatime - nfs4 server:/export rw
31 30 8:2 / /checkpoints/fast rw - xfs /dev/sdb rw
32 21 0:41 / /with\\040space rw - fuse.s3fs s3fs rw
33 21 8:3 / /twice rw - ext4 /dev/sdc rw
34 33 0:42 / /twice rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/workspace", "overlay"),
        ("/memory/x", "tmpfs"),
        ("/checkpoints", "nfs4"),
        ("/checkpoints/run", "nfs4"),
        ("/checkpoints-2", "overlay"),
        ("/checkpoints/fast/run", "xfs"),
        ("/with space/run", "fuse.s3fs"),
        ("/twice", "cifs"),
    ],
)
def test_the_innermost_and_newest_mount_holds(tmp_path, path, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system(path, mounts) == kind


def test_what_cannot_be_found_out_is_not_local(tmp_path):
    assert file_system("/x", tmp_path / "none") == ""
    assert "" not in LOCAL
    assert not {"nfs", "nfs4", "cifs", "fuse.s3fs", "ceph", "lustre", "9p"} & LOCAL

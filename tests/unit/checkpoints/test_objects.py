"""One object against its manifest entry: what another upload may cure, and what it cannot."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints.documents import FileEntry
from trainingrun_operator.checkpoints.proof import BadCommitError, Found, IncurableError, check_object, is_full_object

CRC, OTHER = "rosUhgp5mIg=", "AAAAAAAAAAA="
FILE = FileEntry(path="w.pt", size=7, key="k", crc64nvme=CRC)


def test_an_object_with_size_and_checksum_is_proven():
    check_object(FILE, Found(7, CRC))


@pytest.mark.parametrize(
    ("file", "found", "curable"),
    [
        pytest.param(FILE, None, True, id="it is missing"),
        pytest.param(FILE, Found(6, CRC), True, id="it is shorter"),
        pytest.param(FILE, Found(7, OTHER), True, id="it has other bytes"),
        pytest.param(FILE, Found(7, ""), False, id="the store keeps no checksum"),
        pytest.param(FILE, Found(7, f"{CRC}-2"), False, id="the store keeps one of the parts"),
        pytest.param(FILE, Found(6, ""), False, id="it is shorter in a store that keeps no checksum"),
        pytest.param(
            FILE.model_copy(update={"crc64nvme": ""}), Found(7, CRC), False, id="the agent has recorded no checksum"
        ),
    ],
)
def test_an_object_is_refused(file, found, curable):
    with pytest.raises(BadCommitError) as refused:
        check_object(file, found)
    assert isinstance(refused.value, IncurableError) is not curable
    assert "'w.pt'" in str(refused.value)


def test_only_a_checksum_of_the_whole_object_counts():
    assert [is_full_object(crc) for crc in (CRC, "", f"{CRC}-1", f"{CRC}-12")] == [True, False, False, False]

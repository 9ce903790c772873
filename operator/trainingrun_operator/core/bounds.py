"""What comes from agents, buckets and clouds has any size; what the schema bounds is cut here before it is written."""

from __future__ import annotations

from typing import Final

COUNT_MAX: Final = 2**53 - 1
"""Steps and bytes: `api.base.BigCount`."""
FILES_MAX: Final = 2**31 - 1
"""`api.base.Count`."""
WORD_MAX: Final = 128
"""`api.base.Word`."""
TEXT_MAX: Final = 1024
"""`api.base.Text`."""
MESSAGE_MAX: Final = 4000
"""`api.base.Message`, with room to spare."""
VERDICT_MAX: Final = 2000
"""Characters of why a run ends, or is held; the sentences about checkpoint and nodes follow it."""


def clipped(text: str, most: int) -> str:
    """At most so many characters: what is too long is refused by the schema."""
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int | None) -> int | None:
    """A step or a number of bytes; None if it cannot be one."""
    return number if number is not None and 0 <= number <= COUNT_MAX else None

"""Bounds of the schema: values from agents, buckets and clouds are cut to them before they are written."""

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
URI_MAX: Final = 2048
"""`api.base.Uri`."""
MESSAGE_MAX: Final = 4000
"""Below the bound of `api.base.Message`."""
VERDICT_MAX: Final = 2000
"""Characters of the reason why a run ends or is held; sentences about checkpoint and nodes follow it."""


def clipped(text: str, most: int) -> str:
    """Cut a text to at most `most` characters: the schema refuses longer ones."""
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int | None) -> int | None:
    """Return a step or byte count if the schema allows it, else None."""
    return number if number is not None and 0 <= number <= COUNT_MAX else None

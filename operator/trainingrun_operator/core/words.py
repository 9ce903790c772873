"""What is worded the same wherever people read it."""

from __future__ import annotations

from typing import Final

_KILO: Final = 1000
_LARGER: Final = ("kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes in three digits, decimal: `512 B`, `39.6 kB`, `1.2 GB`."""
    unit, shown = "B", f"{count:.3g}"
    for larger in _LARGER:
        # By what would be shown: 999,950 bytes are not 1e+03 kB.
        if float(shown) < _KILO:
            break
        count /= _KILO
        unit, shown = larger, f"{count:.3g}"
    return f"{shown} {unit}"

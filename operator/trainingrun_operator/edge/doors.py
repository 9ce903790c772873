"""Doors for other packages: what they register under an entry point group of this one.

An entry point is `NAME = "package.module:factory"`; the factory is called once, when the operator starts.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


def opened(group: str, built_in: Mapping[str, Callable[[Any], Any]], tools: Any, kind: type) -> dict[str, Any]:
    """Make everything that is built in or registered under a group, by name.

    A registered one that cannot be loaded or made, that is not of the Protocol, or whose name is taken, costs a line in the log and nothing else: the
    operator runs without it.

    Args:
        group: of the entry points.
        built_in: factories by name; they need no entry point.
        tools: what each factory is called with.
        kind: a runtime-checkable Protocol.
    """
    made = {name: factory(tools) for name, factory in built_in.items()}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        origin = f"{group} {point.name!r} of {point.dist.name if point.dist else point.value}"
        if point.name in made:
            log.error("%s is left out: the name is taken", origin)
            continue
        try:
            one = point.load()(tools)
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises must not end the operator
            log.error("%s is left out: %s: %s", origin, type(error).__name__, error)  # noqa: TRY400 - a sentence, not a crash
            continue
        if not isinstance(one, kind):
            log.error("%s is left out: what %s makes is no %s", origin, point.value, kind.__name__)
            continue
        log.info("%s is used", origin)
        made[point.name] = one
    return made

"""Entry points for other packages.

An entry point is `NAME = "package.module:factory"`; the factory is called once, at startup.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


def opened(group: str, built_in: Mapping[str, Callable[[Any], Any]], tools: Any, kind: type) -> dict[str, Any]:
    """Build all built-in and registered implementations of a group, by name.

    A registered one is logged and skipped if it cannot be loaded or built, does not implement the Protocol, or has a taken name.

    Args:
        group: of the entry points.
        built_in: factories by name; they need no entry point.
        tools: argument of each factory.
        kind: a runtime-checkable Protocol.
    """
    made = {name: factory(tools) for name, factory in built_in.items()}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        origin = f"{group} {point.name!r} of {point.dist.name if point.dist else point.value}"
        if point.name in made:
            log.error("%s is skipped: the name is taken", origin)
            continue
        try:
            one = point.load()(tools)
        except Exception as error:  # noqa: BLE001 - code of another package must not end the operator
            log.error("%s is skipped: %s: %s", origin, type(error).__name__, error)  # noqa: TRY400 - no traceback
            continue
        if not isinstance(one, kind):
            log.error("%s is skipped: %s does not return a %s", origin, point.value, kind.__name__)
            continue
        log.info("%s is used", origin)
        made[point.name] = one
    return made

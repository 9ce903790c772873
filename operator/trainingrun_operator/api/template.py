"""A pod template as its author wrote it, kept as JSON text and parsed when it is needed.

The schema does not describe a template, so its text may hold anything: 1.4 MB of `[{},{},…]` take 33 MiB once parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

TEMPLATE_MAX_BYTES: Final = 256 * 1024
"""Of the JSON without spaces. The text of a longer template is not kept."""
DEPTH_MAX: Final = 64
"""Levels of objects and lists in a template. Deeper ones would exhaust the stack of a parser."""
LEFT_OUT: Final = "trainingrun.dev/left-out-bytes"
"""The only key of an object that stands for a template of so many bytes."""

_DIGITS_MAX: Final = 6
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_ALIKE: Final = bytes.maketrans(b"[]", b"{}")
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))


class Template(Mapping[str, Any]):
    """One template. Reading a key parses the text; `parse` returns an object of the caller's own."""

    def __init__(self, text: str, problem: str = "") -> None:
        """``problem``: why the text was not kept, as the end of a sentence about the template; it is then empty."""
        self.text, self.problem = text, problem

    @classmethod
    def of(cls, written: Mapping[str, Any] | str) -> Self:
        """Take over a template: parsed, or its JSON."""
        if not isinstance(written, str) and len(written) == 1 and isinstance(size := written.get(LEFT_OUT), int):
            return cls("", too_large(size))
        try:
            text = written if isinstance(written, str) else json.dumps(written, separators=(",", ":"))
        except RecursionError:
            return cls("", too_deep())
        if len(text) > TEMPLATE_MAX_BYTES:
            return cls("", too_large(len(text)))
        return cls("", too_deep()) if is_deep(text.encode()) else cls(text)

    def parse(self) -> dict[str, Any]:
        """Return the template, the caller's own; empty if it was not kept."""
        return dict(json.loads(self.text)) if self.text else {}

    @cached_property
    def first_container(self) -> str:
        """Name of the first container; empty: there is none."""
        return next((str(one.get("name") or "") for one in containers_of(self.parse())), "")

    @cached_property
    def service_account(self) -> str:
        """Name of the pods' ServiceAccount; `default` if the template names none."""
        pod = self.parse().get("spec")
        written = pod if isinstance(pod, dict) else {}
        return str(written.get("serviceAccountName") or written.get("serviceAccount") or "default")

    @cached_property
    def gpus(self) -> int:
        """GPUs that a pod of this template requests."""
        return gpus_of(self.parse())

    def __getitem__(self, key: str) -> Any:
        return self.parse()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parse())

    def __len__(self) -> int:
        return len(self.parse())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Template):
            return (self.text, self.problem) == (other.text, other.problem)
        return isinstance(other, Mapping) and self.parse() == other

    def __hash__(self) -> int:
        return hash((self.text, self.problem))

    def __repr__(self) -> str:
        return f"Template({self.problem or self.text[:100]})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(cls.parse)
        return core_schema.no_info_plain_validator_function(_taken, serialization=written)


def _taken(value: Any) -> Template:
    if isinstance(value, Template):
        return value
    if not isinstance(value, Mapping | str):
        raise PydanticCustomError("dict_type", "Input should be a valid dictionary")
    return Template.of(value)


def too_large(size: int) -> str:
    """Return the problem of a template whose JSON has so many bytes."""
    return f"has {size} bytes as JSON, more than {TEMPLATE_MAX_BYTES}"


def too_deep() -> str:
    """Return the problem of a template that is nested too deeply."""
    return f"has objects or lists nested more than {DEPTH_MAX} levels deep"


def brackets(text: bytes) -> bytes:
    """Return the brackets of some JSON, all of them as braces."""
    return _STRING.sub(b"", text).translate(_ALIKE, _OTHERS)


def is_deep(text: bytes) -> bool:
    """Whether JSON is nested more than `DEPTH_MAX` levels deep."""
    left = brackets(text)
    for _ in range(DEPTH_MAX):
        if not left:
            break
        left = left.replace(b"{}", b"")
    return bool(left)


def containers_of(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the containers of a pod or template; what is not an object is left out."""
    spec = pod.get("spec")
    listed = spec.get("containers") if isinstance(spec, Mapping) else None
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def gpus_of(pod: Mapping[str, Any]) -> int:
    """Return the number of GPUs that a pod or template requests. Of a template that was not checked yet: anything else counts 0."""
    return sum(gpus_of_container(container) for container in containers_of(pod))


def gpus_of_container(container: Mapping[str, Any]) -> int:
    """Return the number of GPUs of any vendor that one container requests."""
    resources = container.get("resources")
    return gpus_in(resources.get("limits") if isinstance(resources, Mapping) else None)


def gpus_in(amounts: Any) -> int:
    """Return the number of GPUs of any vendor in amounts by resource name."""
    asked = [str(n) for name, n in amounts.items() if name.endswith("/gpu")] if isinstance(amounts, Mapping) else []
    # "1k" is a valid quantity too, but no node has that many.
    return sum(int(amount) for amount in asked if amount.isdecimal() and len(amount) <= _DIGITS_MAX)

"""Building blocks of the API models: the frozen base, markers of the CRD schema, the description of a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from trainingrun_operator.api.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

RULES = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"


@dataclass(frozen=True)
class Cel:
    """A CEL rule enforced by the API server: on a field through ``Annotated``, on a model through ``cel_rules``.

    A rule that reads ``oldSelf`` is a transition rule. On a field, removing the field bypasses it, so put it on the
    nearest required object.
    """

    rule: str
    message: str
    reason: str | None = None
    """``FieldValueInvalid``, ``FieldValueForbidden``, ``FieldValueRequired`` or ``FieldValueDuplicate``."""
    field_path: str | None = None
    """The field that the error names, relative to the rule: ``.stopRules``."""
    optional_old_self: bool = False
    """Evaluate the rule on creation as well; ``oldSelf`` is then an optional value."""

    def as_schema(self) -> dict[str, Any]:
        """Return the entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.rule, "message": self.message, "reason": self.reason, "fieldPath": self.field_path}
        if self.optional_old_self:
            return {k: v for k, v in entry.items() if v is not None} | {"optionalOldSelf": True}
        return {k: v for k, v in entry.items() if v is not None}

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = dict(handler(core))
        return schema | {RULES: [*schema.get(RULES, []), self.as_schema()]}


class ListMap:
    """A list of items identified by these keys, so that several writers can own items of it."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(handler(core)) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(self.keys)}


@dataclass(frozen=True)
class ListSet:
    """A list of scalars without duplicates."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(handler(core)) | {"x-kubernetes-list-type": "set"}


@dataclass(frozen=True)
class Preserved:
    """An object of another API, stored unchanged and not validated."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", PRESERVE: True}


PreservedObject = Annotated[Template, Preserved()]
"""A pod template or another raw Kubernetes object, stored unchanged."""

Name = Annotated[str, Field(max_length=63)]
"""A name of label size."""
ObjectName = Annotated[str, Field(max_length=253)]
"""The name of a Kubernetes object."""
ObjectRef = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", max_length=253)]
"""The name of a Kubernetes object as a person writes it, or nothing. Without a slash: it becomes part of an address."""
PluginName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", max_length=63)]
"""The name under which a package registers what it brings to the operator."""
Word = Annotated[str, Field(max_length=128)]
"""One word: a reason, an id, a class."""
Text = Annotated[str, Field(max_length=1024)]
"""One or two sentences."""
Message = Annotated[str, Field(max_length=4096)]
"""A message for people, truncated before it is written."""
Uri = Annotated[str, Field(max_length=2048)]
"""The URI of an object or a service."""
Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
"""RFC 3339, as written by the API server."""
Seconds = Annotated[int, Field(ge=0, le=315_360_000)]
"""A duration in whole seconds, at most ten years, so that sums do not overflow."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A small number of items."""
BigCount = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""Bytes or steps, at most what every JSON reader represents exactly."""
Reported = Annotated[int, Field(ge=-(10**30), le=10**30)]
"""An integer that an agent or a bucket reports: more than any honest one, and few enough digits for a message or a float."""
Step = Annotated[int, Field(ge=-(10**255), le=10**255)]
"""A number as a file's name of up to 255 characters may contain it: a step or an epoch."""


class Model(BaseModel):
    """Base of the API models: frozen, snake_case in Python, camelCase in JSON.

    Unknown fields are ignored, so that an older operator can read objects of a newer one; ``parse_strict`` refuses
    them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    cel_rules: ClassVar[tuple[Cel, ...]] = ()
    """Rules on the whole object."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        definition = handler.resolve_ref_schema(schema)
        if cls.cel_rules:
            definition[RULES] = [rule.as_schema() for rule in cls.cel_rules]
        for name, field in cls.model_fields.items():
            # pydantic omits default factories, and would copy the defaults of a nested model.
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, Model):
                definition["properties"][field.alias or name]["default"] = default.model_dump(
                    mode="json", by_alias=True, exclude_defaults=True
                )
        return schema

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> Self:
        """Parse a stored object in camelCase; unknown fields are ignored.

        Raises:
            pydantic.ValidationError: a field has an invalid value.
        """
        return cls.model_validate(stored, by_alias=True, by_name=False)

    @classmethod
    def parse_strict(cls, written: Mapping[str, Any]) -> Self:
        """Parse an object written by a person, in camelCase; unknown fields are errors at any depth.

        Raises:
            pydantic.ValidationError: an unknown field or an invalid value.
        """
        return cls.model_validate(written, by_alias=True, by_name=False, extra="forbid")

    def dump(self) -> dict[str, Any]:
        """Return the JSON for the API server: camelCase, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; a ``wide`` column appears only with ``-o wide``."""

    name: str
    path: str
    """JSONPath with a leading dot: ``.status.phase``."""
    type: str = "string"
    """``string``, ``integer``, ``number``, ``boolean`` or ``date``."""
    wide: bool = False
    description: str = ""


@dataclass(frozen=True)
class Resource:
    """A kind: its CustomResourceDefinition without the fields."""

    kind: str
    plural: str
    spec: type[Model]
    status: type[Model]
    description: str
    """Description of the kind in ``kubectl explain``."""
    scope: str = "Namespaced"
    """``Namespaced`` or ``Cluster``."""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    selectable_fields: tuple[str, ...] = ()
    """JSONPaths allowed in field selectors: ``.status.phase``."""
    cel_rules: tuple[Cel, ...] = ()
    """Rules on the whole object; of ``metadata`` they can read only ``name`` and ``generateName``."""

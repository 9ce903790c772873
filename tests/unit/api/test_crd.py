"""The generator says what the models say, or refuses with the path."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model

from trainingrun_operator.api import crd, pool, run
from trainingrun_operator.api.base import (
    Cel,
    Column,
    Count,
    ListMap,
    ListSet,
    Model,
    PreservedObject,
    Resource,
    Seconds,
    Text,
    Word,
)

ROOT = Path(__file__).parents[3]
RESOURCES = (run.RESOURCE, pool.RESOURCE)


class Mode(StrEnum):
    AUTO = "Auto"
    MANUAL = "Manual"


class Rule(Model):
    """One rule."""

    cel_rules = (Cel("has(self.name)", "a rule has a name"),)

    name: Word
    """Its name."""
    patience: Count = 3
    """How many observations; 3."""


class Shutdown(Model):
    """How a stop is asked for."""

    grace_seconds: Seconds = 120
    """Seconds; 120."""
    file: Text = "STOP"
    """The file; STOP."""
    signal: Text = ""
    """The signal; none."""


class Spec(Model):
    """What the tests generate."""

    cel_rules = (Cel("self.loss > 0.0", "too low", reason="FieldValueInvalid", field_path=".loss"),)

    loss: float | None = None
    """End below this; unset means never."""
    mode: Mode = Mode.AUTO
    """How; Auto."""
    kind: Literal["Job"] = "Job"
    """What; Job."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A fraction; 0.5."""
    shutdown: Shutdown = Field(default_factory=Shutdown)
    """How a stop is asked for."""
    patient: Shutdown = Shutdown(grace_seconds=600)
    """How a slow stop is asked for."""
    single: Rule | None = None
    """One rule."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=8), ListMap("name")] = ()
    """All rules."""
    files: Annotated[tuple[Text, ...], Field(max_length=4), ListSet()] = ("done",)
    """Marker files."""
    codes: Annotated[tuple[Count, ...], Field(max_length=4)] = ()
    """Exit codes."""
    labels: Annotated[dict[str, Text], Field(max_length=8)] = Field(default_factory=dict)
    """Labels."""
    weights: Annotated[dict[Word, float], Field(max_length=8)] = Field(default_factory=dict)
    """Weights by name."""
    template: Annotated[PreservedObject | None, Cel("self == oldSelf", "fixed")] = None
    """A pod template."""
    at: datetime | None = None
    """A moment."""


class Status(Model):
    """What is observed."""

    phase: Word = "Pending"
    """Where it stands."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=8)] = ()
    """Rules that fired."""
    extra: Annotated[dict[str, Text], Field(max_length=8)] = Field(default_factory=dict)
    """Anything else."""


def make_model(annotation, default=..., description="What it is.", name="member"):
    fields: Any = {name: (annotation, Field(default, description=description))}
    return create_model("Bad", __base__=Model, **fields)


def make_resource(**overrides):
    given: Any = {"kind": "Toy", "plural": "toys", "spec": Spec, "status": Status, "description": "A toy."}
    return Resource(**(given | overrides))


def properties(model=Spec, **options):
    return crd.structural_schema(model, **options)["properties"]


def version(resource):
    (only,) = crd.definition(resource)["spec"]["versions"]
    return only


class A(Model):
    """One shape."""

    kind: Literal["a"] = "a"
    """Which."""


class B(Model):
    """Another shape."""

    kind: Literal["b"] = "b"
    """Which."""


class Closed(Model):
    """It refuses what it does not know."""

    model_config = ConfigDict(extra="forbid")

    member: Count
    """A count."""


class Loop(Model):
    """It contains itself."""

    inner: Loop | None = None
    """Another."""


class Needy(Model):
    """It cannot be made of nothing."""

    name: Word
    """Its name."""


REFUSED = {
    "a union of two types": (make_model(int | Word), "Bad.member: a union; use optional members"),
    "a union told apart by a member": (
        make_model(Annotated[A | B, Field(discriminator="kind")]),
        "Bad.member: a union; use optional members",
    ),
    "a tuple of mixed types": (make_model(tuple[int, Word]), "Bad.member: a tuple of mixed types"),
    "a set": (make_model(Annotated[frozenset[Count], Field(max_length=2)]), "Bad.member: a set; use a tuple"),
    "keys with a pattern": (
        make_model(Annotated[dict[Annotated[str, Field(pattern="^a$")], Count], Field(max_length=2)]),
        "Bad.member: keys with a pattern",
    ),
    "keys of an enum": (
        make_model(Annotated[dict[Mode, Count], Field(max_length=2)]),
        "Bad.member: constrained keys",
    ),
    "a keyword nobody knows": (
        make_model(Annotated[int, Field(json_schema_extra={"contentEncoding": "base64"})]),
        "Bad.member: 'contentEncoding' has no structural equivalent",
    ),
    "a string without a bound": (make_model(str), "Bad.member: an unbounded string"),
    "a string without a bound, behind an option": (make_model(str | None, None), "Bad.member: an unbounded string"),
    "a string without a bound, in a list": (
        make_model(Annotated[tuple[str, ...], Field(max_length=2)]),
        "Bad.member[]: an unbounded string",
    ),
    "a string without a bound, in a map": (
        make_model(Annotated[dict[str, str], Field(max_length=2)]),
        "Bad.member{}: an unbounded string",
    ),
    "a list without a bound": (make_model(tuple[Count, ...]), "Bad.member: an unbounded list"),
    "a map without a bound": (make_model(dict[str, Count]), "Bad.member: an unbounded map"),
    "an object of anything": (
        make_model(Annotated[dict[str, Any], Field(max_length=2)]),
        "Bad.member{}: any type is allowed",
    ),
    "a field of any type": (make_model(Any), "Bad.member: any type is allowed"),
    "a field that is always null": (make_model(None, None), "Bad.member: type 'null' has no structural equivalent"),
    "an object without members": (
        make_model(create_model("Empty", __base__=Model)),
        "Bad.member: an object without members would be stored empty",
    ),
    "a field without a description": (make_model(Count, description=None), "Bad.member: no description"),
    "a blank description": (make_model(Count, description="  "), "Bad.member: no description"),
    "a duration in fractions": (
        make_model(float, name="grace_seconds"),
        "Bad.graceSeconds: a duration of type number; use whole seconds",
    ),
    "a duration as a string": (make_model(timedelta), "Bad.member: format 'duration' is not checked"),
    "a pattern with lookaround": (
        make_model(Annotated[str, Field(max_length=9, json_schema_extra={"pattern": "^(?!a)"})]),
        "Bad.member: the pattern '^(?!a)' is not RE2",
    ),
    "a pattern with a back-reference": (
        make_model(Annotated[str, Field(max_length=9, json_schema_extra={"pattern": r"(a)\1"})]),
        "is not RE2",
    ),
    "a set of objects": (
        make_model(Annotated[tuple[Rule, ...], Field(max_length=2), ListSet()]),
        "Bad.member: ListSet is for scalars",
    ),
    "a list keyed by an optional member": (
        make_model(Annotated[tuple[Rule, ...], Field(max_length=2), ListMap("patience")]),
        "Bad.member: the list key 'patience' must be a required member",
    ),
    "a model that contains itself": (Loop, "Loop.inner: Loop contains itself"),
    "a default that lacks a required member": (
        make_model(Annotated[Needy, Field(json_schema_extra={"default": {}})]),
        "Bad.member: its default lacks the required name",
    ),
}


@pytest.mark.parametrize(("model", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_path(model, complaint):
    with pytest.raises(crd.SchemaError) as refusal:
        crd.structural_schema(model)
    assert complaint in str(refusal.value)


SAID = {
    "an option is its type, without null": ("loss", {"type": "number"}),
    "an enum is a string": ("mode", {"type": "string", "enum": ["Auto", "Manual"], "default": "Auto"}),
    "a constant is an enum of one": ("kind", {"type": "string", "enum": ["Job"], "default": "Job"}),
    "exclusive bounds are a bound and a flag": (
        "share",
        {
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
            "maximum": 1,
            "exclusiveMaximum": True,
            "default": 0.5,
        },
    ),
    "an empty list is no default, and a list is atomic unless it says otherwise": (
        "codes",
        {
            "type": "array",
            "maxItems": 4,
            "x-kubernetes-list-type": "atomic",
            "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        },
    ),
    "a list that says something is a default": (
        "files",
        {
            "type": "array",
            "maxItems": 4,
            "x-kubernetes-list-type": "set",
            "default": ["done"],
            "items": {"type": "string", "maxLength": 1024},
        },
    ),
    "an empty map is no default": (
        "labels",
        {"type": "object", "maxProperties": 8, "additionalProperties": {"type": "string", "maxLength": 1024}},
    ),
    "the length of a key is a rule": (
        "weights",
        {
            "type": "object",
            "maxProperties": 8,
            "additionalProperties": {"type": "number"},
            "x-kubernetes-validations": [
                {"rule": "self.all(key, size(key) <= 128)", "message": "a key has at most 128 characters"}
            ],
        },
    ),
    "another API's object is kept whole, with its rule": (
        "template",
        {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed"}],
        },
    ),
    "a moment needs no length": ("at", {"type": "string", "format": "date-time"}),
}


@pytest.mark.parametrize(("member", "expected"), SAID.values(), ids=SAID.keys())
def test_said_faithfully(member, expected):
    schema = properties()[member]
    assert schema.pop("description")
    assert schema == expected


def test_the_default_of_an_object_is_spelled_out_so_that_it_passes_its_own_rules():
    assert properties()["shutdown"]["default"] == {"graceSeconds": 120, "file": "STOP"}


def test_a_default_that_differs_from_its_type_keeps_the_difference():
    assert properties()["patient"]["default"] == {"graceSeconds": 600, "file": "STOP"}


def test_an_optional_object_has_no_default_of_its_own():
    assert "default" not in properties()["single"]


def test_the_rules_of_a_model_stand_wherever_it_is_used():
    rules = [{"rule": "has(self.name)", "message": "a rule has a name"}]
    assert properties()["single"]["x-kubernetes-validations"] == rules
    assert properties()["rules"]["items"]["x-kubernetes-validations"] == rules


def test_a_keyed_list_says_its_keys():
    assert properties()["rules"]["x-kubernetes-list-type"] == "map"
    assert properties()["rules"]["x-kubernetes-list-map-keys"] == ["name"]


def test_a_rule_may_name_its_reason_and_field():
    assert crd.structural_schema(Spec)["x-kubernetes-validations"] == [
        {"rule": "self.loss > 0.0", "message": "too low", "reason": "FieldValueInvalid", "fieldPath": ".loss"}
    ]


def test_a_rule_may_run_on_creation_with_an_optional_old_self():
    assert Cel("r", "m", optional_old_self=True).as_schema() == {"rule": "r", "message": "m", "optionalOldSelf": True}


def test_a_field_is_described_by_itself_not_by_its_type():
    assert properties()["single"]["description"] == "One rule."


def test_a_description_is_one_paragraph_however_it_was_wrapped():
    wrapped = make_model(Count, description="One\ntwo.\n\nThree.")
    assert properties(wrapped)["member"]["description"] == "One two.\n\nThree."


def test_a_rule_on_a_field_stands_on_that_field():
    plain = make_model(Annotated[Count, Cel("self != 1", "not one")])
    assert properties(plain)["member"]["x-kubernetes-validations"] == [{"rule": "self != 1", "message": "not one"}]


def test_a_status_states_no_defaults():
    assert "default:" not in yaml.safe_dump(crd.structural_schema(Status, defaults=False))


def test_a_forbidding_model_generates_like_any_other():
    assert "additionalProperties" not in crd.structural_schema(Closed)


def test_a_kind_says_its_columns_selectors_and_rules():
    resource = make_resource(
        scope="Cluster",
        short_names=("t",),
        categories=("all",),
        columns=(Column("PHASE", ".status.phase"), Column("AGE", ".metadata.creationTimestamp", "date", wide=True)),
        selectable_fields=(".status.phase",),
        cel_rules=(Cel("size(self.metadata.name) <= 52", "too long"),),
    )
    definition = crd.definition(resource)
    assert definition["metadata"]["name"] == "toys.trainingrun.dev"
    assert definition["spec"]["scope"] == "Cluster"
    assert definition["spec"]["names"] == {
        "kind": "Toy",
        "listKind": "ToyList",
        "plural": "toys",
        "singular": "toy",
        "shortNames": ["t"],
        "categories": ["all"],
    }
    assert version(resource)["additionalPrinterColumns"] == [
        {"name": "PHASE", "type": "string", "jsonPath": ".status.phase"},
        {"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1},
    ]
    assert version(resource)["selectableFields"] == [{"jsonPath": ".status.phase"}]
    root = version(resource)["schema"]["openAPIV3Schema"]
    assert root["x-kubernetes-validations"] == [{"rule": "size(self.metadata.name) <= 52", "message": "too long"}]
    assert root["required"] == ["spec"]


def test_a_kind_without_columns_leaves_them_out():
    assert version(make_resource()).keys() == {"name", "served", "storage", "subresources", "schema"}


def test_a_column_of_a_field_that_does_not_exist_is_refused():
    with pytest.raises(crd.SchemaError, match=r"Toy: the path '\.status\.fase' .* has no 'fase'"):
        crd.definition(make_resource(columns=(Column("PHASE", ".status.fase"),)))


def test_a_column_with_a_filter_is_the_api_servers_to_judge():
    path = '.status.conditions[?(@.type=="Ready")].status'
    assert version(make_resource(columns=(Column("READY", path),)))["additionalPrinterColumns"][0]["jsonPath"] == path


def test_a_file_says_that_it_is_generated_and_repeats_instead_of_linking():
    text = crd.render(make_resource())
    assert text.startswith("# Generated by `make generate`")
    assert "&id" not in text
    assert yaml.safe_load(text) == crd.definition(make_resource())


def test_stored_objects_may_hold_what_this_version_does_not_know():
    assert Spec.parse({"shutdown": {"graceSeconds": 5, "later": 1}}).shutdown.grace_seconds == 5


def test_written_objects_may_not():
    with pytest.raises(ValidationError, match=r"shutdown\.later"):
        Spec.parse_strict({"shutdown": {"graceSeconds": 5, "later": 1}})


def test_what_is_written_has_the_users_names_and_no_nulls():
    dumped = Spec(loss=math.pi).dump()
    assert dumped["loss"] == math.pi
    assert dumped["shutdown"]["graceSeconds"] == 120
    assert "single" not in dumped


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_the_committed_file_is_what_the_models_say(resource):
    committed = ROOT / "crds" / crd.file_name(resource)
    assert committed.read_text(encoding="utf-8") == crd.render(resource), "run `make generate`"


def test_the_command_writes_every_kind(tmp_path, capsys):
    crd.main([str(tmp_path / "crds")])
    written = sorted((tmp_path / "crds").iterdir())
    assert [path.name for path in written] == ["trainingrun.dev_gpunodepools.yaml", "trainingrun.dev_trainingruns.yaml"]
    assert sorted(capsys.readouterr().out.split()) == [str(path) for path in written]

"""What the documentation shows is what it says: every block has a language, every YAML is valid, every Python compiles, every link leads somewhere."""

from __future__ import annotations

import ast
import copy
import json
import re
from typing import TYPE_CHECKING

import documented
import jsonschema
import pytest
import yaml
from documented import DATA, DOCUMENTS, LANGUAGES, PICTURES, ROOT, all_blocks, links

from trainingrun_operator.api import names
from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.core.destinations import destinations_of

if TYPE_CHECKING:
    from trainingrun_operator.api.base import Model

MODELS: dict[str, type[Model]] = {names.RUN_KIND: TrainingRunSpec, names.POOL_KIND: GPUNodePoolSpec}
SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in (yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml"))
}
CHART = ROOT / "charts" / "trainingrun-operator"
VALUES = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
FOREIGN = ("kube-prometheus-stack",)
"""Charts of others whose values the docs show, by how a block's title begins."""
SIMULATED = "rules.yaml"
"""Title of blocks with fields of a run's spec that `simulate` reads."""
BASE = {
    "apiVersion": names.API_VERSION,
    "kind": names.RUN_KIND,
    "metadata": {"name": "base"},
    "spec": {
        "checkpoint": {"destination": "s3://my-bucket/runs"},
        "template": {"spec": {"containers": [{"name": "train", "image": "registry.example.com/my-training:1"}]}},
    },
}
SAMPLES = sorted((ROOT / "manifests").rglob("*.yaml"))


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document is not None]


def merged(base, patch):
    result = copy.deepcopy(base)
    for key, value in patch.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inner else value
    return result


def complaints(document):
    """Why a whole object of ours is none; empty if it is one."""
    kind = document["kind"]
    try:
        MODELS[kind].parse_strict(document["spec"])
    except ValueError as error:
        return [str(error)]
    if document.get("apiVersion") != names.API_VERSION:
        return [f"apiVersion is {document.get('apiVersion')}"]
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def complaints_about_values(document):
    validator = jsonschema.Draft202012Validator(VALUES)
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(merged(DEFAULTS, document))]
    try:
        destinations_of(document.get("allowedDestinations", ()))
    except ValueError as error:
        found.append(str(error))
    return found


def checked(document, title=""):
    """Why a YAML document of the docs is wrong: an object of ours, a part of a run's spec, values of the chart, or something of others'."""
    if isinstance(document, dict) and document.get("kind") in MODELS:
        return complaints(document)
    if isinstance(document, dict) and "kind" in document:
        return [] if {"apiVersion", "metadata"} <= document.keys() else ["it has a kind, but no apiVersion or metadata"]
    if isinstance(document, dict) and set(document) == {"spec"}:
        return complaints(merged(BASE, document))
    if title == SIMULATED:
        return complaints(merged(BASE, {"spec": document}))
    if title.startswith(FOREIGN):
        return []
    return complaints_about_values(document)


@pytest.mark.parametrize("block", all_blocks(), ids=lambda block: block.where)
def test_a_block_says_what_it_is(block):
    assert block.language in LANGUAGES, f"One of {', '.join(LANGUAGES)} belongs behind the fence."
    if block.language in PICTURES:
        typed = [line for line in block.text.splitlines() if re.match(r"(\$ |(kubectl|helm|make|docker) )", line)]
        assert not typed, (
            f"Commands belong into a block of {documented.SHELL[0]} or {documented.CONSOLE}, where they are tested."
        )


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.where)
def test_a_yaml_block_is_valid_by_model_and_schema(block):
    found = documents(block.text)
    assert found, "It is empty."
    assert not [words for document in found for words in checked(document, block.title)]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_valid_by_model_and_schema(path):
    assert not [words for document in documents(path.read_text()) for words in checked(document)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("{spec: {autoStopLos: 1}}", "autoStopLos", id="a-misspelt-field-of-a-run"),
        pytest.param("{spec: {checkpoint: {destination: 'gs://x'}}}", "destination", id="a-destination-that-is-no-s3"),
        pytest.param("{spec: {stopMode: Now}}", "stopMode", id="an-unknown-mode"),
        pytest.param(
            "{apiVersion: trainingrun.dev/v1alpha1, kind: GPUNodePool, metadata: {name: x}, spec: {nodeSelector: {}}}",
            "nodeSelector",
            id="a-pool-that-selects-everything",
        ),
        pytest.param("{apiVersion: trainingrun.dev/v1, kind: TrainingRun, spec: {}}", "checkpoint", id="a-run-of-nothing"),
        pytest.param("{replicaz: 2}", "replicaz", id="a-misspelt-value-of-the-chart"),
        pytest.param("{kind: Secret}", "metadata", id="an-object-without-a-name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(text, complaint):
    (document,) = documents(text)
    assert complaint in str(checked(document))


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.where)
def test_a_python_block_compiles(block):
    ast.parse(block.text, filename=block.where)


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.where)
def test_a_json_block_parses(block):
    json.loads(block.text)


def test_every_language_of_data_is_looked_into():
    assert set(DATA) - {"dockerfile"} == {"yaml", "json", "python"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_of_the_repository(path):
    dead = []
    for link in links(path):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            dead.append(link)
    assert not dead


def anchors(path):
    """The headings of a document, as links name them."""
    headings = [line.lstrip("#").strip() for _, line in documented.prose(path) if line.startswith("#")]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}

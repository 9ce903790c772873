"""What is built and generated: the nav, links that lead out of the site, and references that leave nothing out."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import documented
import pytest
import yaml
from documented import ROOT

from trainingrun_operator.exporter import catalogue

REFERENCE = ROOT / "docs" / "reference"


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the site ---------------------------------------------------------------------------------------------------


@pytest.fixture
def docs(tmp_path):
    """A repository with three pages, and a file that is none."""
    (tmp_path / "docs" / "runbooks").mkdir(parents=True)
    for page in ("index.md", "runbooks/b.md", "runbooks/a.md"):
        (tmp_path / "docs" / page).touch()
    (tmp_path / "README.md").touch()
    return tmp_path / "docs"


def test_a_pattern_in_the_nav_stands_for_the_pages_that_fit_it(docs):
    nav = ["index.md", {"Runbooks": ["runbooks/*.md"]}, {"None yet": ["nothing*.md"]}, {"One": "index.md"}]
    config = SimpleNamespace(nav=nav, docs_dir=str(docs))
    tool("hooks").on_config(config)
    assert config.nav == ["index.md", {"Runbooks": ["runbooks/a.md", "runbooks/b.md"]}, {"One": "index.md"}]


@pytest.mark.parametrize(
    ("written", "built"),
    [
        pytest.param("[read](../../README.md)", "read", id="a-file-of-the-repository-is-named"),
        pytest.param("[read](../../README.md#there)", "read", id="also-with-an-anchor"),
        pytest.param("[b](b.md)", "[b](b.md)", id="a-page-beside-it-stays"),
        pytest.param("[start](../index.md)", "[start](../index.md)", id="a-page-above-it-stays"),
        pytest.param("[gone](../../gone.md)", "[gone](../../gone.md)", id="a-dead-one-stays-for-mkdocs-to-complain"),
    ],
)
def test_a_link_out_of_the_site(docs, written, built):
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(docs / "runbooks" / "a.md")))
    config = SimpleNamespace(docs_dir=str(docs))
    assert tool("hooks").on_page_markdown(written, page, config, None) == built


def test_every_page_is_in_the_nav():
    configured = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config = SimpleNamespace(nav=configured["nav"], docs_dir=str(ROOT / "docs"))
    tool("hooks").on_config(config)
    sections = [next(iter(one.values())) if isinstance(one, dict) else [one] for one in config.nav]
    named = {page for section in sections for page in section}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in documented.DOCUMENTS if path.is_relative_to(ROOT / "docs")}  # fmt: skip
    assert named == pages


# -- the references ---------------------------------------------------------------------------------------------


def fields(schema, path):
    for name, field in schema.get("properties", {}).items():
        yield path, name, field.get("description", "")
        inner = field.get("items", field)
        yield from fields(inner, f"{path}.{name}{'[]' if inner is not field else ''}")


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("crd", sorted((ROOT / "crds").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_field_is_in_the_reference_below_the_object_that_it_belongs_to(crd, part):
    definition = yaml.safe_load(crd.read_text())["spec"]
    schema = definition["versions"][0]["schema"]["openAPIV3Schema"]["properties"].get(part, {})
    text = (
        (REFERENCE / "api.md").read_text().partition(f"\n## {definition['names']['kind']}\n")[2].partition("\n## ")[0]
    )
    missing = []
    for path, name, _ in fields(schema, part):
        section = text.partition(f"# {path}\n")[2].partition("\n#")[0]
        if f"| `{name}` |" not in section:
            missing.append(f"{path}.{name}")
    assert not missing


def test_every_metric_is_in_the_reference():
    text = (REFERENCE / "metrics.md").read_text()
    assert not [metric.name for metric in catalogue() if f"| `{metric.name}` | {metric.kind} |" not in text]


def test_every_right_is_in_the_reference():
    text = (REFERENCE / "permissions.md").read_text()
    roles = [
        one for one in yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()) if one and "rules" in one
    ]
    assert roles
    for role in roles:
        if role["kind"] not in ("Role", "ClusterRole"):
            continue
        section = text.partition(f"## {role['kind']} {role['metadata']['name']}\n")[2].partition("\n## ")[0]
        for rule in role["rules"]:
            assert f"`{rule['resources'][0]}`" in section
            assert f"| {', '.join(rule['verbs'])} |" in section

"""The bill of materials: every package that goes into the image, with what scanners look for it by."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCK = """
kopf==1.45.2 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via trainingrun-operator (pyproject.toml)
aiohttp[speedups]==3.14.5 ; python_version >= "3.11" \\
    --hash=sha256:{c}
PyYAML==6.0.3 --hash=sha256:{d}
absent==1 ; sys_platform == 'win32' --hash=sha256:{d}
""".format(**{letter: letter * 64 for letter in "abcd"})
KOPF = (
    "kopf",
    "1.45.2",
    "License-Expression: MIT\nRequires-Dist: aiohttp>=3\nRequires-Dist: PyYAML; extra == 'yaml'\n",
)
AIOHTTP = ("aiohttp", "3.14.5", "Classifier: License :: OSI Approved :: Apache Software License\n")
YAML = ("PyYAML", "6.0.3", "License: MIT\n")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "tools" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(tool, tmp_path):
    """The document of packages as pip installs them."""

    def of(*packages, lock=LOCK, scripts=()):
        for name, version, more in packages:
            folder = tmp_path / "packages" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{more}")
        for name, text in scripts:
            path = tmp_path / "sources" / "static" / "vendor" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tool.sbom(tmp_path / "packages", lock, tmp_path / "sources", "trainingrun-operator", "0.1.0", "python:3")

    return of


def test_each_package_has_what_a_scanner_looks_for_it_by(made):
    document = made(KOPF, AIOHTTP, YAML)
    assert [(one["name"], one["version"], one["purl"]) for one in document["components"]] == [
        ("aiohttp", "3.14.5", "pkg:pypi/aiohttp@3.14.5"),
        ("kopf", "1.45.2", "pkg:pypi/kopf@1.45.2"),
        ("PyYAML", "6.0.3", "pkg:pypi/pyyaml@6.0.3"),
    ]
    assert [one["licenses"] for one in document["components"]] == [
        [{"license": {"name": "Apache Software License"}}],
        [{"expression": "MIT"}],
        [{"license": {"name": "MIT"}}],
    ]
    kopf = document["components"][1]
    sums = [one["hashes"][0]["content"] for one in kopf["externalReferences"]]
    assert sums == ["a" * 64, "b" * 64]


def test_the_image_needs_all_and_a_package_what_it_needs_without_extras(made):
    needs = {one["ref"]: one["dependsOn"] for one in made(KOPF, AIOHTTP, YAML)["dependencies"]}
    assert needs == {
        "pkg:generic/trainingrun-operator@0.1.0": [
            "pkg:pypi/aiohttp@3.14.5",
            "pkg:pypi/kopf@1.45.2",
            "pkg:pypi/pyyaml@6.0.3",
        ],
        "pkg:pypi/kopf@1.45.2": ["pkg:pypi/aiohttp@3.14.5"],
        "pkg:pypi/aiohttp@3.14.5": [],
        "pkg:pypi/pyyaml@6.0.3": [],
    }


def test_a_script_for_browsers_is_in_it(made):
    document = made(KOPF, scripts=[("uPlot.js", "/*! https://github.com/leeoniya/uPlot (v1.6.32) */\nvar x;")])
    assert document["components"][-1]["purl"] == "pkg:npm/uplot@1.6.32"


def test_a_script_that_does_not_say_what_it_is_is_refused(made, tool):
    with pytest.raises(tool.SbomError, match="does not name its project and version"):
        made(KOPF, scripts=[("mystery.js", "var x;")])


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        pytest.param((), "has no packages", id="nothing there"),
        pytest.param((("kopf", "1.0", ""),), "has kopf 1.0, but the lock names version 1.45.2", id="another version"),
        pytest.param((("left", "1.0", ""),), "has left 1.0, but the lock names nothing", id="not in the lock"),
    ],
)
def test_a_folder_that_is_not_the_locks_is_refused(made, tool, packages, said):
    with pytest.raises(tool.SbomError, match=said):
        made(*packages)


def test_the_same_packages_make_the_same_document(made, tool, tmp_path):
    first = made(KOPF, AIOHTTP)
    again = tool.sbom(tmp_path / "packages", LOCK, tmp_path / "sources", "trainingrun-operator", "0.1.0", "python:3")
    assert again == first
    other = tool.sbom(tmp_path / "packages", LOCK, tmp_path / "sources", "trainingrun-operator", "0.2.0", "python:3")
    assert other["serialNumber"] != first["serialNumber"]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first["serialNumber"])


def test_every_package_of_the_real_lock_is_read(tool):
    text = (ROOT / "requirements.lock").read_text()
    found = tool.locked(text)
    assert len(found) == len(re.findall(r"(?m)^\S+==", text))
    assert all(sums for _, sums in found.values())


def test_what_dashboard_scripts_we_have_say_what_they_are(tool):
    assert [one["purl"] for one in tool.scripts(ROOT / "operator" / "trainingrun_operator")] == ["pkg:npm/uplot@1.6.32"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param([], 2, "usage: tools/sbom.py", id="too few"),
        pytest.param(["p", "no-such-lock", "s", "n", "v", "b"], 1, "no-such-lock", id="no lock"),
    ],
)
def test_a_call_that_cannot_be_meant_is_said(tool, capsys, arguments, code, said):
    assert tool.main(arguments) == code
    assert said in capsys.readouterr().err


def test_what_it_prints_is_json(tool, made, tmp_path, capsys):
    made(KOPF)
    lock = tmp_path / "lock"
    lock.write_text(LOCK)
    assert tool.main([str(tmp_path / "packages"), str(lock), str(tmp_path), "x", "1", "b"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["bomFormat"], printed["specVersion"]) == ("CycloneDX", "1.5")

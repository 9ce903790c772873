"""The promises of the folder layout that no linter keeps."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "operator"
MODULES = sorted(SOURCE.rglob("*.py"))


def test_the_source_root_is_not_a_package_that_would_shadow_the_standard_library():
    assert not (SOURCE / "__init__.py").exists()


def test_every_package_folder_is_a_package():
    folders = {module.parent for module in MODULES}
    assert not [str(folder.relative_to(SOURCE)) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_why_it_exists(module):
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))

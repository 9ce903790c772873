"""mkdocs hooks: page patterns in the nav, and links that lead out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>(?:\.\./)+[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Expand each pattern of the nav into the matching pages."""
    config.nav = _expanded(config.nav or [], Path(config.docs_dir))


def _expanded(nav: list[Any], docs: Path) -> list[Any]:
    found: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            sections = {title: _expanded(x, docs) if isinstance(x, list) else x for title, x in item.items()}
            found += [{title: pages} for title, pages in sections.items() if pages]
        elif "*" in item:
            found += sorted(path.relative_to(docs).as_posix() for path in docs.glob(item))
        else:
            found.append(item)
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to repository files that are no pages by their names: readers of the site have no repository."""
    del files
    docs, here = Path(config.docs_dir).resolve(), Path(page.file.abs_src_path or "").parent

    def named(link: re.Match[str]) -> str:
        target = (here / link["target"]).resolve()
        inside = target.is_relative_to(docs) or not target.exists()
        return link[0] if inside else link["text"]

    return _LINK.sub(named, markdown)

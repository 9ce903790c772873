"""The list of decisions has every page once, in order, with its number, its title and a line."""

from __future__ import annotations

import re

from documented import ROOT

DECISIONS = ROOT / "docs" / "decisions"
ROW = re.compile(r"\| (?P<number>\d+) \| \[(?P<title>[^\]]+)\]\((?P<page>[^)]+)\) \| (?P<line>\S.*\S) \|")
PAGES = sorted(page for page in DECISIONS.glob("*.md") if page.name != "README.md")


def test_the_list_has_the_number_and_title_of_every_page_in_order():
    listed = [row.groups()[:3] for row in ROW.finditer((DECISIONS / "README.md").read_text())]
    written = [page.read_text().partition("\n")[0].removeprefix("# ").split(". ", 1) for page in PAGES]
    assert listed == [(number, title, page.name) for (number, title), page in zip(written, PAGES, strict=True)]


def test_a_page_has_the_number_of_its_name_and_no_other_page_has_it():
    numbers = [int(page.name.partition("-")[0]) for page in PAGES]
    assert numbers == [int(page.read_text().removeprefix("# ").partition(".")[0]) for page in PAGES]
    assert len(set(numbers)) == len(numbers)


def test_every_line_is_one_sentence_that_fits_a_table():
    lines = [row["line"] for row in ROW.finditer((DECISIONS / "README.md").read_text())]
    assert [line for line in lines if len(line) > 110 or not line.endswith(".")] == []

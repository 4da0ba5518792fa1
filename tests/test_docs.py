"""The documentation is right: links lead to files, commands compose, the README is short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sweeper.config.compose import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
MOST_README_WORDS = 1000
"""Commands and table cells included; everything else belongs to docs/."""


def _links(page):
    return LINK.findall(page.read_text(encoding="utf-8"))


def _overrides(page):
    """Yield the overrides of every ``sweeper run`` in a code block; comments and options are left out."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("sweeper run "):
            yield [word for word in shlex.split(line, comments=True)[2:] if not word.startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    missing = [link for link in _links(page) if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_reached_from_the_readme():
    linked = {(ROOT / link).resolve() for link in _links(ROOT / "README.md")}
    assert set(PAGES[1:]) <= linked


@pytest.mark.parametrize("overrides", [found for page in PAGES for found in _overrides(page)], ids=" ".join)
def test_shown_commands_compose(overrides):
    assert compose(overrides).settings.dataset


def test_the_readme_is_short():
    words = re.findall(r"[^\W_][\w'.-]*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(words) <= MOST_README_WORDS

"""Texts from data as Markdown: a CommonMark parser shows them unchanged."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sweeper.figures.text import markdown_block, markdown_code, markdown_text

NASTY = [
    "<script>alert(1)</script>",
    "a ``` b",
    "`x`",
    "```\n# heading\n```",
    "a | b",
    "**bold** and \\*",
    "[click](javascript:alert(1)) ![](http://tracker/x.png)",
    "&lt;b&gt; &#60;",
    "C:\\temp\\",
    "\\`code\\`",
]
PLACES = ["Before {} after", "| head |\n| --- |\n| before {} after |", "- **before {} after**"]
texts = st.text("ab`*|\\<>&;#[]()!x: ~", max_size=20)


def _parse(source):
    return MarkdownIt("commonmark").enable("table").parse(source)


def _shown(token):
    return "".join(child.content for child in token.children)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "place", ["Before {} after", "| head |\n| --- |\n| before {} after |", "- **before {} after**"]
)
def test_a_text_is_shown_as_it_is_everywhere(text, place):
    tokens = _parse(place.format(markdown_text(text)))
    inline = [token for token in tokens if token.type == "inline"][-1]
    assert _shown(inline).lower() == f"before {' '.join(text.split())} after".lower()
    assert {child.type for child in inline.children} <= {"text", "text_special", "strong_open", "strong_close"}
    assert not [token for token in tokens if token.type in ("html_block", "fence", "heading_open")]


@settings(max_examples=50, deadline=None)
@given(texts)
@example("``a`")
def test_code_in_a_line_is_shown_as_it_is(text):
    text = " ".join(text.split()) or "x"
    (inline,) = [token for token in _parse(f"Before {markdown_code(text)} after") if token.type == "inline"]
    assert [(child.type, child.content) for child in inline.children if child.type == "code_inline"] == [
        ("code_inline", text)
    ]


@settings(max_examples=50, deadline=None)
@given(st.text("ab`\n~ <", max_size=30))
@example("```\n````\n<b>")
def test_a_text_cannot_end_its_block(text):
    (block,) = _parse(markdown_block(text))
    assert (block.type, unescape(block.content)) == ("fence", f"{text}\n")

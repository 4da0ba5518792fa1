"""Words and sizes that summary, report and plan share, and texts from data as Markdown that shows them unchanged."""

from __future__ import annotations

import re

__all__ = ["bytes_text", "markdown_block", "markdown_code", "markdown_text", "plural"]


_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def bytes_text(number: float) -> str:
    """Return a size with three digits, e.g. ``1.61 GB``."""
    factor, unit = next(((factor, unit) for factor, unit in _UNITS if number >= factor), (1.0, "B"))
    return f"{number / factor:.3g} {unit}"


def plural(number: int, noun: str) -> str:
    """Return a count with its noun, e.g. ``1 trial`` or ``3 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def markdown_text(text: object) -> str:
    """Return a text as one line of Markdown, also for a cell of a table: no HTML, code, emphasis or link."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split())).replace("<", "&lt;")
    return re.sub(r"[\\`*|]", r"\\\g<0>", line).replace("](", "]\\(")


def markdown_code(text: object) -> str:
    """Return a text as code within a line, between more backticks than it has in a row."""
    line = " ".join(str(text).split())
    ticks = "`" * (_longest_ticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def markdown_block(text: str) -> str:
    """Return a text as a block of code that it cannot end."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)

"""Prints plain lines on a console. Every package that prints text for the user calls it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

__all__ = ["print_line"]


def print_line(console: Console, text: str | Text) -> None:
    """Print a line verbatim: brackets are not markup, and rich does not wrap it at the width of the terminal."""
    console.print(Text(text) if isinstance(text, str) else text, soft_wrap=True)

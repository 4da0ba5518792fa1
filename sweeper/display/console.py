"""Prints plain lines on a console. Every package that prints text for the user calls it."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.text import Text

__all__ = ["print_line", "printable"]


def print_line(console: Console, text: str | Text) -> None:
    """Print a line verbatim: brackets are not markup, and rich does not wrap it at the width of the terminal."""
    console.print(Text(printable(text)) if isinstance(text, str) else text, soft_wrap=True)


def printable(text: str) -> str:
    """Return a text without control characters, with which data could move the cursor or write to the clipboard."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc")

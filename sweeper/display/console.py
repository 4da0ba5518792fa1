"""Prints lines to a console as they are: no markup, no highlighting, no folding."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

__all__ = ["print_line"]


def print_line(console: Console, line: str) -> None:
    """Print a line of plain text; long ones are left to the terminal to wrap, so that they can be copied."""
    console.print(Text(line), soft_wrap=True)

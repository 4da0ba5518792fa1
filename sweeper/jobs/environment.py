"""The environment of jobs: a clock starts them without what a shell knows, such as tokens, proxies and SWEEPER_NOTIFY.

``~/.config/sweeper/environment`` holds lines ``NAME=value``; `runner` takes them before anything else reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from sweeper.errors import ConfigError

__all__ = ["environment_file", "take_environment"]

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def environment_file() -> Path:
    """Return where the file is, if there is one."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "sweeper" / "environment"


def take_environment(path: Path, environment: MutableMapping[str, str]) -> None:
    """Add the lines of a file to an environment; what is set already stays.

    Raises:
        ConfigError: A line is no ``NAME=value``. Its text is not shown, for it may be secret.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise ConfigError(
                str(path), f"line {number}", "this is no NAME=value", "Mend the line, or put a # before it."
            )
        environment.setdefault(found[1], _unquoted(found[2].strip()))


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text

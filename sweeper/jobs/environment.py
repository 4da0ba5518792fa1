"""Environment variables of jobs. Schedulers do not start a login shell, so tokens, proxies and the like are missing.

``~/.config/sweeper/environment`` holds lines ``NAME=value``. `runner` loads them before it composes the configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from sweeper.errors import ConfigError

__all__ = ["environment_file", "load_environment"]

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def environment_file() -> Path:
    """Return the path of the user's environment file, which need not exist."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "sweeper" / "environment"


def load_environment(path: Path, environment: MutableMapping[str, str]) -> None:
    """Add the variables of a file to an environment; variables that are already set keep their values.

    Raises:
        ConfigError: A line is not ``NAME=value``. The message does not show its text, which may be secret.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            rule = "every line must be NAME=value"
            raise ConfigError(str(path), f"line {number}", rule, "Fix the line, or put a # before it.")
        value = found[2].strip()
        is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        environment.setdefault(found[1], value[1:-1] if is_quoted else value)

"""What goes wrong around a sweep at present: devices taken out, studies given up, a tracker that is behind.

`sweep` notes it while it runs, ``sweeper status`` and the report read it; failures of trials are in their records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sweeper.store.atomic import write_atomic

__all__ = ["Health", "HealthFile", "read_health"]

_FILE = "health.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Nothing, if all is well."""

    devices: Mapping[str, str] = field(default_factory=dict)
    """Why workers were taken out, by index."""
    studies: Mapping[str, str] = field(default_factory=dict)
    """Why studies were given up, by name."""
    tracker: str = ""
    """Why the tracker is behind."""

    def lines(self) -> list[str]:
        """Return what people should know, a line each."""
        lines = [f"Worker {index} was taken out: {why}" for index, why in self.devices.items()]
        lines += [f"{name} was given up: {why}" for name, why in self.studies.items()]
        if self.tracker:
            lines.append(f"The tracker is behind: {self.tracker}")
        return lines


class HealthFile:
    """Keeps the file up to date; writes only what changed.

    Args:
        root: The sweep's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last = read_health(root)

    def note(self, health: Health) -> None:
        """Write how things are."""
        if health != self._last:
            write_atomic(self._root / _FILE, json.dumps(asdict(health), indent=1).encode())
            self._last = health


def read_health(root: Path) -> Health:
    """Return what was noted last; nothing if that cannot be read."""
    try:
        return Health(**json.loads((root / _FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Health()

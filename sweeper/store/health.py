"""Current problems of a sweep that are not in any trial's record: disabled workers, aborted studies, a late tracker.

The monitor of a running sweep writes health.json; ``sweeper status`` and the report read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sweeper.disk.atomic import write_atomic
from sweeper.store.paths import SweepPaths

__all__ = ["Health", "HealthFile", "read_health"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The current problems; all fields are empty if there are none."""

    devices: Mapping[str, str] = field(default_factory=dict)
    """Why workers were disabled, by index."""
    studies: Mapping[str, str] = field(default_factory=dict)
    """Why studies were aborted, by name."""
    tracker: str = ""
    """Why the tracker is behind."""

    def lines(self) -> list[str]:
        """Return one line for each problem."""
        lines = [f"Worker {index} was disabled: {why}" for index, why in self.devices.items()]
        lines += [f"{name} was aborted: {why}" for name, why in self.studies.items()]
        if self.tracker:
            lines.append(f"The tracker is behind: {self.tracker}")
        return lines


class HealthFile:
    """Keeps health.json up to date.

    Args:
        root: The sweep's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = SweepPaths(root).health
        self._last = read_health(root)

    def write(self, health: Health) -> None:
        """Write the current problems, unless they are those written last."""
        if health != self._last:
            write_atomic(self._path, json.dumps(asdict(health), indent=1).encode())
            self._last = health


def read_health(root: Path) -> Health:
    """Return the problems written last; none if the file is missing or cannot be read."""
    try:
        return Health(**json.loads(SweepPaths(root).health.read_text()))
    except (OSError, ValueError, TypeError):
        return Health()

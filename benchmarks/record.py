"""Raw rows on disk: one JSON Lines file per section. Every run is appended, none rewritten; `latest` reads the newest.

Each row names its run. A run's machine and versions are in ``runs.jsonl``.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.store.provenance import collect

__all__ = ["Results", "Row", "describe_machine"]

Row = dict[str, Any]


class Results:
    """The folder of raw rows.

    Args:
        folder: The folder; created if missing.
        run: Name of this run, a UTC time.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, note: str) -> None:
        """Record the machine and the versions of this run."""
        libraries = {"ray": _version("ray"), "accelerate": _version("accelerate")}
        stamp = collect()
        stamp["libraries"] |= {name: version for name, version in libraries.items() if version}
        self.append("runs", {"note": note, **stamp})

    def append(self, section: str, row: Mapping[str, Any]) -> None:
        """Add a row of this run."""
        with self._path(section).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": self.run, **row}) + "\n")

    def all(self, section: str) -> list[Row]:
        """Return the rows of every run, oldest first."""
        if not self._path(section).exists():
            return []
        return [json.loads(line) for line in self._path(section).read_text(encoding="utf-8").splitlines() if line]

    def latest(self, section: str) -> list[Row]:
        """Return the rows of the newest run that has any."""
        rows = self.all(section)
        last = max((row["run"] for row in rows), default="")
        return [row for row in rows if row["run"] == last]

    def of_run(self, section: str, run: str = "") -> list[Row]:
        """Return the rows of a run; of this one by default, which has some if it was resumed."""
        return [row for row in self.all(section) if row["run"] == (run or self.run)]

    def machine_of(self, run: str) -> Row:
        """Return the machine, the versions and the commits of a run; those of its last part if it was resumed."""
        stamps = [row for row in self.all("runs") if row["run"] == run]
        commits = dict.fromkeys(_commit_text(stamp.get("git", {})) for stamp in stamps)
        return {**stamps[-1], "commits": list(commits)} if stamps else {}

    def _path(self, section: str) -> Path:
        return self.folder / f"{section}.jsonl"


def describe_machine(stamp: Row) -> str:
    """Describe a machine in one line: CPU, cores, memory, versions, commit."""
    if not stamp:
        return "machine unknown"
    machine = stamp["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(stamp["libraries"].items()) if version)
    memory = machine["memory_bytes"] / 2**30
    return (
        f"{machine['cpu']}, {machine['cores']} core(s), {memory:.0f} GiB; Python {stamp['python']}; {versions}; "
        f"commit {' and '.join(stamp['commits'])}; run {stamp['run']} ({stamp['note']})"
    )


def _commit_text(git: Row) -> str:
    return (git.get("commit", "")[:10] or "unknown") + (" with changes" if git.get("dirty") else "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""

"""Installs a job as a timer and a service of the user's own systemd; `schedulers` decides whether there is one.

Writes two unit files, reloads, enables the timer; removing undoes exactly that. Needs no root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sweeper.errors import SweeperError
from sweeper.jobs.command import answer, call, has
from sweeper.jobs.render import unit_names
from sweeper.store.atomic import write_atomic

__all__ = ["Systemd"]

_CTL = ("systemctl", "--user")
_AWAKE = frozenset({"initializing", "starting", "running", "degraded", "maintenance"})
"""Answers of a manager that is there; ``offline`` and errors to connect mean that there is none."""


class Systemd:
    """The user's service manager.

    Args:
        folder: Where it looks for unit files; the usual place if None.
    """

    name = "systemd"

    def __init__(self, folder: Path | None = None) -> None:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self._folder = folder or config / "systemd" / "user"

    def is_present(self) -> bool:
        """Whether a user manager answers."""
        if not has(_CTL[0]):
            return False
        _, output, _ = answer([*_CTL, "is-system-running"])
        return output.decode().strip() in _AWAKE

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return what will be written, by where."""
        del name
        return {str(self._folder / name): text for name, text in texts.items()}

    def commands(self, name: str) -> list[str]:
        """Return what is run after writing."""
        return [" ".join(words) for words in _activation(name)]

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Write the units and start the timer; units that were there are put back if systemd refuses the new ones.

        Raises:
            SweeperError: systemd refuses.
        """
        paths = [self._folder / unit for unit in texts]
        before = {path: path.read_bytes() if path.exists() else None for path in paths}
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomic(path, text.encode())
        try:
            for words in _activation(name):
                call(words)
        except SweeperError:
            for path, content in before.items():
                _put_back(path, content)
            answer([*_CTL, "daemon-reload"])
            raise

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done, nothing if the job was not installed."""
        service, timer = unit_names(name)
        paths = [path for path in (self._folder / service, self._folder / timer) if path.exists()]
        if not paths:
            return []
        # The timer's memory of its last start goes too: a job of this name that comes later has missed nothing.
        done = _done([*_CTL, "disable", "--now", timer], [*_CTL, "clean", "--what=state", timer])
        # Where no manager answers, nobody has taken the link away by which it would start the timer.
        (self._folder / "timers.target.wants" / timer).unlink(missing_ok=True)
        for path in paths:
            path.unlink()
        return [*done, *(f"removed {path}" for path in paths), *_done([*_CTL, "daemon-reload"])]

    def installed(self) -> dict[str, dict[str, str]]:
        """Return the unit files of every installed job, by job and by name of the file."""
        timers = sorted(self._folder.glob("sweeper-*.timer"))
        names = [path.stem.removeprefix("sweeper-") for path in timers]
        return {name: self._texts(name) for name in names}

    def is_active(self, name: str) -> bool:
        """Whether the timer waits for the next start."""
        return has(_CTL[0]) and answer([*_CTL, "is-active", "--quiet", unit_names(name)[1]])[0] == 0

    def log(self, name: str) -> str:
        """Return how to read what the job printed."""
        return f"journalctl --user --unit {unit_names(name)[0]}"

    def hint(self, user: str) -> str:
        """Return what is to be known after installing; empty if there is nothing."""
        if not has("loginctl"):
            return ""
        code, output, _ = answer(["loginctl", "show-user", user, "--property=Linger", "--value"])
        if code or output.decode().strip() == "yes":
            return ""
        return "Timers run while you are logged in. To have them run always: loginctl enable-linger"

    def _texts(self, name: str) -> dict[str, str]:
        paths = [self._folder / unit for unit in unit_names(name)]
        return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists()}


def _activation(name: str) -> list[list[str]]:
    timer = unit_names(name)[1]
    # restart, since enabling a timer that runs already does not make it read its new times.
    return [[*_CTL, "daemon-reload"], [*_CTL, "enable", timer], [*_CTL, "restart", timer]]


def _done(*commands: list[str]) -> list[str]:
    """Run commands that may be in vain; return those that were not."""
    return [" ".join(words) for words in commands if has(words[0]) and answer(words)[0] == 0]


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, content)

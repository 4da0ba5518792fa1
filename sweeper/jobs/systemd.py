"""Installs a job as a timer and a service in the user's systemd. `schedulers` chooses it when it is running.

Installing writes two unit files, reloads systemd and enables the timer; removing undoes exactly that. Needs no root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sweeper.disk.atomic import write_atomic
from sweeper.errors import SweeperError
from sweeper.jobs.command import is_installed, run, run_checked
from sweeper.jobs.render import unit_names

__all__ = ["Systemd"]

_CTL = ("systemctl", "--user")
_RUNNING_STATES = frozenset({"initializing", "starting", "running", "degraded", "maintenance"})
"""States in which there is a user manager. ``offline`` and connection errors mean that there is none."""


class Systemd:
    """The user's service manager, as a `schedulers.Scheduler`.

    Args:
        folder: The folder of unit files; None for the default one.
    """

    name = "systemd"

    def __init__(self, folder: Path | None = None) -> None:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self._folder = folder or config / "systemd" / "user"

    def is_present(self) -> bool:
        """Whether the user's manager is running."""
        if not is_installed(_CTL[0]):
            return False
        _, output, _ = run([*_CTL, "is-system-running"])
        return output.decode().strip() in _RUNNING_STATES

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return the texts that will be written, by their paths."""
        del name
        return {str(self._folder / name): text for name, text in texts.items()}

    def commands(self, name: str) -> list[str]:
        """Return the commands that activate the timer."""
        return [" ".join(words) for words in _activation(name)]

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Write the units and start the timer. If systemd rejects them, the previous units are restored.

        Raises:
            SweeperError: systemd rejects the units.
        """
        paths = [self._folder / unit for unit in texts]
        before = {path: path.read_bytes() if path.exists() else None for path in paths}
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomic(path, text.encode())
        try:
            for words in _activation(name):
                run_checked(words)
        except SweeperError:
            for path, content in before.items():
                _restore(path, content)
            run([*_CTL, "daemon-reload"])
            raise

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done, or an empty list if the job was not installed."""
        service, timer = unit_names(name)
        paths = [path for path in (self._folder / service, self._folder / timer) if path.exists()]
        if not paths:
            return []
        # Delete the recorded time of the last start too. Otherwise, if a job of this name is installed later, systemd
        # would find that it missed a start, and start it at once.
        done = _run_successful([*_CTL, "disable", "--now", timer], [*_CTL, "clean", "--what=state", timer])
        # Without a running manager, `disable` failed, and its link to the timer is still there.
        (self._folder / "timers.target.wants" / timer).unlink(missing_ok=True)
        for path in paths:
            path.unlink()
        return [*done, *(f"removed {path}" for path in paths), *_run_successful([*_CTL, "daemon-reload"])]

    def installed(self) -> dict[str, dict[str, str]]:
        """Return the unit files of every installed job, by job and by file name."""
        timers = sorted(self._folder.glob("sweeper-*.timer"))
        names = [path.stem.removeprefix("sweeper-") for path in timers]
        return {name: self._texts(name) for name in names}

    def is_active(self, name: str) -> bool:
        """Whether the timer is waiting for the next start."""
        return is_installed(_CTL[0]) and run([*_CTL, "is-active", "--quiet", unit_names(name)[1]])[0] == 0

    def log(self, name: str) -> str:
        """Return the command that shows the job's output."""
        return f"journalctl --user --unit {unit_names(name)[0]}"

    def hint(self, user: str) -> str:
        """Return what the user should know after installing; empty if there is nothing."""
        if not is_installed("loginctl"):
            return ""
        code, output, _ = run(["loginctl", "show-user", user, "--property=Linger", "--value"])
        if code or output.decode().strip() == "yes":
            return ""
        return "Timers run only while you are logged in. To let them run at any time: loginctl enable-linger"

    def _texts(self, name: str) -> dict[str, str]:
        paths = [self._folder / unit for unit in unit_names(name)]
        return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists()}


def _activation(name: str) -> list[list[str]]:
    timer = unit_names(name)[1]
    # `restart`, because `enable --now` does not make a running timer read its new times.
    return [[*_CTL, "daemon-reload"], [*_CTL, "enable", timer], [*_CTL, "restart", timer]]


def _run_successful(*commands: list[str]) -> list[str]:
    """Run commands that may fail; return those that succeeded."""
    return [" ".join(words) for words in commands if is_installed(words[0]) and run(words)[0] == 0]


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, content)

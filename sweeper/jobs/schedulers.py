"""Chooses the scheduler that a job is handed to, and hands it over. `cli` calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sweeper.errors import ConfigError, SweeperError, did_you_mean
from sweeper.jobs.cron import Cron
from sweeper.jobs.systemd import Systemd

__all__ = ["SCHEDULERS", "Scheduler", "choose", "install", "installed_in", "remove"]

SCHEDULERS = ("auto", "systemd", "cron")


class Scheduler(Protocol):
    """What starts jobs on this machine."""

    name: str

    def is_present(self) -> bool:
        """Whether it is there."""

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return what will be written, by where."""

    def commands(self, name: str) -> list[str]:
        """Return what is run to activate a job."""

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Write and activate; a job of this name is replaced."""

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done."""

    def installed(self) -> dict[str, dict[str, str]]:
        """Return what is written down for every installed job."""

    def is_active(self, name: str) -> bool:
        """Whether an installed job will be started."""

    def hint(self, user: str) -> str:
        """Return what is to be known after installing."""


def choose(name: str, *, must_be_present: bool = True) -> Scheduler:
    """Return a scheduler by name; ``auto`` takes systemd where the user has one, else cron.

    Raises:
        SweeperError: There is none of this name, or it is not on this machine.
    """
    known: dict[str, Scheduler] = {"systemd": Systemd(), "cron": Cron()}
    if name not in SCHEDULERS:
        remedy = f"{did_you_mean(name, SCHEDULERS)} Choose one of {', '.join(SCHEDULERS)}.".strip()
        raise ConfigError("--scheduler", name, "there is no scheduler of this name", remedy)
    wanted = list(known.values()) if name == "auto" else [known[name]]
    found = next((scheduler for scheduler in wanted if scheduler.is_present()), None)
    if found is None and must_be_present:
        rule = (
            f"{name} does not answer here" if name != "auto" else "no systemd of the user answers, nor is there a cron"
        )
        raise SweeperError(f"{rule}. For other schedulers: sweeper jobs render NAME --for slurm|scrontab|kubernetes")
    return found or wanted[0]


def install(scheduler: Scheduler, name: str, texts: Mapping[str, str]) -> list[str]:
    """Install a job, and take it out of the other scheduler if it was there; return what was done beside.

    Raises:
        SweeperError: The scheduler refuses.
    """
    scheduler.install(name, texts)
    others = [other for other in _all() if other.name != scheduler.name and name in other.installed()]
    return [line for other in others for line in other.remove(name)]


def remove(name: str) -> list[str]:
    """Take a job out of wherever it is installed; return what was done, nothing if it was not installed."""
    return [line for scheduler in _all() if name in scheduler.installed() for line in scheduler.remove(name)]


def installed_in() -> dict[str, Scheduler]:
    """Return the scheduler of every installed job."""
    return {name: scheduler for scheduler in _all() for name in scheduler.installed()}


def _all() -> tuple[Scheduler, ...]:
    return (Systemd(), Cron())

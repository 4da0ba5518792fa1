"""Chooses a scheduler, and installs jobs in it or removes them. `cli` calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sweeper.errors import ConfigError, SweeperError, did_you_mean
from sweeper.jobs.cron import Cron
from sweeper.jobs.systemd import Systemd

__all__ = ["SCHEDULERS", "Scheduler", "choose", "install", "installed_in", "remove"]

SCHEDULERS = ("auto", "systemd", "cron")


class Scheduler(Protocol):
    """A program that starts jobs on this machine."""

    name: str

    def is_present(self) -> bool:
        """Whether it is available."""

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return the texts that will be written, by their destinations."""

    def commands(self, name: str) -> list[str]:
        """Return the commands that activate a job."""

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Write a job's texts and activate it, replacing a job of the same name."""

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done, or an empty list if the job was not installed."""

    def installed(self) -> dict[str, dict[str, str]]:
        """Return the installed texts by job, and by file name within a job."""

    def is_active(self, name: str) -> bool:
        """Whether the scheduler will start an installed job."""

    def hint(self, user: str) -> str:
        """Return what the user should know after installing; empty if there is nothing."""


def choose(name: str, *, must_be_present: bool = True) -> Scheduler:
    """Return a scheduler by name; ``auto`` chooses systemd if it runs for the user, else cron.

    Raises:
        SweeperError: There is no scheduler of this name, or it is not available on this machine.
    """
    known: dict[str, Scheduler] = {"systemd": Systemd(), "cron": Cron()}
    if name not in SCHEDULERS:
        remedy = f"{did_you_mean(name, SCHEDULERS)} Choose one of {', '.join(SCHEDULERS)}.".strip()
        raise ConfigError("--scheduler", name, "there is no scheduler of this name", remedy)
    wanted = list(known.values()) if name == "auto" else [known[name]]
    found = next((scheduler for scheduler in wanted if scheduler.is_present()), None)
    if found is None and must_be_present:
        missing = "neither systemd nor cron is" if name == "auto" else f"{name} is not"
        remedy = "For other schedulers, use: sweeper jobs render NAME --for slurm|scrontab|kubernetes"
        raise SweeperError(f"{missing} available for this user on this machine. {remedy}")
    return found or wanted[0]


def install(scheduler: Scheduler, name: str, texts: Mapping[str, str]) -> list[str]:
    """Install a job, and remove it from the other scheduler if it was installed there; return how it was removed.

    Raises:
        SweeperError: The scheduler rejects the job.
    """
    scheduler.install(name, texts)
    others = [other for other in _all() if other.name != scheduler.name and name in other.installed()]
    return [line for other in others for line in other.remove(name)]


def remove(name: str) -> list[str]:
    """Remove a job from every scheduler; return what was done, or an empty list if it was not installed."""
    return [line for scheduler in _all() if name in scheduler.installed() for line in scheduler.remove(name)]


def installed_in() -> dict[str, Scheduler]:
    """Return the scheduler of every installed job."""
    return {name: scheduler for scheduler in _all() for name in scheduler.installed()}


def _all() -> tuple[Scheduler, ...]:
    return (Systemd(), Cron())

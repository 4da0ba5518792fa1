"""Tasks, one a module; found by name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from sweeper.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from sweeper.tasks.base import TaskProtocol

__all__ = ["make_task", "task_names"]

_NO_TASKS = ("base", "token_loss")


def task_names() -> tuple[str, ...]:
    """Return the tasks there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_TASKS))


def make_task(name: str) -> TaskProtocol:
    """Return the task ``sweeper.tasks.<name>``.

    Raises:
        ConfigError: There is none.
    """
    if name not in task_names():
        remedy = did_you_mean(name, task_names()) or f"Tasks are: {', '.join(task_names())}."
        raise ConfigError("task.name", name, "there is no such task", remedy)
    task: TaskProtocol = importlib.import_module(f"sweeper.tasks.{name}").Task()
    return task

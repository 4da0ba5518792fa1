"""Tasks: what is learnt and how it is scored. A new task is a module here with a class `Task`; see `base`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.config.modules import find_module

if TYPE_CHECKING:
    from sweeper.tasks.base import TaskProtocol

__all__ = ["make_task"]


def make_task(name: str) -> TaskProtocol:
    """Return the task ``sweeper.tasks.<name>``.

    Raises:
        ConfigError: There is no such task.
    """
    task: TaskProtocol = find_module(__name__, name, attributes=["Task"], key="task.name").Task()
    return task

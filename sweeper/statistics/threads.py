"""Keeps linear algebra on one thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["on_one_thread"]

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function use one thread for linear algebra.

    The matrices of statistics are small. Beside busy workers on two cores, threads that wait for each other took forty
    times as long.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return wrapped


@functools.cache
def _controller() -> Any:
    """Return the thread pools of this process; made once, since looking for them takes milliseconds."""
    import scipy.linalg  # noqa: F401  with its own pool, which must be loaded to be found

    return ThreadpoolController()

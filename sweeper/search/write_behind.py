"""Writes trials to the database in a thread, so that a slow or locked database does not delay the search.

A later state of a trial replaces an earlier one that is still waiting, so at most one entry per trial waits. `study`
puts trials here once the store has them: what an error or a kill leaves unwritten is written at the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import optuna

__all__ = ["WriteBehind"]

_INTERVAL_S = 1.0
"""Shortest time between two writes. A transaction costs a millisecond, whether it has one trial or ten."""


class WriteBehind:
    """A queue of trials, and the thread that writes them.

    Args:
        write: Writes trials, and retries while the database fails.
    """

    def __init__(self, write: Callable[[Sequence[optuna.trial.FrozenTrial]], None]) -> None:
        self._write = write
        self._waiting: dict[int, optuna.trial.FrozenTrial] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sweeper-search", daemon=True)

    def put(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """Queue snapshots of trials."""
        if not trials:
            return
        with self._changed:
            self._waiting.update((trial.number, trial) for trial in trials)
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def check(self) -> None:
        """Raise the error after which nothing more is written, if there was one."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is waiting, and end the thread; after an error, do not try again."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._error is None:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                trials, self._waiting = list(self._waiting.values()), {}
            if not trials:
                return
            try:
                self._write(sorted(trials, key=lambda trial: trial.number))
            except Exception as error:  # noqa: BLE001  any error must reach the controller, not end a thread in silence
                self._error = error
            self._closing.wait(_INTERVAL_S)

"""Drives a search on a response in virtual time, and logs what a user would have seen at which device second.

One device has several lanes, which train side by side: in a round, every occupied lane trains one chunk, and the device
needs the sum of their seconds. Lanes share a device equally, so this is what was measured. A trial is scored where the
search asks for it, and that takes device time, too. Early rungs score half of the rows, as `sweeper` does, for all
searches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sweeper.config.values import ParamValue
from sweeper.figures.rungs import rows_to_score
from sweeper.search.sobol import unit_point
from sweeper.simulate.base import Curve, ResponseProtocol
from sweeper.simulate.incumbent import Rung

__all__ = ["Assignment", "Contender", "CpuTimer", "Draw", "Log", "drive", "full_trial_s"]

_NUM_POINTS = 64
"""Sobol points over which the device time of a full trial is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a free lane trains next: a new trial, or one that paused."""

    trial: str
    """The search's own name for the trial; one that was seen before goes on from its checkpoint."""
    until: int
    """Chunk after which it is scored and the search is told."""
    params: Mapping[str, ParamValue]
    is_given: bool = False
    """Whether this is the default recipe, which the search was given, and no draw of its own."""


class Contender(Protocol):
    """A search that is asked and told."""

    @property
    def cpu_s(self) -> float:
        """CPU seconds of its own code so far."""
        ...

    def ask(self) -> Assignment | None:
        """Return what a free lane trains next; None if the search waits for trials that run."""
        ...

    def tell(self, trial: str, chunk: int, score: float, loss: float) -> int:
        """Take a score, higher is better, and return the chunk to train to next; 0 frees the lane.

        A trial that leaves its lane before its end is stopped, or has paused until `ask` returns it again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Draw:
    """A trial of the log."""

    params: Mapping[str, ParamValue]
    is_own: bool
    """Whether the search drew it, from a model or at random; not a recipe or another fixed start."""


@dataclass(kw_only=True, slots=True)
class Log:
    """What happened within the budget, the same for every contender."""

    draws: list[Draw] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    chunks: int = 0
    cpu_s: float = 0.0
    """CPU seconds of the search's own code."""


@dataclass(slots=True)
class _Lane:
    trial: str
    until: int


@dataclass(slots=True)
class _Trial:
    index: int
    curve: Curve
    chunk: int = 0


def full_trial_s(response: ResponseProtocol) -> float:
    """Return the device seconds of a trial that is scored at its end only, mean over the space."""
    points = [response.space.point(unit_point(len(response.space), 0, index)) for index in range(_NUM_POINTS)]
    curves = [response.curve(params, 0) for params in points]
    return float(np.mean([sum(curve.train_s) + curve.score_s for curve in curves]))


def drive(
    make: Callable[[], Contender], response: ResponseProtocol, *, num_lanes: int, budget_s: float, seed: int
) -> Log:
    """Run a search until its device time is spent.

    Args:
        make: Starts the search.
        response: What its trials measure.
        num_lanes: Trials that train side by side.
        budget_s: Device seconds.
        seed: With which every trial is trained, as in a sweep.
    """
    contender = make()
    log, trials, lanes = Log(), dict[str, _Trial](), list[_Lane]()
    now_s = 0.0
    while now_s < budget_s:
        while len(lanes) < num_lanes and (assignment := contender.ask()) is not None:
            if assignment.trial not in trials:
                index = len(log.draws)
                trials[assignment.trial] = _Trial(index, response.curve(assignment.params, seed))
                log.draws.append(Draw(dict(assignment.params), not assignment.is_given))
            lanes.append(_Lane(assignment.trial, assignment.until))
            _check(response, trials[assignment.trial].chunk, assignment.until)
        if not lanes:
            raise RuntimeError("the search waits, but no trial runs")
        scored, round_s, score_s = [], 0.0, 0.0
        for lane in lanes:
            trial = trials[lane.trial]
            round_s += trial.curve.train_s[trial.chunk]
            trial.chunk += 1
            if trial.chunk == lane.until:
                scored.append((lane, trial))
                score_s += _rung(response, trial)[2]
        now_s += round_s + score_s
        if now_s > budget_s:
            break
        log.chunks += len(lanes)
        for lane, trial in scored:
            score, loss, _ = _rung(response, trial)
            log.rungs.append(Rung(now_s, trial.index, trial.chunk, score))
            sign = 1 if response.maximize else -1
            lane.until = contender.tell(lane.trial, trial.chunk, sign * score, loss)
            if lane.until and trial.chunk < response.num_chunks:
                _check(response, trial.chunk, lane.until)
            else:
                lanes.remove(lane)
    log.cpu_s = contender.cpu_s
    return log


def _rung(response: ResponseProtocol, trial: _Trial) -> tuple[float, float, float]:
    """Return score, loss and device seconds of scoring a trial where it stands."""
    curve, last, num_rows = trial.curve, trial.chunk - 1, response.num_rows
    if num_rows and rows_to_score(trial.chunk, num_chunks=response.num_chunks, num_rows=num_rows) < num_rows:
        return curve.half_score[last], curve.half_loss[last], curve.score_s / 2
    return curve.score[last], curve.loss[last], curve.score_s


def _check(response: ResponseProtocol, chunk: int, until: int) -> None:
    if not chunk < until <= response.num_chunks:
        raise RuntimeError(f"a trial after chunk {chunk} of {response.num_chunks} cannot be trained to chunk {until}")


class CpuTimer:
    """Adds up the CPU seconds of blocks."""

    def __init__(self) -> None:
        self.total_s, self._begun_s = 0.0, math.nan

    def __enter__(self) -> None:
        self._begun_s = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.total_s += time.process_time() - self._begun_s

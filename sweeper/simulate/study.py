"""Runs a search on a response, in virtual time: controller, search, pruning and packing are the real ones.

Only the workers (`executor`), the files (`store`) and the clock are simulated. Deterministic: the same response,
settings and seed give the same trials. Called by the command `sweeper simulate` and by benchmarks/replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import (
    MAX_TRIALS,
    BudgetSettings,
    ExecutorSettings,
    LoraSettings,
    SearchSettings,
    TaskSettings,
    TrainSettings,
)
from sweeper.config.space import EPOCHS
from sweeper.config.trial_length import FullLength, longest_epochs, nearest_epochs
from sweeper.config.values import ParamValue
from sweeper.control.controller import Controller
from sweeper.control.lane_limits import LaneLimits
from sweeper.control.shutdown import ShutdownRequest
from sweeper.control.study_run import StudyRun
from sweeper.control.trial_records import TrialRecords
from sweeper.control.watchdog import Watchdog
from sweeper.execute.base import OpenStudy
from sweeper.figures.rungs import rows_to_score
from sweeper.search.pruning import rung_chunks
from sweeper.search.study import Search
from sweeper.simulate.base import ResponseProtocol
from sweeper.simulate.executor import SimulatedExecutor, StopSimulation, VirtualClock
from sweeper.simulate.incumbent import Rung, incumbent, regret_of
from sweeper.simulate.store import MemoryStore
from sweeper.simulate.table import own_chunks
from sweeper.store.ledger import Ledger
from sweeper.track.base import NullTracker
from sweeper.types import ModelRef, PortfolioPoint, RowsRef, StudyRecord, TrialRecord, TrialState, TrialTemplate

__all__ = ["SimulatedStudy", "SimulatedTrial", "simulate_study"]

_METRIC = "validation/score"


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedTrial:
    """A trial of a simulated study."""

    number: int
    params: Mapping[str, ParamValue]
    origin: str
    state: TrialState
    chunks: int
    """Chunks that it trained."""
    started_s: float
    """Virtual seconds since the start of the study."""
    ended_s: float
    """When its last chunk ended; infinite if it was still running at the end of the simulation."""
    scores: Mapping[int, float]
    """The objective by rung; of an early rung, that on half of the rows."""
    scored_s: Mapping[int, float]
    """When each of them was known."""
    device_s: float
    is_good: bool
    """Whether its configuration lies in the good zone."""

    @property
    def is_model_draw(self) -> bool:
        """Whether the sampler chose it, not a recipe, an earlier sweep, a Sobol sequence or a grid."""
        return ":" not in self.origin and self.origin not in ("sobol", "grid", "portfolio")


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """What a simulated study did."""

    response: ResponseProtocol
    rungs: tuple[int, ...]
    trials: Sequence[SimulatedTrial]
    """By number."""
    wall_s: float
    """Virtual seconds that it took; with one worker, also its device seconds."""

    @cached_property
    def device_s(self) -> float:
        """Device seconds of all trials."""
        return sum(trial.device_s for trial in self.trials)

    @property
    def rung_scores(self) -> list[Rung]:
        """Every score, with the index of its trial."""
        return [
            Rung(trial.scored_s[chunk], index, chunk, score)
            for index, trial in enumerate(self.trials)
            for chunk, score in trial.scores.items()
        ]

    @property
    def saved_share(self) -> float:
        """Share of the chunks of the finished trials that pruning saved."""
        finished = [trial for trial in self.trials if trial.state.is_finished]
        whole = sum(own_chunks(self.response.space, self.response.num_chunks, trial.params) for trial in finished)
        return 1 - sum(trial.chunks for trial in finished) / whole if whole else 0.0

    @property
    def good_share(self) -> float:
        """Share of the sampler's own draws that lie in the good zone; NaN if it made none."""
        draws = [trial.is_good for trial in self.trials if trial.is_model_draw]
        return sum(draws) / len(draws) if draws else math.nan

    def incumbent_at(self, moment_s: float = math.inf) -> SimulatedTrial | None:
        """Return the trial that would be reported at a moment (see `incumbent`); None before the first score.

        Args:
            moment_s: Virtual seconds since the start.
        """
        chosen = incumbent(self.rung_scores, moment_s, maximize=self.response.maximize)
        return None if chosen is None else self.trials[chosen]

    def regret_at(self, moment_s: float = math.inf) -> float:
        """Return by how much the incumbent's mean score is below the best of the response; infinite without one."""
        trial = self.incumbent_at(moment_s)
        if trial is None:
            return math.inf
        return regret_of(self.response, self.response.mean_score(trial.params))


def simulate_study(
    response: ResponseProtocol,
    search: SearchSettings,
    *,
    seed: int,
    portfolio: Sequence[PortfolioPoint] = (),
    num_trials: int = MAX_TRIALS,
    workers: int = 1,
    lanes: int = 4,
    in_flight: int = 0,
    recipe_lanes: int = 0,
    device_s: float = 0.0,
    stop_s: float = math.inf,
) -> SimulatedStudy:
    """Run a search on a response.

    Args:
        response: What trials measure.
        search: Sampler, pruner, recipes.
        seed: Seed of the search and of every trial, as in a sweep.
        portfolio: What the search proposes after the recipes.
        num_trials: ``budget.trials``.
        workers: Workers, each with a device of its own.
        lanes: Most lanes of a worker.
        in_flight: See `LaneLimits`; 0 for no limit.
        recipe_lanes: See `LaneLimits`.
        device_s: ``budget.device_hours`` in seconds: no trial starts that would not fit; 0 for no limit.
        stop_s: Virtual seconds after which the simulation is broken off, in the middle of chunks.

    Raises:
        ConfigError: The sampler cannot search the space.
    """
    clock, rungs = VirtualClock(), _rungs(response, search)
    record = _record(response, rungs)
    defaults = Hyperparameters(LoraSettings(), TrainSettings()).with_params(response.fixed)
    if EPOCHS in response.space.keys:
        # Recipes that name no number of epochs get the nearest to the fixed one, or else the fewest.
        defaults = defaults.with_params({EPOCHS: nearest_epochs(response.space, defaults.train.epochs)})
    executor = SimulatedExecutor(response, clock, metric=_METRIC, num_workers=workers, stop_s=stop_s)
    with Search.open(
        f"simulated-{seed}/{response.name}",
        response.space,
        search,
        direction=record.direction,
        storage_url=None,
        seed=seed,
        rungs=rungs,
        num_rows=response.num_rows,
        majority=record.majority,
        fixed=defaults.by_key(),
        portfolio=portfolio,
    ) as proposals:
        run = StudyRun(
            TrialRecords(record, store=MemoryStore(), tracker=NullTracker(), clock=clock),
            proposals,
            TrialTemplate(response.name, defaults.with_params(_length(record, response)), seed),
            num_trials=num_trials,
            executor=ExecutorSettings(abort_after_failures=0),
            timer=clock.timer,
        )
        controller = Controller(
            {record.name: (run, _opening(record))},
            executor,
            ledger=Ledger(None, clock, clock.timer),
            budget=BudgetSettings(trials=num_trials, device_hours=device_s / 3600),
            limits=LaneLimits(lanes=lanes, in_flight=in_flight, recipe_lanes=recipe_lanes),
            shutdown=ShutdownRequest(),
            on_change=lambda: None,
            watchdog=Watchdog(ExecutorSettings(), clock.timer),
        )
        try:
            controller.run()
        except StopSimulation:
            clock.now_s = stop_s
    trials = [
        _trial(response, trial, executor.times[number])
        for number, trial in sorted(run.trials.items())
        if number in executor.times
    ]
    return SimulatedStudy(response=response, rungs=rungs, trials=trials, wall_s=clock.now_s)


def _rungs(response: ResponseProtocol, search: SearchSettings) -> tuple[int, ...]:
    return rung_chunks(response.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor)


def _length(record: StudyRecord, response: ResponseProtocol) -> dict[str, ParamValue]:
    """Return the length that the table's trials have unless it is searched; its rows do not matter here."""
    length: dict[str, ParamValue] = {"train.chunks_per_epoch": record.chunks_per_epoch}
    return length if EPOCHS in response.space.keys else {EPOCHS: record.epochs, **length}


def _trial(response: ResponseProtocol, trial: TrialRecord, times: Sequence[float]) -> SimulatedTrial:
    # Of a chunk that had not ended when the simulation was broken off, there is a time but no measurement.
    scores = {m.chunk: m.metrics[_METRIC] for m in trial.measurements if m.is_rung}
    chunks = trial.chunks_done
    return SimulatedTrial(
        number=trial.spec.number,
        params=trial.spec.params,
        origin=trial.spec.origin,
        state=trial.state,
        chunks=chunks,
        started_s=times[0],
        ended_s=times[chunks] if trial.state.is_finished else math.inf,
        scores=scores,
        scored_s={chunk: times[chunk] for chunk in scores},
        device_s=trial.cost.device_s,
        is_good=response.is_good(trial.spec.params),
    )


def _record(response: ResponseProtocol, rungs: tuple[int, ...]) -> StudyRecord:
    scored = [rows_to_score(rung, num_chunks=rungs[-1], num_rows=response.num_rows) for rung in rungs]
    length = FullLength(response.num_chunks, longest_epochs(response.space) or 1)
    shares = [response.majority if rows == response.num_rows else response.half_majority for rows in scored]
    return StudyRecord(
        name=response.name,
        dataset=response.name,
        model="simulated",
        method="lora",
        task="simulated",
        metric=_METRIC,
        direction="maximize" if response.maximize else "minimize",
        num_chunks=response.num_chunks,
        epochs=length.epochs,
        chunks_per_epoch=length.chunks_per_epoch,
        rungs=rungs,
        rows_per_chunk=1,
        micro_batch=1,
        fingerprint="",
        labels=(),
        num_rows={"validation": response.num_rows},
        space=response.space.texts,
        majority=() if math.isnan(response.majority) else tuple(shares),
    )


def _opening(record: StudyRecord) -> OpenStudy:
    """Return the request that opens the study on a simulated worker, which reads only the rungs."""
    rows = RowsRef(
        dataset=record.dataset,
        kind="",
        num_labels=0,
        fingerprint="",
        digest="",
        splits="",
        tokens="",
        max_length=0,
        chat="",
    )
    return OpenStudy(
        name=record.name,
        rows=rows,
        model=ModelRef(name=record.model, files=()),
        task=TaskSettings(),
        micro_batch=record.micro_batch,
        chunks_per_epoch=record.chunks_per_epoch,
        epochs=record.epochs,
        rungs=record.rungs,
        seed=0,
        probe=False,
    )

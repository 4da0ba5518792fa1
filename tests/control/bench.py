"""A controller with fake workers; everything else is real: search, its database on SQLite, store, ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna

from sweeper.clock import Clock, utc_now
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import (
    BudgetSettings,
    ExecutorSettings,
    Recipe,
    SearchSettings,
)
from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.trial_length import trial_chunks
from sweeper.config.values import ParamValue
from sweeper.control.confirmation import Confirmation
from sweeper.control.controller import Controller
from sweeper.control.lane_limits import LaneLimits
from sweeper.control.shutdown import ShutdownRequest
from sweeper.control.study_run import StudyRun
from sweeper.control.trial_records import TrialRecords
from sweeper.control.watchdog import Watchdog
from sweeper.errors import WorkerLost
from sweeper.execute.base import OpenStudy
from sweeper.execute.inline import InlineExecutor
from sweeper.figures.ranking import finite_value, rank_trials
from sweeper.search.study import Search
from sweeper.statistics.results import CandidateResult, Difference, Interval, Verdict
from sweeper.store.ledger import Ledger
from sweeper.store.retention import adapters_to_keep
from sweeper.store.trials import TrialStore
from sweeper.track import NullTracker
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState, TrialTemplate
from tests import builders
from tests.builders import make_opening, make_rows_ref, make_study
from tests.doubles import FakeWorker
from tests.search.toy import FIXED, SPACE, preset

RUNGS = (2, 4)
DEFAULTS = builders.DEFAULTS.with_params(FIXED)


class Killed(BaseException):
    """Simulates that the controller is killed at this point."""


class Timer:
    """A clock that advances only when the executor waits, or when a test advances it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class KilledExecutor(InlineExecutor):
    """Kills the controller after ``replies`` replies; with ``speeds``, a worker answers only every n-th `wait`."""

    def __init__(self, make_worker, num_workers=1, *, timer, replies=None, speeds=()):
        super().__init__(make_worker, num_workers)
        self.timer = timer
        self._replies, self._speeds, self._waits = replies, speeds, 0

    def wait(self, timeout_s):
        self._waits += 1
        self.timer.advance(timeout_s)
        every = dict(enumerate(self._speeds))
        ready = [h for h in super().wait(0.0) if self._waits % every.get(h.index, 1) == 0]
        if self._replies is not None:
            if self._replies <= 0:
                raise Killed
            ready = ready[: self._replies]
            self._replies -= len(ready)
        return ready


@dataclass
class Bench:
    """A sweep in a folder; each `run` is a new session."""

    folder: Path
    num_trials: int = 6
    lanes: int = 3
    in_flight: int = 0
    recipe_lanes: int = 0
    max_retries: int = 2
    keep_adapters: int = 0
    studies: tuple[str, ...] = ("toy",)
    space: SearchSpace = SPACE
    search: SearchSettings = field(default_factory=lambda: preset("tpe", num_startup_trials=2))
    references: dict[int, Recipe] = field(default_factory=dict)
    confirmation: Callable[[TrialStore], Confirmation] | None = None
    """Makes the confirmation of a study; none if None."""
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    worker: dict[str, object] = field(default_factory=dict)
    num_workers: int = 1
    speeds: tuple[int, ...] = ()
    shutdown: ShutdownRequest = field(default_factory=ShutdownRequest)
    clock: Clock = utc_now
    events: MutableSequence[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    controller: Controller | None = None
    runs: list[StudyRun] = field(default_factory=list)
    """The studies of the last session."""
    timer: Timer = field(default_factory=Timer)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)

    _executor = KilledExecutor

    @property
    def store(self) -> TrialStore:
        return TrialStore(self.folder)

    def run(self, *, replies: int | None = None, on_change: Callable[[], None] = lambda: None) -> Bench:
        """Run until the sweep ends, or until the controller is killed after ``replies`` replies."""
        executor = self._executor(
            self._make_worker, self.num_workers, timer=self.timer, replies=replies, speeds=self.speeds
        )
        with self._runs() as runs:
            self.runs = [run for run, _ in runs.values()]
            self.controller = Controller(
                runs,
                executor,
                ledger=Ledger(self.folder / "ledger.json", self.clock),
                budget=self.budget,
                limits=LaneLimits(lanes=self.lanes, in_flight=self.in_flight, recipe_lanes=self.recipe_lanes),
                shutdown=self.shutdown,
                on_change=on_change,
                watchdog=Watchdog(self.executor, self.timer),
            )
            self.controller.run()
        return self

    def trials(self, study: str = "toy") -> dict[int, TrialRecord]:
        return {record.spec.number: record for record in self.store.trials(study)}

    def states(self, study: str = "toy") -> list[TrialState]:
        return [record.state for record in self.trials(study).values()]

    def configurations(self, study: str = "toy") -> dict[int, Mapping[str, ParamValue]]:
        return {number: dict(record.spec.params) for number, record in self.trials(study).items()}

    def in_optuna(self, study: str = "toy") -> list[optuna.trial.FrozenTrial]:
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder}/optuna.db")
        try:
            return optuna.load_study(study_name=f"sweep/{study}", storage=storage).get_trials()
        finally:
            storage.engine.dispose()

    def chunks(self) -> list[tuple[int, ...]]:
        """Return the numbers of the trials in each chunk's pack, in order."""
        return [numbers for _, what, numbers in self.events if what == "chunk"]

    def _make_worker(self, index: int) -> FakeWorker:
        return FakeWorker(rungs=RUNGS, num_chunks=RUNGS[-1], events=self.events, index=index, **self.worker)

    @contextmanager
    def _runs(self) -> Iterator[dict[str, tuple[StudyRun, OpenStudy]]]:
        with ExitStack() as stack:
            yield {name: (self._study_run(name, stack), open_request(name)) for name in self.studies}

    def _open_search(self, study: StudyRecord) -> Search:
        return Search.open(
            f"sweep/{study.name}",
            self.space,
            self.search,
            direction="maximize",
            storage_url=f"sqlite:///{self.folder}/optuna.db",
            seed=1,
            rungs=RUNGS,
            fixed=self._defaults.by_key(),
        )

    @property
    def _defaults(self) -> Hyperparameters:
        return DEFAULTS.with_params({EPOCHS: 2}) if EPOCHS in self.space.keys else DEFAULTS

    def _study_run(self, name: str, stack: ExitStack) -> StudyRun:
        study = next((study for study in self.store.studies() if study.name == name), record(name))
        search = self._open_search(study)
        records = TrialRecords(
            study, store=self.store, tracker=NullTracker(), keep_adapters=self.keep_adapters, clock=self.clock
        )
        return StudyRun(
            records,
            stack.enter_context(search),
            TrialTemplate(name, self._defaults, 0),
            num_trials=self.num_trials,
            executor=replace(self.executor, max_retries=self.max_retries),
            references=self.references,
            confirmation=self.confirmation(self.store) if self.confirmation else None,
            timer=self.timer,
        )


def probability_best(study, trials):
    """One trial of the search is the best with 50 %, three may be the best, all others are with 1 %."""
    ranked = [trial.spec.number for trial in rank_trials(study, trials)]
    return {number: {0: 0.5, 1: 0.2, 2: 0.1, 3: 0.1}.get(rank, 0.01) for rank, number in enumerate(ranked)}


class Comparison:
    """Calls a comparison undecided until a candidate has as many seeds as it needs; notes how it was called."""

    def __init__(self, **needed):
        self.needed, self.calls = needed, []

    def __call__(self, study, candidates, *, default, max_seeds):
        self.calls.append(({name: len(trials) for name, trials in candidates.items()}, max_seeds))
        values = {name: finite_value(study, trials[-1]) for name, trials in candidates.items()}
        best = max(values, key=lambda name: (values[name], name))
        return [self._result(name, trials, best, default) for name, trials in candidates.items()]

    def _result(self, name, trials, best, default):
        is_open = len(trials) < self.needed.get(name.replace(" ", "_"), 0)
        difference = Difference(
            gain=Interval(estimate=0.0, low=-1.0, high=1.0),
            verdict=Verdict.UNDECIDED if is_open else Verdict.WORSE,
            seeds_needed=99 if is_open else None,
        )
        return CandidateResult(
            name=name,
            num_seeds=len(trials),
            metrics={},
            against_default=None if name == default else difference,
            against_best=None if name == best else difference,
        )


def record(name: str) -> StudyRecord:
    return make_study(
        name=name,
        dataset=name,
        num_chunks=RUNGS[-1],
        epochs=2,
        chunks_per_epoch=2,
        rungs=RUNGS,
        rows_per_chunk=10,
        micro_batch=2,
        num_rows={"train": 40},
        space=SPACE.texts,
        references={},
    )


def open_request(name: str) -> OpenStudy:
    return make_opening(name, rows=make_rows_ref(name), micro_batch=2, chunks_per_epoch=2, epochs=2, rungs=RUNGS)


def no_pruning(**changes: object) -> SearchSettings:
    """Return settings whose configurations depend on the trial's number alone, without pruning."""
    return replace(preset("random"), pruner="none", **changes)


def once(action: Callable[[], None], *, at: int) -> Callable[[tuple[int, ...]], None]:
    """Return a hook that calls ``action`` before chunk ``at``, counted from 1 over all workers."""
    calls = []

    def before(numbers: tuple[int, ...]) -> None:
        calls.append(numbers)
        if len(calls) == at:
            action()

    return before


def lose(message: str = "worker 0 was killed by SIGKILL") -> None:
    """Simulate the loss of a worker."""
    raise WorkerLost(message)


def check_intact(bench: Bench, study: str = "toy") -> None:
    """Check what must hold for every sweep that ended, whatever happened on the way."""
    trials = bench.trials(study)
    kept = adapters_to_keep(record(study), trials.values(), bench.keep_adapters)
    assert all(trial.state.is_finished for trial in trials.values())
    for trial in trials.values():
        chunks = [measurement.chunk for measurement in trial.measurements]
        assert chunks == list(range(1, len(chunks) + 1))
        for measurement in trial.measurements:
            found = bench.store.read_outcomes(study, trial.spec.number, measurement.chunk)
            assert (found is not None) == bool(measurement.outcomes) == measurement.is_rung
        listed = bench.store.rung_outcomes(trial)
        paths = bench.store.paths.trial(study, trial.spec.number)
        assert set(paths.all_outcomes()) - {paths.test_outcomes} == set(listed)
        if trial.state is TrialState.COMPLETE:
            assert chunks[-1] == trial_chunks(record(study), trial.spec.train.epochs)
        adapter = bench.store.adapter_dir(study, trial.spec.number) / "adapter_config.json"
        assert adapter.exists() == (trial.spec.number in kept)
        assert not list(bench.store.paths.trial(study, trial.spec.number).folder.glob("checkpoint-*"))
    searched = [number for number, trial in trials.items() if trial.spec.phase is Phase.SEARCH]
    stored = bench.in_optuna(study)
    assert [trial.number for trial in stored] == searched
    assert all(trial.state.is_finished() for trial in stored)

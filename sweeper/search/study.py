"""One study: proposes settings, hears how they do, says which to stop.

`Search` wraps an Optuna study through ask and tell. The trial store is the truth; after any interruption `Search.sync`
brings Optuna in line with it, and rebuilds it if its database is gone. One process at a time writes a study: the
controller. It does not train, and it does not count a budget.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import optuna

from sweeper.config.settings import SearchSettings
from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import SweeperError
from sweeper.search.distributions import distributions, suggest, to_stored
from sweeper.search.proposals import Proposal, trial_seed
from sweeper.search.pruning import make_pruner, num_free_passes
from sweeper.search.reading import check_same, check_trial, worst_value
from sweeper.search.samplers import Proposer
from sweeper.search.storage import durable, open_storage, patience, translated
from sweeper.types import Decision, Phase, TrialRecord, TrialState

__all__ = ["Search"]

optuna.logging.set_verbosity(optuna.logging.WARNING)
logger = logging.getLogger(__name__)

_CONSTRAINT = "infeasible"
_STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.INFEASIBLE: optuna.trial.TrialState.COMPLETE,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


class Search:
    """A study that is open for writing; a context manager. Made by `Search.open`."""

    def __init__(
        self, study: optuna.Study, storage: optuna.storages.RDBStorage, proposer: Proposer, *, space: SearchSpace
    ) -> None:
        self._study, self._storage, self._proposer, self._space = study, storage, proposer, space
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._known: set[int] = set()
        self._drawing: int | None = None
        self._seed = 0
        self._last_rung = 0
        self._free_passes = 0

    @classmethod
    def open(
        cls,
        name: str,
        space: SearchSpace,
        settings: SearchSettings,
        *,
        direction: str,
        storage_url: str,
        seed: int,
        rungs: tuple[int, ...],
        fixed: Mapping[str, ParamValue] | None = None,
    ) -> Search:
        """Open a study, or begin it.

        Args:
            name: ``<sweep>/<study>``; also decides a trial's hyperband bracket, so it must stay.
            space: The search space; must be the one the study was begun with.
            settings: Sampler, pruner and recipes.
            direction: ``maximize`` or ``minimize``.
            storage_url: SQLAlchemy URL of the database.
            seed: Seed of all proposals.
            rungs: Chunks after which trials are scored, the last one ending a trial (see `pruning.rung_chunks`).
            fixed: Values of keys that do not vary, for recipes.

        Raises:
            ConfigError: A setting is wrong, or the database cannot be opened.
            SweepMismatch: The study was begun with another space or direction.
        """
        proposer = Proposer(space, settings, seed=seed, fixed=fixed or {}, maximize=direction == "maximize")
        pruner = make_pruner(settings, rungs=rungs, num_chunks=rungs[-1])
        storage = open_storage(storage_url)
        try:
            with translated(storage_url):
                study = patience(
                    optuna.create_study,
                    study_name=name,
                    storage=storage,
                    sampler=proposer.sampler("", 0),
                    pruner=pruner,
                    direction=optuna.study.StudyDirection[direction.upper()],
                    load_if_exists=True,
                )
                check_same(study, space, direction)
                search = cls(study, storage, proposer, space=space)
        except BaseException:
            storage.engine.dispose()
            raise
        search._seed, search._last_rung, search._free_passes = seed, rungs[-1], num_free_passes(settings)
        return search

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def num_trials(self) -> int:
        """Trials proposed so far, whatever became of them."""
        return len(self._trials())

    @property
    @durable
    def is_exhausted(self) -> bool:
        """Whether every setting of a grid was proposed; never true of other samplers."""
        size = self._proposer.size
        return size is not None and self._next_number(self._trials()) >= size

    @durable
    def ask(self) -> Proposal:
        """Propose the next setting; its trial is running until it is told.

        Raises:
            SweeperError: A grid has no setting left.
            StorageDown: The database failed.
        """
        trials = self._trials()
        if self._drawing is not None and trials[self._drawing].state is optuna.trial.TrialState.RUNNING:
            return self._drawn(self._redraw(trials[self._drawing]))  # the database failed at an earlier attempt
        number = self._next_number(trials)
        if self._proposer.size is not None and number >= self._proposer.size:
            raise SweeperError(f"{self._study.study_name}: the grid's {self._proposer.size} settings were all tried")
        if number == len(trials):
            self._enqueue(number, trials)
        # The origin is stored with the trial before it is drawn: a kill in between leaves a trial that `pending`
        # finds and draws again, with the same sampler and seed.
        origin = str(self._trials()[number].user_attrs["origin"])
        self._study.sampler = self._proposer.sampler(origin, number)
        self._drawing = number
        params = suggest(self._study.ask(), self._space)
        return self._drawn(Proposal(number=number, params=params, origin=origin))

    @durable
    def report(self, number: int, *, chunk: int, value: float) -> Decision:
        """Report the objective of a trial at a rung.

        Args:
            number: The trial.
            chunk: Chunks completed.
            value: The objective; a value that is not finite stops the trial.

        Returns:
            Whether it goes on. The default recipe always does, being what all are compared with; and so does a trial
            at its last rung, which is complete.
        """
        trials = self._trials()
        frozen = trials[number]
        if frozen.state.is_finished() or chunk >= self._last_rung:
            self._report(frozen, chunk, value)
            return Decision.CONTINUE
        if not math.isfinite(value):
            return Decision.STOP
        should_stop = self._report(frozen, chunk, value)
        protected = frozen.user_attrs.get("origin") == self._proposer.default_origin
        num_peers = sum(chunk in trial.intermediate_values for trial in trials if trial is not frozen)
        is_free = protected or num_peers < self._free_passes
        return Decision.STOP if should_stop and not is_free else Decision.CONTINUE

    @durable
    def tell(self, number: int, *, state: TrialState, value: float | None = None) -> None:
        """Finish a trial; a trial that is finished already stays as it is.

        An infeasible trial is told as complete with a violated constraint, so that the sampler learns from it, and
        with the worst value seen, so that a model of the values is not bent by an invented one.

        Args:
            number: The trial.
            state: How it ended.
            value: The objective, of a complete trial.

        Raises:
            ValueError: The state is not final, or a complete trial has no finite value.
        """
        if not state.is_finished:
            raise ValueError(f"trial {number} cannot be told as {state}")
        if state is TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"trial {number} is complete but its value is {value}")
        if self._trials()[number].state.is_finished():
            return
        trial = self._trial(number)
        trial.set_user_attr("state", str(state))
        if state is TrialState.INFEASIBLE:
            value = worst_value(self._trials(), value, maximize=self._is_maximize)
        final = _STATES[state]
        if state is TrialState.INFEASIBLE and _CONSTRAINT not in trial.constraints:
            trial.set_constraint(_CONSTRAINT, 1.0)
        self._study.tell(number, value if final is optuna.trial.TrialState.COMPLETE else None, state=final)

    @durable
    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Bring Optuna in line with the store, which is the truth, when a sweep is reopened.

        Trials that Optuna has lost are added, rung values that it missed are reported, trials that the store has
        finished are told. Trials running in both stay. Those running in Optuna only are then `pending`.

        Args:
            records: All trials of the study in the store.
            value_of: The objective of a record at its latest rung, e.g. `StudyRecord.value`.

        Raises:
            StoreError: A trial has other values in Optuna than in the store.
        """
        searched = sorted((r for r in records if r.spec.phase is Phase.SEARCH), key=lambda record: record.spec.number)
        self._known.update(record.spec.number for record in searched)
        for record in searched:
            self._restore(record)
            self._report_missed(record, value_of)
        for record in searched:
            if record.state.is_finished:
                self.tell(record.spec.number, state=record.state, value=value_of(record))

    @durable
    def pending(self) -> list[Proposal]:
        """Return the trials that were proposed but never reached the store: the controller died in between."""
        running = [
            trial
            for trial in self._trials()
            if trial.state is optuna.trial.TrialState.RUNNING and trial.number not in self._known
        ]
        return [self._redraw(trial) for trial in running]

    @property
    def _is_maximize(self) -> bool:
        return self._study.direction is optuna.study.StudyDirection.MAXIMIZE

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trial_id(number))

    @staticmethod
    def _next_number(trials: Sequence[optuna.trial.FrozenTrial]) -> int:
        """Return the number of a trial that was enqueued before a kill, or of a new one."""
        waiting = (trial.number for trial in trials if trial.state is optuna.trial.TrialState.WAITING)
        return next(waiting, len(trials))

    def _enqueue(self, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        draft = self._proposer.draft(number, trials)
        stored = {} if draft.params is None else to_stored(self._space, draft.params)
        attributes = {"origin": draft.origin, "seed": trial_seed(self._seed, number), **draft.notes}
        self._study.enqueue_trial(stored, user_attrs=attributes)

    def _drawn(self, proposal: Proposal) -> Proposal:
        self._drawing = None
        self._known.add(proposal.number)
        return proposal

    def _redraw(self, frozen: optuna.trial.FrozenTrial) -> Proposal:
        origin = str(frozen.user_attrs["origin"])
        self._study.sampler = self._proposer.sampler(origin, frozen.number)
        params = suggest(self._trial(frozen.number), self._space)
        return Proposal(number=frozen.number, params=params, origin=origin)

    def _report(self, frozen: optuna.trial.FrozenTrial, chunk: int, value: float) -> bool:
        """Store a rung's value, once, and return whether the pruner would stop the trial.

        Straight to the storage, as `optuna.Trial` does it: making one reads all trials to prepare its sampler.
        """
        if frozen.state.is_finished() or not math.isfinite(value):
            return False
        trial_id = self._trial_id(frozen.number)
        if chunk not in frozen.intermediate_values:
            self._storage.set_trial_intermediate_value(trial_id, chunk, value)
        if chunk >= self._last_rung:
            return False
        return self._study.pruner.prune(self._study, self._storage.get_trial(trial_id))

    def _restore(self, record: TrialRecord) -> None:
        """Add a trial that Optuna does not have; check one that it has."""
        spec, trials = record.spec, self._trials()
        for missing in range(len(trials), spec.number):
            logger.warning("%s: trial %d is lost, it counts as failed", self._study.study_name, missing)
            self._study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        if spec.number >= len(trials):
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=to_stored(self._space, spec.params),
                    distributions=distributions(self._space),
                    user_attrs={"origin": spec.origin, "seed": trial_seed(self._seed, spec.number)},
                )
            )
            return
        check_trial(self._study.study_name, self._space, trials[spec.number], spec.params)

    def _report_missed(self, record: TrialRecord, value_of: Callable[[TrialRecord], float | None]) -> None:
        frozen = self._trials()[record.spec.number]
        for index, measurement in enumerate(record.measurements):
            if not measurement.is_rung or measurement.chunk in frozen.intermediate_values:
                continue
            value = value_of(dataclasses.replace(record, measurements=record.measurements[: index + 1]))
            if value is not None:
                self._report(frozen, measurement.chunk, value)

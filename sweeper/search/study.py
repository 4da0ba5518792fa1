"""The search of one study: proposes configurations, receives their scores, and decides which trials to prune.

`Search` wraps an Optuna study through ask and tell. The trial store is the truth: after an interruption `Search.sync`
brings Optuna in line with it, and rebuilds the study if its database is gone. Only one process, the controller, writes
a study at a time. This module does not train, and it does not enforce a budget.
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
from sweeper.search.frozen_trials import check_same, check_trial, worst_value
from sweeper.search.proposals import Proposal, trial_seed
from sweeper.search.pruning import make_pruner, min_peers
from sweeper.search.samplers import Proposer
from sweeper.search.storage import RETRIES, open_storage, retried, translate_errors
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
    """A study that is open for writing; a context manager. Use `Search.open` to create one.

    Args:
        study: The study, with its pruner.
        storage: The database that the study is in.
        proposer: Chooses what proposes each trial.
        last_rung: Chunks of a full trial.
        min_peers: Other trials that must have been scored at a rung before it prunes.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.RDBStorage,
        proposer: Proposer,
        *,
        last_rung: int,
        min_peers: int,
    ) -> None:
        self._study, self._storage, self._proposer = study, storage, proposer
        self._last_rung, self._min_peers = last_rung, min_peers
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._known: set[int] = set()
        """Numbers of the trials that the controller knows."""
        self._drawing: int | None = None
        """Number of the trial that `ask` has started but not returned yet."""

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
        """Open a study; create it if it does not exist.

        Args:
            name: ``<sweep>/<study>``. It also determines a trial's Hyperband bracket, so it must not change.
            space: The search space; must be the one the study was started with.
            settings: Sampler, pruner and recipes.
            direction: ``maximize`` or ``minimize``.
            storage_url: SQLAlchemy URL of the database.
            seed: Seed of all proposals.
            rungs: Chunks after which trials are scored; the last one ends a trial (see `pruning.rung_chunks`).
            fixed: Values of the keys outside the space, and of dimensions that a recipe leaves out.

        Raises:
            ConfigError: A setting is wrong, or the database cannot be opened.
            SweepMismatch: The study was started with another space or direction.
        """
        proposer = Proposer(space, settings, seed=seed, fixed=fixed or {}, maximize=direction == "maximize")
        pruner = make_pruner(settings, rungs=rungs, num_chunks=rungs[-1])
        storage = open_storage(storage_url)
        try:
            with translate_errors(storage_url):
                study = RETRIES(
                    optuna.create_study,
                    study_name=name,
                    storage=storage,
                    sampler=proposer.sampler("", 0),
                    pruner=pruner,
                    direction=optuna.study.StudyDirection[direction.upper()],
                    load_if_exists=True,
                )
                check_same(study, space, direction)
                return cls(study, storage, proposer, last_rung=rungs[-1], min_peers=min_peers(settings))
        except BaseException:
            storage.engine.dispose()
            raise

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def num_recipes(self) -> int:
        """Number of recipes in the space, which are the first proposals."""
        return self._proposer.num_recipes

    @property
    @retried
    def is_exhausted(self) -> bool:
        """Whether every configuration of a grid was proposed; always false for other samplers."""
        size = self._proposer.size
        return size is not None and self._next_number(self._trials()) >= size

    @retried
    def ask(self) -> Proposal:
        """Propose the next configuration; its trial counts as running until `tell`.

        Raises:
            SweeperError: Every configuration of the grid was proposed.
            StorageDown: The database failed.
        """
        trials = self._trials()
        if self._drawing is not None and trials[self._drawing].state is optuna.trial.TrialState.RUNNING:
            # The database failed in an earlier attempt, after the trial was started.
            return self._drawn(self._redraw(trials[self._drawing]))
        number, size = self._next_number(trials), self._proposer.size
        if size is not None and number >= size:
            raise SweeperError(f"{self._study.study_name}: all {size} configurations of the grid were proposed")
        if number == len(trials):
            self._enqueue(number, trials)
        # The origin is stored before the trial is drawn. If the process is killed in between, `pending` finds the trial
        # and draws it again with the same sampler and seed.
        origin = str(self._trials()[number].user_attrs["origin"])
        self._study.sampler = self._proposer.sampler(origin, number)
        self._drawing = number
        params = suggest(self._study.ask(), self._proposer.space)
        return self._drawn(Proposal(number=number, params=params, origin=origin))

    @retried
    def report(self, number: int, *, chunk: int, value: float) -> Decision:
        """Report the objective of a trial at a rung.

        Args:
            number: The trial.
            chunk: Chunks completed.
            value: The objective. A trial whose value is not finite is pruned.

        Returns:
            Whether the trial continues. The default recipe is never pruned, since all trials are compared with it; nor
            is a trial at its last rung, which is complete.
        """
        trials = self._trials()
        frozen = trials[number]
        if frozen.state.is_finished() or chunk >= self._last_rung:
            self._report(frozen, chunk, value)
            return Decision.CONTINUE
        if not math.isfinite(value):
            return Decision.STOP
        should_prune = self._report(frozen, chunk, value)
        is_default = frozen.user_attrs.get("origin") == self._proposer.default_origin
        num_peers = sum(chunk in trial.intermediate_values for trial in trials if trial is not frozen)
        may_prune = not is_default and num_peers >= self._min_peers
        return Decision.STOP if should_prune and may_prune else Decision.CONTINUE

    @retried
    def tell(self, number: int, *, state: TrialState, value: float | None = None) -> None:
        """Record how a trial ended. A trial that has already finished is not changed.

        An infeasible trial is stored as complete with a violated constraint, so that the sampler learns from it. Its
        value is the worst one seen so far, so that an invented value does not distort a model of the values.

        Args:
            number: The trial.
            state: How it ended.
            value: The objective of a complete trial.

        Raises:
            ValueError: The state is not final, or a complete trial has no finite value.
        """
        if not state.is_finished:
            raise ValueError(f"trial {number}: state={state} is not a final state")
        if state is TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"trial {number}: a complete trial needs a finite value, not {value}")
        if self._trials()[number].state.is_finished():
            return
        trial = self._trial(number)
        trial.set_user_attr("state", str(state))
        if state is TrialState.INFEASIBLE:
            maximize = self._study.direction is optuna.study.StudyDirection.MAXIMIZE
            value = worst_value(self._trials(), value, maximize=maximize)
        final = _STATES[state]
        if state is TrialState.INFEASIBLE and _CONSTRAINT not in trial.constraints:
            trial.set_constraint(_CONSTRAINT, 1.0)
        self._study.tell(number, value if final is optuna.trial.TrialState.COMPLETE else None, state=final)

    @retried
    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Bring Optuna in line with the store when a sweep is resumed.

        Adds the trials that Optuna lacks, reports the rung values that it missed, and finishes the trials that are
        finished in the store. Trials running in both stay as they are. Those running in Optuna only are `pending`.

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

    @retried
    def pending(self) -> list[Proposal]:
        """Return the trials that were proposed but never reached the store, because the controller died in between."""
        running = [
            trial
            for trial in self._trials()
            if trial.state is optuna.trial.TrialState.RUNNING and trial.number not in self._known
        ]
        return [self._redraw(trial) for trial in running]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trial_id(number))

    @staticmethod
    def _next_number(trials: Sequence[optuna.trial.FrozenTrial]) -> int:
        """Return the number of a trial that was enqueued but not started when the process was killed, or a new one."""
        waiting = (trial.number for trial in trials if trial.state is optuna.trial.TrialState.WAITING)
        return next(waiting, len(trials))

    def _enqueue(self, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        draft = self._proposer.draft(number, trials)
        stored = {} if draft.params is None else to_stored(self._proposer.space, draft.params)
        attributes = {"origin": draft.origin, "seed": trial_seed(self._proposer.seed, number), **draft.notes}
        self._study.enqueue_trial(stored, user_attrs=attributes)

    def _drawn(self, proposal: Proposal) -> Proposal:
        """Record that a proposal is about to reach the controller."""
        self._drawing = None
        self._known.add(proposal.number)
        return proposal

    def _redraw(self, frozen: optuna.trial.FrozenTrial) -> Proposal:
        """Draw a running trial again; values that are in the database already are read."""
        origin = str(frozen.user_attrs["origin"])
        self._study.sampler = self._proposer.sampler(origin, frozen.number)
        params = suggest(self._trial(frozen.number), self._proposer.space)
        return Proposal(number=frozen.number, params=params, origin=origin)

    def _report(self, frozen: optuna.trial.FrozenTrial, chunk: int, value: float) -> bool:
        """Store the value at a rung unless it is stored already; return whether the pruner would prune the trial.

        Writes to the storage directly, as `optuna.Trial` does: creating one reads all trials to prepare its sampler.
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
        """Add a trial that Optuna lacks; check one that it has."""
        spec, trials = record.spec, self._trials()
        for missing in range(len(trials), spec.number):
            logger.warning("%s: trial %d has no record and counts as failed", self._study.study_name, missing)
            self._study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        if spec.number >= len(trials):
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=to_stored(self._proposer.space, spec.params),
                    distributions=distributions(self._proposer.space),
                    user_attrs={"origin": spec.origin, "seed": trial_seed(self._proposer.seed, spec.number)},
                )
            )
            return
        check_trial(self._study.study_name, self._proposer.space, trials[spec.number], spec.params)

    def _report_missed(self, record: TrialRecord, value_of: Callable[[TrialRecord], float | None]) -> None:
        frozen = self._trials()[record.spec.number]
        for index, measurement in enumerate(record.measurements):
            if not measurement.is_rung or measurement.chunk in frozen.intermediate_values:
                continue
            value = value_of(dataclasses.replace(record, measurements=record.measurements[: index + 1]))
            if value is not None:
                self._report(frozen, measurement.chunk, value)

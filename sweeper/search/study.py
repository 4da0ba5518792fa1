"""The search of one study: proposes configurations, receives their scores, and decides which trials to prune.

`Search` decides from trials in memory (`mirror`), which `Search.sync` builds from the trial store, the truth. Optuna's
samplers draw from them; Optuna's database is a view that a thread writes behind the store. So a decision waits for no
database, and a kill loses none. Only one process, the controller, writes a study at a time. This module does not train,
and it does not enforce a budget.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import optuna

from sweeper.config.settings import SearchSettings
from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.trial_length import FullLength, longest_epochs, trial_chunks
from sweeper.config.values import ParamValue
from sweeper.errors import DiskFull, StorageDown, SweeperError
from sweeper.figures.pareto import rung_costs
from sweeper.search.mirror import StudyMirror
from sweeper.search.proposals import Proposal, trial_seed
from sweeper.search.pruning import make_pruner
from sweeper.search.samplers import Proposer
from sweeper.search.study_database import StudyDatabase
from sweeper.search.study_view import NullView, StudyView
from sweeper.search.write_behind import WriteBehind
from sweeper.types import Decision, Phase, PortfolioPoint, TrialRecord, TrialState

__all__ = ["Search"]

optuna.logging.set_verbosity(optuna.logging.WARNING)
logger = logging.getLogger(__name__)


class Search:
    """A study that is open for writing; a context manager. Use `Search.open` to create one.

    Args:
        name: Name of the study in the database.
        database: Where people look at it.
        proposer: Chooses what proposes each trial.
        settings: Pruner, its reduction factor, and the cost.
        rungs: Chunks after which trials are scored.
        maximize: Whether higher values are better.
        num_rows: Validation rows; 0 if every rung scores the same.
        majority: Score of always predicting the commonest label at each rung; empty if that has no meaning.
    """

    def __init__(
        self,
        name: str,
        database: StudyView,
        proposer: Proposer,
        *,
        settings: SearchSettings,
        rungs: tuple[int, ...],
        maximize: bool,
        num_rows: int = 0,
        majority: Sequence[float] = (),
    ) -> None:
        self._name, self._database, self._proposer = name, database, proposer
        self._length = FullLength(rungs[-1], longest_epochs(proposer.space) or 1)
        self._cost = settings.cost
        self._mirror = StudyMirror(proposer.space, maximize=maximize, has_cost=proposer.has_cost)
        self._pruner = make_pruner(
            settings, study=name, rungs=rungs, maximize=maximize, majority=majority, num_rows=num_rows
        )
        self._num_chunks: dict[int, int] = {}
        """Chunks of each trial if it is not pruned."""
        self._decisions: dict[int, tuple[int, Decision]] = {}
        """The latest chunk at which a trial was decided, and the decision; it continued at earlier ones."""
        self._writer = WriteBehind(database.update)

    @classmethod
    def open(
        cls,
        name: str,
        space: SearchSpace,
        settings: SearchSettings,
        *,
        direction: str,
        storage_url: str | None,
        seed: int,
        rungs: tuple[int, ...],
        num_rows: int = 0,
        fixed: Mapping[str, ParamValue] | None = None,
        metric: str = "score",
        majority: Sequence[float] = (),
        portfolio: Sequence[PortfolioPoint] = (),
    ) -> Search:
        """Open a study; create it if it does not exist. It has no trials before `sync`.

        Args:
            name: ``<sweep>/<study>``. It also determines a trial's Hyperband bracket, so it must not change.
            space: The search space; must be the one the study was started with.
            settings: Sampler, pruner, cost and recipes.
            direction: ``maximize`` or ``minimize``.
            storage_url: SQLAlchemy URL of the database; None to show the trials nowhere.
            seed: Seed of all proposals.
            rungs: Chunks after which trials are scored; the last one ends the longest (see `pruning.rung_chunks`).
            num_rows: Validation rows; 0 if every rung scores the same.
            fixed: Values of the keys outside the space, and of dimensions that a recipe leaves out.
            metric: Name of the objective, for people who look at the database.
            majority: Score of always predicting the commonest label at each rung; empty if that has no meaning.
            portfolio: What to propose after the recipes (`StudyRecord.portfolio`).

        Raises:
            ConfigError: A setting is wrong, or the database cannot be opened.
            SweepMismatch: The study was started with another space or direction.
        """
        maximize = direction == "maximize"
        proposer = Proposer(
            space, settings, seed=seed, fixed=fixed or {}, maximize=maximize, portfolio=portfolio, rungs=rungs
        )
        directions = {metric: direction, **({settings.cost: "minimize"} if proposer.has_cost else {})}
        database: StudyView = NullView()
        if storage_url is not None:
            database = StudyDatabase.open(name, space, directions=directions, url=storage_url)
        return cls(
            name,
            database,
            proposer,
            settings=settings,
            rungs=rungs,
            maximize=maximize,
            num_rows=num_rows,
            majority=majority,
        )

    def __enter__(self) -> Search:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.publish()
            self.close()
            return
        try:
            self.close()
        except (StorageDown, DiskFull) as error:
            logger.warning("%s: %s", self._name, error)  # must not replace the error that ends the block

    def close(self) -> None:
        """Write what was published to the database, and close it.

        Raises:
            StorageDown: The database failed.
            DiskFull: Its disk has no space left.
        """
        self._writer.close()
        self._database.close()
        self._writer.check()

    @property
    def num_recipes(self) -> int:
        """Number of recipes in the space, which are the first proposals."""
        return self._proposer.num_recipes

    @property
    def is_exhausted(self) -> bool:
        """Whether every configuration of a grid was proposed; always false for other samplers."""
        size = self._proposer.size
        return size is not None and len(self._mirror) >= size

    def ask(self) -> Proposal:
        """Propose the next configuration; its trial counts as running until `tell`.

        Raises:
            SweeperError: Every configuration of the grid was proposed.
            StorageDown: The database failed. The same from `report` and `tell`.
        """
        self._writer.check()
        if self.is_exhausted:
            size = self._proposer.size
            raise SweeperError(f"{self._name}: all {size} configurations of the grid were proposed")
        proposal = self._proposer.propose(self._mirror)
        self._start(proposal.number, proposal.params, proposal.origin, proposal.notes)
        return proposal

    def report(
        self,
        number: int,
        *,
        chunk: int,
        value: float,
        loss: float = math.inf,
        costs: Mapping[str, float] | None = None,
    ) -> Decision:
        """Report the objective of a trial at a rung. The same rung reported again gets the same answer.

        That includes a rung whose decision an earlier session recorded, and a trial that has ended since.

        Args:
            number: The trial.
            chunk: Chunks completed.
            value: The objective. A trial whose value is not finite is pruned.
            loss: The validation loss, by which trials with equal objectives are compared; infinite if unknown.
            costs: Its costs so far by name (`sweeper.figures.pareto.rung_costs`); only ``search.cost`` is read.

        Returns:
            Whether the trial continues. The default recipe is never pruned, since all trials are compared with it; nor
            is a trial at its last rung, which is complete.
        """
        self._writer.check()
        trial = self._mirror.trials[number]
        self._score(number, chunk, value, loss, costs)
        decided_chunk, decision = self._decisions.get(number, (0, Decision.CONTINUE))
        if chunk > decided_chunk and not trial.state.is_finished():
            decided_chunk, decision = chunk, self._decide(trial, chunk, value)
            self._decisions[number] = decided_chunk, decision
        return decision if chunk == decided_chunk else Decision.CONTINUE

    def tell(
        self, number: int, *, state: TrialState, value: float | None = None, finished_at: datetime | None = None
    ) -> None:
        """Record how a trial ended. A trial that has already finished is not changed.

        Args:
            number: The trial.
            state: How it ended.
            value: The objective of a complete trial.
            finished_at: When it ended, UTC-aware; now if None. CMA-ES depends on the order in which trials ended.

        Raises:
            ValueError: The state is not final, or a complete trial has no finite value.
        """
        self._writer.check()
        if not state.is_finished:
            raise ValueError(f"trial {number}: state={state} is not a final state")
        if state is TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"trial {number}: a complete trial needs a finite value, not {value}")
        self._finish(number, state, value, finished_at)

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Build the trials in memory from the store, once before the first proposal, and update the database.

        The database gets the trials, rungs and endings that it lacks, and what contradicts the store is replaced in it:
        after a loss of power, it may be older than the store or have part of a configuration. A number that the store
        does not know, because a record was lost or an earlier version wrote the database first, is used up: its trial
        counts as failed.

        Args:
            records: All trials of the study in the store.
            value_of: The objective of a record at its latest rung, e.g. `StudyRecord.value`.

        Raises:
            StoreError: A trial has another whole configuration in the database than in the store.
            StorageDown: The database failed.
        """
        searched = {record.spec.number: record for record in records if record.spec.phase is Phase.SEARCH}
        for number in range(max(max(searched, default=-1) + 1, self._database.num_trials)):
            if number in searched:
                self._restore(searched[number])
            else:
                logger.warning("%s: trial %d has no record and counts as failed", self._name, number)
                self._mirror.add_lost()
        for _, record in sorted(searched.items()):
            self._restore_scores(record, value_of)
        for number, record in sorted(searched.items()):
            if record.state.is_finished:
                self._finish(number, record.state, value_of(record), _moment(record.finished_at))
        trials = self._mirror.take_changes()
        self._database.discard_stale([trial for trial in trials if trial.number in searched])
        self._database.update(trials)

    def publish(self) -> None:
        """Let the thread write all changes to the database. To call once the store has them."""
        self._writer.put(self._mirror.take_changes())

    def _decide(self, trial: optuna.trial.FrozenTrial, chunk: int, value: float) -> Decision:
        if chunk >= self._num_chunks[trial.number]:
            return Decision.CONTINUE
        is_default = trial.user_attrs.get("origin") == self._proposer.default_origin
        prunes = not math.isfinite(value) or (not is_default and self._pruner.should_prune(trial.number, chunk))
        return Decision.STOP if prunes else Decision.CONTINUE

    def _start(
        self,
        number: int,
        params: Mapping[str, ParamValue],
        origin: str,
        notes: Mapping[str, object],
        started_at: datetime | None = None,
    ) -> None:
        attributes = {"origin": origin, "seed": trial_seed(self._proposer.seed, number), **notes}
        self._mirror.start(params, attributes, started_at)
        self._num_chunks[number] = trial_chunks(self._length, int(params.get(EPOCHS, 0)))
        self._pruner.start(number, self._num_chunks[number])

    def _score(self, number: int, chunk: int, value: float, loss: float, costs: Mapping[str, float] | None) -> None:
        trial = self._mirror.trials[number]
        if math.isfinite(value) and chunk not in trial.intermediate_values and not trial.state.is_finished():
            cost = 0.0 if self._cost == "none" else (costs or {})[self._cost]
            self._mirror.score(number, chunk, value, cost)
            self._pruner.record(number, chunk, value, loss=loss, cost=cost)

    def _finish(self, number: int, state: TrialState, value: float | None, finished_at: datetime | None) -> None:
        trial = self._mirror.trials[number]
        if trial.state.is_finished():
            return
        self._mirror.finish(number, state, value, finished_at)
        if state in (TrialState.COMPLETE, TrialState.INFEASIBLE):
            self._pruner.complete(number)
        if state is not TrialState.PRUNED:
            self._decisions.pop(number, None)

    def _restore(self, record: TrialRecord) -> None:
        spec = record.spec
        self._start(spec.number, spec.params, spec.origin, record.notes, _moment(record.started_at))
        if record.state is TrialState.PRUNED:
            self._decisions[spec.number] = record.chunks_done, Decision.STOP
        elif record.decided_chunk:
            self._decisions[spec.number] = record.decided_chunk, Decision.CONTINUE

    def _restore_scores(self, record: TrialRecord, value_of: Callable[[TrialRecord], float | None]) -> None:
        for index, measurement in enumerate(record.measurements):
            if measurement.is_rung:
                earlier = dataclasses.replace(record, measurements=record.measurements[: index + 1])
                value = value_of(earlier)
                if value is not None:
                    costs = rung_costs(earlier)
                    self._score(record.spec.number, measurement.chunk, value, measurement.validation_loss, costs)


def _moment(text: str) -> datetime | None:
    """Return a time of a record, UTC-aware; None if it has none."""
    return datetime.fromisoformat(text) if text else None

"""Planted bugs, one at a time: each must be caught, by name, by the suite that claims to find its kind.

A fault test that cannot fail proves nothing. Each function plants one bug in the present process by replacing a part of
the product; its docstring says what the bug is. `mutation` runs the suites with each of them. What no fault test can
see, such as what training does when memory runs out, a named test of the product must see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

from sweeper.types import Checkpoint, Failure, StudyRecord, TrialRecord, TrialState

__all__ = ["MUTANTS", "MUTANT_VARIABLE", "Mutant", "plant"]

MUTANT_VARIABLE = "SWEEPER_CHAOS_MUTANT"
"""Environment variable that names the planted bug of a controller that is not forked."""


_Plant = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug."""

    plant: _Plant
    suite: str
    """The suite that must find it."""
    rules: tuple[str, ...]
    """The names of complaints, one of which must appear; for the suite ``tests`` the names of tests that must fail."""
    events: tuple[str, ...] = ()
    """For the suite ``sweep``: the events without which the bug does nothing."""
    file: str = ""
    """For the suite ``tests``: the file of the test."""

    @property
    def description(self) -> str:
        """What the bug is."""
        return (self.plant.__doc__ or "").strip().rstrip(".")


MUTANTS: dict[str, Mutant] = {}
"""All planted bugs, by name."""


def plant(name: str) -> None:
    """Plant a bug in this process."""
    MUTANTS[name].plant()


def _caught(suite: str, *rules: str, events: tuple[str, ...] = ()) -> Callable[[_Plant], _Plant]:
    """Register a bug, the suite that must find it, the names of the complaints that count, and the events it needs."""

    def register(function: _Plant) -> _Plant:
        MUTANTS[function.__name__] = Mutant(plant=function, suite=suite, rules=rules, events=events)
        return function

    return register


def _caught_by_test(file: str, test: str) -> Callable[[_Plant], _Plant]:
    """Register a bug that a test of the product must find."""

    def register(function: _Plant) -> _Plant:
        MUTANTS[function.__name__] = Mutant(plant=function, suite="tests", rules=(test,), file=file)
        return function

    return register


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what ``make`` returns for the original."""
    setattr(owner, name, make(getattr(owner, name)))


@_caught("power_cuts", "not-durable")
def no_flush() -> None:
    """Files are renamed into place without being flushed to the disk first."""
    import sweeper.disk.atomic

    class _Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, number: int) -> None:
            """Do nothing."""

    setattr(sweeper.disk.atomic, "os", _Os())  # noqa: B010 - mypy rejects the plain assignment


@_caught("power_cuts", "not-durable")
def no_folder_flush() -> None:
    """Files are flushed, but the folder that has their names is not."""
    import sweeper.disk.atomic

    _replace(sweeper.disk.atomic, "sync_folder", lambda _original: lambda _folder: None)


@_caught("sweep", "best-follows")
def worst_is_best() -> None:
    """The worst complete trial is reported as the best."""
    import sweeper.analysis.best
    from sweeper.figures.ranking import rank_trials

    def worst(study: StudyRecord, trials: Collection[TrialRecord]) -> TrialRecord | None:
        return next(iter(reversed(rank_trials(study, trials))), None)

    for name, replacement in (("best_trial", worst), ("rank_trials", lambda *a: list(reversed(rank_trials(*a))))):
        if hasattr(sweeper.analysis.best, name):
            setattr(sweeper.analysis.best, name, replacement)


@_caught("sweep", "best-follows", events=("terminate",))
def stale_report() -> None:
    """A report that exists is not written again."""
    import sweeper.analysis.report

    def once(write: Any) -> Any:
        return lambda store, **more: None if store.paths.best.exists() else write(store, **more)

    _replace(sweeper.analysis.report, "write_reports", once)


@_caught("sweep", "adapter-own")
def one_adapter_for_all() -> None:
    """Every trial is saved with the first trial's adapter."""
    from sweeper.control.trial_records import TrialRecords

    first: dict[str, Mapping[str, bytes]] = {}

    def keep(original: Any) -> Any:
        def replaced(self: TrialRecords, trial: TrialRecord, files: Mapping[str, bytes]) -> None:
            original(self, trial, first.setdefault("files", files))

        return replaced

    _replace(TrialRecords, "keep_adapter", keep)


@_caught("sweep", "curves-sent")
def no_curves() -> None:
    """No curves are sent to MLflow."""
    import sweeper.track.mlflow_view

    sweeper.track.mlflow_view.points_after = lambda *_: []


@_caught("sweep", "curves-sent", events=("terminate", "kill_controller", "terminate"))
def curves_end_at_a_restart() -> None:
    """A later session sends no points of a run that an earlier one began."""
    import sweeper.track.mlflow_runs

    def known(original: Any) -> Any:
        return lambda run: dataclasses.replace(original(run), chunk=10**6)

    _replace(sweeper.track.mlflow_runs._KnownRun, "of", known)


@_caught("sweep", "other-losses", events=("kill_worker", "kill_controller", "kill_worker"))
def moments_are_forgotten() -> None:
    """A trial that continues from a checkpoint starts with empty moments of AdamW."""
    from sweeper.train.lane import Lane

    def admit(original: Any) -> Any:
        def replaced(*arguments: Any, **more: Any) -> Lane:
            lane: Lane = original(*arguments, **more)
            lane.moment1.zero_()
            lane.moment2.zero_()
            return lane

        return replaced

    _replace(Lane, "admit", admit)


@_caught("simulator", "no-charge-without-work")
def charged_twice() -> None:
    """Every chunk is charged twice."""
    from sweeper.store.ledger import Ledger

    _replace(Ledger, "charge", lambda original: lambda self, cost: original(self, cost + cost))


@_caught("simulator", "no-work-without-charge")
def lost_chunks_are_free() -> None:
    """A chunk that is lost with its worker is not charged to the budget."""
    from sweeper.control.worker_recovery import WorkerRecovery

    def free(original: Any) -> Any:
        def replaced(self: WorkerRecovery, slot: Any, failure: Failure, _elapsed_s: float, **more: Any) -> str:
            return original(self, slot, failure, 0.0, **more)  # type: ignore[no-any-return]

        return replaced

    _replace(WorkerRecovery, "worker_lost", free)


@_caught("simulator", "ends-once", "no-repeat")
def a_finished_trial_trains_again() -> None:
    """After a restart, the first complete trial is queued again."""
    from sweeper.control.study_run import StudyRun

    def resume(original: Any) -> Any:
        def replaced(self: StudyRun) -> None:
            original(self)
            complete = [n for n, trial in self.trials.items() if trial.state is TrialState.COMPLETE]
            for number in complete[:1]:
                self._queue.add(number)

        return replaced

    _replace(StudyRun, "_resume", resume)


@_caught("simulator", "retry-used")
def no_second_retry() -> None:
    """A trial that fails for the second time is given up, although retries are left."""
    import sweeper.control.study_run

    def after(original: Any) -> Any:
        def replaced(trial: TrialRecord, failure: Failure, max_retries: int) -> TrialRecord:
            return original(trial, failure, min(max_retries, 1))  # type: ignore[no-any-return]

        return replaced

    _replace(sweeper.control.study_run, "after_failure", after)


@_caught("simulator", "retry-used", "ends-once")
def a_retry_is_lost() -> None:
    """A trial that is to be retried is not put back into the queue."""
    from sweeper.control.trial_queue import TrialQueue

    def add(original: Any) -> Any:
        def replaced(self: TrialQueue, number: int, *, wait_s: float = 0.0, **more: Any) -> None:
            if not wait_s:
                original(self, number, wait_s=wait_s, **more)

        return replaced

    _replace(TrialQueue, "add", add)


@_caught("simulator", "decision-follows")
def best_are_pruned() -> None:
    """Pruning compares in the wrong direction, so the best trials are stopped."""
    import sweeper.search.study

    def flipped(original: Any) -> Any:
        return lambda settings, *, maximize, **more: original(settings, maximize=not maximize, **more)

    _replace(sweeper.search.study, "make_pruner", flipped)


@_caught("simulator", "decision-acted")
def pruned_trials_go_on() -> None:
    """The decision to stop a trial is not acted on."""
    from sweeper.control.search_client import SearchClient
    from sweeper.types import Decision

    def decide(original: Any) -> Any:
        return lambda self, trial: None if original(self, trial) is None else Decision.CONTINUE

    _replace(SearchClient, "decide", decide)


@_caught("simulator", "budget")
def one_trial_too_many() -> None:
    """A trial more than the budget allows is started."""
    from sweeper.control.study_run import StudyRun

    def to_start(original: property) -> property:
        assert original.fget is not None
        get = original.fget

        def count(self: StudyRun) -> int:
            self._num_trials += 1
            try:
                return int(get(self))
            finally:
                self._num_trials -= 1

        return property(count)

    _replace(StudyRun, "num_to_start", to_start)


@_caught("simulator", "checkpoint-chain", "order", "no-repeat")
def record_before_checkpoint() -> None:
    """The record of a chunk is written before its checkpoint, so a kill in between leaves a record without one."""
    from sweeper.store.trials import TrialStore

    def write(original: Any) -> Any:
        def replaced(self: TrialStore, record: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
            original(self, record)
            if checkpoint is not None:
                original(self, record, checkpoint)

        return replaced

    _replace(TrialStore, "write_trial", write)


@_caught("simulator", "proposal-kept")
def another_proposal_is_trained() -> None:
    """A trial trains with another learning rate than the one that was proposed."""
    from sweeper.types import TrialTemplate

    def spec(original: Any) -> Any:
        def replaced(self: TrialTemplate, number: int, params: Mapping[str, Any], origin: str) -> Any:
            key = "train.learning_rate"
            changed = {**params, key: float(params[key]) * 2} if key in params else params
            return original(self, number, changed, origin)

        return replaced

    _replace(TrialTemplate, "spec", spec)


@_caught("sweep", "one-controller", "left-work", "order", "checkpoint-chain", events=("start_a_second",))
def no_lock() -> None:
    """A second command runs the same sweep at the same time."""
    import sweeper.sweep.run

    @contextlib.contextmanager
    def nothing(_store: Any) -> Iterator[None]:
        yield

    setattr(sweeper.sweep.run, "hold", nothing)  # noqa: B010


@_caught("sweep", "other-losses", "adapter-own", events=("edit_data",))
def rows_are_read_again() -> None:
    """A worker reads the data file again, which may have other rows by now."""
    import sweeper.train.worker
    from sweeper.config.settings import DatasetSettings
    from sweeper.data import prepare_splits
    from sweeper.data.base import TokenisedSplits
    from sweeper.data.tokens import as_tokenised, make_tokens
    from sweeper.types import RowsRef

    folder = Path.cwd()  # of the sweep, where its rows are

    def read_again(_original: Any) -> Any:
        def replaced(ref: RowsRef, *, cache: Path, model_dir: Path, trust_remote_code: bool) -> TokenisedSplits:
            sizes: dict[str, Any] = {"train_rows": 48, "validation_rows": 30, "test_rows": 30}
            settings = DatasetSettings(source="files", name=ref.dataset, path=str(folder / "rows.jsonl"), **sizes)
            splits = prepare_splits(settings, cache=cache)
            return as_tokenised(
                make_tokens(
                    splits,
                    model_dir,
                    ref.max_length,
                    trust_remote_code=trust_remote_code,
                    chat=ref.chat,
                    loss_on=ref.loss_on,
                )
            )

        return replaced

    _replace(sweeper.train.worker, "open_rows", read_again)


@_caught("reconcile", "changed-trial", "differing-trial", "lost-trial")
def repair_resets_trials() -> None:
    """`sweeper reconcile` resets a complete trial whose adapter has no copy, and so erases its scores."""
    from sweeper.recovery.repair import Repair, TrialRepair
    from sweeper.types import TrialRecord

    def plan(_original: Any) -> Any:
        def replaced(self: TrialRepair, number: int) -> Repair:
            record = self.store.read_trial(self.study, number)
            again = TrialRecord(spec=record.spec, started_at=record.started_at)
            return Repair("restarted", lambda: self.store.write_trial(again))

        return replaced

    _replace(TrialRepair, "_plan_adapter", plan)


@_caught("simulator", "order")
def tracker_is_told_before_the_store() -> None:
    """MLflow gets the end of a trial before the store has it."""
    from sweeper.control.trial_records import TrialRecords

    def finish(original: Any) -> Any:
        def replaced(self: TrialRecords, trial: TrialRecord, state: TrialState) -> TrialRecord:
            finished = dataclasses.replace(trial, state=state, finished_at=trial.started_at, checkpoints={})
            self._show(finished)
            return original(self, trial, state)  # type: ignore[no-any-return]

        return replaced

    _replace(TrialRecords, "finish", finish)


# Large checkpoints.


@_caught("simulator", "checkpoint-chain")
def rungs_are_not_saved() -> None:
    """A trial with a large checkpoint is not saved at its rungs, only by time."""
    from sweeper.train.checkpoints import CheckpointWriter

    def due(original: Any) -> Any:
        return lambda self, number, tensors, **_: original(self, number, tensors, is_scored=False)

    _replace(CheckpointWriter, "is_due", due)


@_caught("simulator", "no-repeat")
def a_checkpoint_in_use_is_removed() -> None:
    """After a chunk without a checkpoint, the one from which the trial would continue is removed."""
    from sweeper.store.trials import TrialStore

    def write(original: Any) -> Any:
        def replaced(self: TrialStore, record: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
            original(self, record, checkpoint)
            paths = self.paths.trial(record.spec.study, record.spec.number)
            for path in set(paths.checkpoints()) - {paths.checkpoint(record.chunks_done)}:
                path.unlink()

        return replaced

    _replace(TrialStore, "write_trial", write)


@_caught("simulator", "left-over")
def what_a_kill_leaves_stays() -> None:
    """Large checkpoints that a kill left without a record are never removed."""
    from sweeper.store.trials import TrialStore
    from sweeper.train.checkpoints import CheckpointWriter

    def open_folder(_original: Any) -> Any:
        def replaced(self: CheckpointWriter, folder: Path | None) -> None:
            self._folder, self._saved = folder, {}

        return replaced

    _replace(CheckpointWriter, "open", open_folder)
    _replace(TrialStore, "drop_incoming", lambda _original: lambda _self, _study: None)


@_caught("simulator", "checkpoint-chain")
def unsaved_chunks_are_not_repeated() -> None:
    """A trial continues from its last checkpoint as if the chunks since then were in it."""
    import sweeper.control.resume

    def rewind(original: Any) -> Any:
        return lambda trial, chunk: trial if chunk == trial.chunks_saved else original(trial, chunk)

    _replace(sweeper.control.resume, "rewind", rewind)


@_caught_by_test("disk/test_power_failure.py", "test_a_file_that_is_named_by_its_content_is_flushed_but_not_its_name")
def a_checksum_is_sent_before_the_flush() -> None:
    """A worker sends the checksum of a large checkpoint that is not flushed yet."""
    import sweeper.disk.atomic

    class _Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, number: int) -> None:
            """Flush all files but these."""
            if sys._getframe(1).f_code.co_name != "write_by_content":
                os.fsync(number)

    setattr(sweeper.disk.atomic, "os", _Os())  # noqa: B010


@_caught_by_test("train/test_checkpoints.py", "test_a_file_that_is_not_the_one_that_was_written_is_named")
def a_checkpoint_is_not_verified() -> None:
    """A worker continues from a large checkpoint without comparing its checksum."""
    import sweeper.train.checkpoints

    _replace(sweeper.train.checkpoints, "file_checksum", lambda _original: lambda _path: ANY)


@_caught_by_test("control/test_large_checkpoints.py", "test_a_file_that_is_gone_or_too_short_is_no_checkpoint")
def a_file_need_not_be_there() -> None:
    """The controller records a large checkpoint without looking whether its file is there and complete."""
    from sweeper.store.trials import TrialStore

    _replace(TrialStore, "has_file", lambda _original: lambda _self, _checkpoint: True)


@_caught_by_test(
    "control/test_large_checkpoints.py",
    "test_a_session_that_is_stopped_saves_its_trials_so_that_nothing_is_repeated",
)
def a_stopped_session_saves_nothing() -> None:
    """Trials that leave their pack between two checkpoints are not saved."""
    from sweeper.control.study_run import StudyRun

    _replace(StudyRun, "unsaved", lambda _original: lambda _self, _numbers: ())


# Memory.


@_caught_by_test("train/test_float16.py", "test_a_trial_that_was_interrupted_continues_with_its_scale")
def a_loss_scale_is_not_saved() -> None:
    """The loss scale of a lane in float16 is not in its checkpoint."""
    from sweeper.train.lane import Lane

    def state(original: Any) -> Any:
        return lambda self: {name: each for name, each in original(self).items() if name != "loss_scale"}

    _replace(Lane, "state", state)


@_caught_by_test(
    "train/test_float16.py",
    "test_a_lane_that_overflows_skips_its_steps_and_leaves_the_others_bit_identical",
)
def an_overflow_is_everybodys() -> None:
    """When a gradient of one lane overflows, the loss scales of its whole bucket are halved."""
    from sweeper.train.loss_scale import LaneScales

    def update(original: Any) -> Any:
        def replaced(self: LaneScales, _lane: int, overflow: Any) -> None:
            for lane in range(len(self.scale_k)):
                original(self, lane, overflow)

        return replaced

    _replace(LaneScales, "update", update)


@_caught_by_test(
    "train/test_out_of_memory.py",
    "test_a_lane_too_large_alone_is_trained_in_smaller_passes_and_ends_the_same",
)
def smaller_passes_are_a_smaller_batch() -> None:
    """When memory runs out, only the rows that fit into the first pass are trained: the effective batch shrinks."""
    from sweeper.train.pack import Pack

    def batches(original: Any) -> Any:
        def replaced(*args: Any) -> Iterator[Any]:
            found = original(*args)
            return itertools.islice(found, 1) if args[-1] else found

        return replaced

    _replace(Pack, "_batches", batches)


@_caught_by_test("train/test_out_of_memory.py", "test_lanes_trained_in_parts_for_lack_of_memory_end_as_together")
def a_halved_pack_halves_the_batch() -> None:
    """When memory runs out for several lanes, each half of them trains on every second row, twice."""
    from sweeper.train.out_of_memory import OutOfMemoryFallback
    from sweeper.train.pack import Pack

    together: list[int] = []

    def run(original: Any) -> Any:
        def replaced(self: OutOfMemoryFallback, lanes: Any, *args: Any, **more: Any) -> Any:
            together[:] = [len(lanes)]
            return original(self, lanes, *args, **more)

        return replaced

    def batches(original: Any) -> Any:
        def replaced(self: Pack, rows: Any, index: int, order_KB: Any, tokens_per_pass: int) -> Iterator[Any]:
            # A row takes the place of its neighbour, which is of a similar length.
            every_second = [row - row % 2 for row in range(order_KB.shape[1])]
            order_KB = order_KB[:, every_second] if len(order_KB) < together[0] else order_KB
            return original(self, rows, index, order_KB, tokens_per_pass)  # type: ignore[no-any-return]

        return replaced

    _replace(OutOfMemoryFallback, "run", run)
    _replace(Pack, "_batches", batches)


@_caught_by_test("train/test_passes.py", "test_a_budget_for_all_lanes_changes_no_trial")
def tokens_are_those_of_one_lane() -> None:
    """The tokens of a pass are counted without its number of lanes."""
    import sweeper.figures.passes

    def most(original: Any) -> Any:
        return lambda num_rows, length, _lanes, tokens: original(num_rows, length, 1, tokens)

    _replace(sweeper.figures.passes, "_most_rows", most)


@_caught_by_test("train/test_passes.py", "test_in_smaller_passes_it_sees_the_same_dropout_masks")
def every_pass_has_the_first_mask() -> None:
    """Each part of a micro-batch gets the dropout masks of the first rows, so they depend on the memory."""
    from sweeper.train.dropout import LaneDropout

    def start(original: Any) -> Any:
        return lambda self, number, _first_row, num_rows: original(self, number, 0, num_rows)

    _replace(LaneDropout, "start", start)


@_caught_by_test(
    "train/test_lane_choice.py",
    "test_memory_is_measured_on_the_longest_rows_and_the_largest_rank_and_speed_on_typical_ones",
)
def lanes_are_chosen_by_typical_rows() -> None:
    """The memory for ``executor.lanes=auto`` is measured on typical rows, so the longest do not fit."""
    import sweeper.train.lane_choice

    def choose(original: Any) -> Any:
        return lambda *args, typical, largest, **more: original(  # noqa: ARG005
            *args, typical=typical, largest=typical, **more
        )

    _replace(sweeper.train.lane_choice, "choose_lanes", choose)

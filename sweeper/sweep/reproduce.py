"""Trains one trial of a sweep again, alone, and compares losses and scores with the recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SweepSettings
from sweeper.config.trust import check_remote_code
from sweeper.display.downloads import fetch_progress
from sweeper.errors import StoreError, SweeperError
from sweeper.execute import choose_devices
from sweeper.execute.base import StudyOpened, WorkerSetup
from sweeper.fetch.progress import Progress
from sweeper.figures.comparison import standard_error
from sweeper.store.discovery import find_sweep
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import StudyPlan, check_content, pinned_plan, plan_model, plan_study, plan_weights
from sweeper.train import make_worker
from sweeper.types import (
    AdapterFiles,
    Admission,
    ChunkReport,
    ChunkRequest,
    Cost,
    Measurement,
    StudyRecord,
    TrialRecord,
)

__all__ = ["Reproduction", "reproduce_trial", "train_again"]

_MAX_LOSS_DIFFERENCE = 0.05
"""Relative, of a chunk's mean training loss. In float32 it is below 1e-4. In bfloat16 the rounding of a product changes
with its number of rows, so the same trial alone and in a pack drift apart a little."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A recorded trial, and the result of training it again."""

    study: StudyRecord
    recorded: TrialRecord
    measurements: tuple[Measurement, ...]
    initial_hash: str
    cost: Cost
    adapter: AdapterFiles
    """The adapter of the last chunk; empty if the trial is not complete."""
    outcomes: Mapping[int, bytes]
    """Row outcomes of every rung, by chunk."""

    @property
    def is_same_start(self) -> bool:
        """Whether both started from the same adapter."""
        return self.initial_hash == self.recorded.initial_hash

    @property
    def loss_difference(self) -> float:
        """Largest relative difference of a chunk's training loss."""
        pairs = zip(self.recorded.measurements, self.measurements, strict=True)
        losses = [(one.metrics["train/loss"], other.metrics["train/loss"]) for one, other in pairs]
        return max(abs(one - other) / max(abs(one), 0.1) for one, other in losses)

    @property
    def score_difference(self) -> float:
        """Largest difference of the objective at a rung."""
        return max((abs(one - other) for _, one, other in self.rungs), default=0.0)

    @property
    def rungs(self) -> list[tuple[int, float, float]]:
        """Chunk, recorded objective and new objective of every rung."""
        metric = self.study.metric
        pairs = zip(self.recorded.measurements, self.measurements, strict=True)
        return [(a.chunk, a.metrics[metric], b.metrics[metric]) for a, b in pairs if a.is_rung]

    @property
    def is_reproduced(self) -> bool:
        """Whether initial adapters are equal, and losses and scores agree within rounding."""
        value = self.study.value(self.recorded)
        error = standard_error(self.study, value) or _MAX_LOSS_DIFFERENCE
        return self.is_same_start and self.loss_difference <= _MAX_LOSS_DIFFERENCE and self.score_difference <= error


def reproduce_trial(trial: str, *, outputs: Path, console: Console) -> bool:
    """Train a trial again and print the comparison.

    Args:
        trial: The trial, as ``<sweep>/<study>/<trial>``.
        outputs: Folder of all sweeps.
        console: Where to print.

    Returns:
        Whether it was reproduced.

    Raises:
        SweeperError: There is no such trial, it has no measurement to compare with, or its rows have changed.
    """
    store, study, recorded = _find_trial(trial, outputs)
    settings = from_jsonable(SweepSettings, store.read_sweep()["settings"])
    result = train_again(study, recorded, settings, sweep=store.root.name, console=console)
    _print(result, console)
    return result.is_reproduced


def train_again(
    study: StudyRecord, recorded: TrialRecord, settings: SweepSettings, *, sweep: str, console: Console
) -> Reproduction:
    """Train a recorded trial again in this process, as far as it came; write nothing.

    Args:
        study: The trial's study.
        recorded: Its record.
        settings: Settings of the sweep.
        sweep: Its name.
        console: Where progress is printed.

    Raises:
        SweeperError: The rows have changed, or the training fails.
    """
    check_remote_code(settings.model, source="the sweep on disk")
    space = parse_space(study.space)
    console.print(f"Training trial {recorded.spec.number} of {study.name} again, alone: {recorded.chunks_done} chunks.")
    with fetch_progress(console) as progress:
        model_dir = plan_model(settings, progress)
        plan = _plan(SweepConfig(settings, space), study, model_dir=model_dir, progress=progress)
    check_content(study, plan.record, sweep=sweep, cache=Path(settings.cache))
    setup = WorkerSetup(
        model=settings.model,
        model_dir=model_dir,
        cache=Path(settings.cache).expanduser(),
        device=choose_devices(settings.executor).kind,
        threads=settings.executor.threads,
        tokens_per_pass=settings.executor.tokens_per_pass,
    )
    worker = make_worker(setup, 0)
    worker.start()
    opened = worker.answer(plan.resumed(study).opening)
    assert isinstance(opened, StudyOpened)  # noqa: S101  our own protocol
    reports = []
    for chunk in range(recorded.chunks_done):
        admit = (Admission(spec=recorded.spec),) if chunk == 0 else ()
        report = worker.answer(ChunkRequest(admit=admit))
        assert isinstance(report, ChunkReport)  # noqa: S101  our own protocol
        reports.append(report)
    return _compare(study, recorded, reports)


def _plan(config: SweepConfig, study: StudyRecord, *, model_dir: Path, progress: Progress) -> StudyPlan:
    """Return the plan with the rows that the sweep pinned; the dataset is read only if the cache has lost them."""
    model = plan_weights(config.settings, model_dir, progress)
    if pinned := pinned_plan(config, study, model=model):
        return pinned
    dataset = next(d for d in config.settings.dataset.values() if d.name == study.dataset)
    return plan_study(config, dataset, model_dir=model_dir, model=model, progress=progress)


def _find_trial(trial: str, outputs: Path) -> tuple[TrialStore, StudyRecord, TrialRecord]:
    parts = trial.strip("/").split("/")
    if len(parts) != 3 or not parts[2].isdigit():  # noqa: PLR2004  sweep, study, trial
        raise SweeperError(
            f"'{trial}' is not <sweep>/<study>/<trial>; see `sweeper status` and trials.csv for the names"
        )
    store = find_sweep(parts[0], outputs)
    names = [study.name for study in store.studies()]
    if parts[1] not in names:
        raise SweeperError(f"sweep {parts[0]} has no study '{parts[1]}'. Its studies: {', '.join(names)}.")
    try:
        recorded = store.read_trial(parts[1], int(parts[2]))
    except StoreError as error:
        raise SweeperError(f"study {parts[1]} has no trial {parts[2]}: {error}") from error
    if not recorded.measurements:
        raise SweeperError(f"trial {parts[2]} is {recorded.state} and has no measurement to compare with")
    return store, store.read_study(parts[1]), recorded


def _compare(study: StudyRecord, recorded: TrialRecord, reports: Sequence[ChunkReport]) -> Reproduction:
    number = recorded.spec.number
    for report in reports:
        if number in report.failures:
            raise SweeperError(f"trial {number} failed when it was trained again: {report.failures[number].message}")
    return Reproduction(
        study,
        recorded,
        measurements=tuple(report.measurements[number] for report in reports),
        initial_hash=reports[0].details[number]["initial_hash"],
        cost=sum((report.costs[number] for report in reports), Cost()),
        adapter=reports[-1].adapters.get(number, {}),
        outcomes={r.measurements[number].chunk: r.outcomes[number] for r in reports if number in r.outcomes},
    )


def _print(result: Reproduction, console: Console) -> None:
    table = Table("chunk", f"{result.study.metric}, recorded", "trained again", header_style="bold")
    for chunk, one, other in result.rungs:
        table.add_row(str(chunk), f"{one:.4f}", f"{other:.4f}")
    console.print(table)
    start = "the same" if result.is_same_start else "different"
    console.print(f"Initial adapter: {start}. Largest difference of a chunk's loss: {result.loss_difference:.2%}.")
    outcome = ("Reproduced.", "green") if result.is_reproduced else ("Not reproduced.", "bold red")
    console.print(Text.assemble(outcome))

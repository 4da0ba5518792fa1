"""A sweep from configuration to report: plan, search, report. `cli` and `sweeper.run` call it.

A sweep that is done is answered from its files, before any heavy library loads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeper.checks import fixed_values
from sweeper.config import SweepConfig, compose
from sweeper.controller import Controller
from sweeper.errors import SweepMismatch
from sweeper.execute import choose_devices, make_executor
from sweeper.execute.base import Executor, WorkerSetup
from sweeper.identity import check_identity, settings_to_keep, sweep_name
from sweeper.ledger import Ledger
from sweeper.lock import hold
from sweeper.logs import log_to
from sweeper.plan import StudyPlan, plan_model, plan_study, reference_recipe
from sweeper.progress import study_progress
from sweeper.provenance import collect
from sweeper.saved import find_sweep, progress_from_disk
from sweeper.settings import SweepSettings
from sweeper.signals import drain_on_signals
from sweeper.store import TrialStore
from sweeper.study_run import StudyRun
from sweeper.track import Tracker, make_tracker
from sweeper.train import make_worker
from sweeper.types import ParamValue, StudyRecord
from sweeper.view import LiveView, fetch_progress, final_view

if TYPE_CHECKING:
    from sweeper.search.study import Search

__all__ = [
    "SweepOutcome",
    "find_sweep",
    "open_search",
    "open_study_run",
    "open_tracker",
    "progress_from_disk",
    "run_sweep",
    "show_final",
    "storage_url",
    "sweep_name",
]

_CLOSE_S = 60.0
_CLOSE_DRAINED_S = 5.0


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a session of a sweep ended."""

    best: Mapping[str, Any]
    """What best.json holds."""
    sweep_dir: Path
    stopped_by: str = ""
    """Name of the signal that ended the session; empty if nothing is left to do."""


def run_sweep(
    overrides: Sequence[str], *, console: Console | None = None, config_dir: Path | None = None
) -> SweepOutcome:
    """Run, or go on with, the sweep that the overrides describe.

    Args:
        overrides: Hydra overrides.
        console: Where to show how it goes; standard output if None.
        config_dir: A folder with further YAML files, laid out like conf/.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    config = compose(overrides, config_dir=config_dir)
    shown = console or Console()
    settings = config.settings
    store = TrialStore(Path(settings.outputs) / sweep_name(settings))
    check_identity(store, settings)
    progress = progress_from_disk(store, budget=settings.budget.trials) if store.exists else []
    if len(progress) == len(settings.dataset) and all(study.is_done for study in progress):
        shown.print(f"Sweep {store.root.name} is done: all {settings.budget.trials} trials of each study were run.")
        shown.print("For more, raise the budget, e.g. budget.trials=" + str(2 * settings.budget.trials))
        outcome = SweepOutcome(_report(store, config), store.root)
    else:
        with hold(store), log_to(store.root / "sweep.log"):
            outcome = _run(config, store, shown)
    show_final(store, settings, shown)
    return outcome


def show_final(store: TrialStore, settings: SweepSettings, console: Console) -> None:
    """Print the final table of a sweep, from disk."""
    progress = progress_from_disk(store, budget=settings.budget.trials)
    has_ui = settings.tracker.name == "mlflow"
    is_checkout = Path(sys.prefix) == Path.cwd() / ".venv"
    command = "make ui" if is_checkout else "sweeper ui"
    if settings.outputs != "outputs":
        command = (
            f"make ui ARGS='outputs={settings.outputs}'" if is_checkout else f"sweeper ui outputs={settings.outputs}"
        )
    console.print(final_view(progress, sweep_dir=store.root, ui_command=command if has_ui else ""))


def _run(config: SweepConfig, store: TrialStore, console: Console) -> SweepOutcome:
    settings = config.settings
    devices = choose_devices(settings.executor)
    reference = reference_recipe(settings, config.space)
    plans, model_dir = _plan(config, store, console)
    with ExitStack() as stack:
        drain = stack.enter_context(drain_on_signals(settings.executor.drain_s))
        searches = [stack.enter_context(open_search(plan.record, config, store)) for plan in plans]
        _record(store, settings, plans)
        tracker = open_tracker(settings, store)
        runs = [
            open_study_run(plan.record, search, settings, store=store, tracker=tracker, reference=reference)
            for plan, search in zip(plans, searches, strict=True)
        ]
        view = stack.enter_context(LiveView(console))
        lanes = settings.executor.lanes
        how_many = "as many lanes as turn out fastest" if lanes == "auto" else f"{lanes} lanes each"
        view.log(f"Training on {devices.note}, {how_many}.")
        controller = Controller(
            {run.record.name: (run, plan.opening) for run, plan in zip(runs, plans, strict=True)},
            _executor(settings, store, model_dir=model_dir, device=devices.kind),
            ledger=Ledger(store.root / "ledger.json"),
            budget=settings.budget,
            lanes=1 if lanes == "auto" else int(lanes),
            drain=drain,
            on_change=_shower(view, runs, settings, num_workers=devices.num_workers),
        )
        try:
            controller.run()
        finally:
            _close(tracker, _CLOSE_DRAINED_S if drain else _CLOSE_S, view)
        if controller.stop_reason:
            view.log(f"Stopped: {controller.stop_reason}")
    if drain:
        console.print(f"Stopped by {drain.reason}: everything is saved, the same command goes on.")
    return SweepOutcome(_report(store, config), store.root, stopped_by=drain.reason)


def _plan(config: SweepConfig, store: TrialStore, console: Console) -> tuple[list[StudyPlan], Path]:
    """Fetch and check everything; studies that were begun keep the record they were begun with."""
    settings = config.settings
    with fetch_progress(console) as progress:
        model_dir = plan_model(settings, progress)
        datasets = settings.dataset.values()
        plans = [plan_study(config, dataset, model_dir=model_dir, progress=progress) for dataset in datasets]
    known = {study.name: study for study in store.studies()}
    for plan in plans:
        before = known.get(plan.record.name)
        if before is not None and before.fingerprint != plan.record.fingerprint:
            raise SweepMismatch(
                f"the rows of {plan.record.dataset} have changed since sweep {store.root.name} began. Trials on both "
                "would not compare: give the new sweep a name of its own, e.g. name=second"
            )
    return [StudyPlan(known.get(plan.record.name, plan.record), plan.opening) for plan in plans], model_dir


def _record(store: TrialStore, settings: SweepSettings, plans: Sequence[StudyPlan]) -> None:
    """Write down what was begun, once; only after every setting was found to be right, for it cannot change later."""
    if not store.exists:
        names = [plan.record.name for plan in plans]
        store.write_sweep({"settings": settings_to_keep(settings), "studies": names, "provenance": collect()})
    known = {study.name for study in store.studies()}
    for plan in plans:
        if plan.record.name not in known:
            store.write_study(plan.record)


def open_search(record: StudyRecord, config: SweepConfig, store: TrialStore) -> Search:
    """Open the search of a study, or begin it."""
    from sweeper.search.study import Search

    settings = config.settings
    return Search.open(
        f"{store.root.name}/{record.name}",
        config.space,
        settings.search,
        direction=record.direction,
        storage_url=storage_url(settings, store),
        seed=settings.seed,
        rungs=record.rungs,
        fixed=fixed_values(settings),
    )


def storage_url(settings: SweepSettings, store: TrialStore) -> str:
    """Return the address of the database of studies."""
    return settings.search.storage or f"sqlite:///{store.root / 'optuna.db'}"


def open_study_run(
    record: StudyRecord,
    search: Search,
    settings: SweepSettings,
    *,
    store: TrialStore,
    tracker: Tracker,
    reference: tuple[str, Mapping[str, ParamValue]] | None,
) -> StudyRun:
    """Take up a study: search and tracker are brought in line with the store."""
    run = StudyRun(
        record,
        search=search,
        store=store,
        tracker=tracker,
        fixed=fixed_values(settings),
        reference=reference,
        seed=settings.seed,
        num_trials=settings.budget.trials,
        max_retries=settings.executor.max_retries,
        keep_adapters=settings.store.keep_adapters,
    )
    run.show_all()
    return run


def _executor(settings: SweepSettings, store: TrialStore, *, model_dir: Path, device: str) -> Executor:
    setup = WorkerSetup(
        model=settings.model,
        model_dir=model_dir,
        cache=Path(settings.cache).expanduser(),
        device=device,
        threads=settings.executor.threads,
    )
    return make_executor(settings.executor, partial(make_worker, setup), logs=store.root / "logs")


def _shower(
    view: LiveView, runs: Sequence[StudyRun], settings: SweepSettings, *, num_workers: int
) -> Callable[[], None]:
    """Return what the controller calls to show how things are."""
    budget = settings.budget.trials
    default = settings.search.recipes[0].name if settings.search.recipes else ""

    def show() -> None:
        view.update(
            [
                study_progress(
                    run.record, run.trials.values(), budget=budget, wall_s=run.wall_s(num_workers), default=default
                )
                for run in runs
            ]
        )

    return show


def open_tracker(settings: SweepSettings, store: TrialStore) -> Tracker:
    """Return the tracker of the settings, with the sweep's tags."""
    tags = _tags(store.read_sweep()["provenance"])
    return make_tracker(settings.tracker, outputs=Path(settings.outputs), sweep=store.root.name, tags=tags)


def _close(tracker: Tracker, timeout_s: float, view: LiveView) -> None:
    missed = tracker.close(timeout_s).get("missed")
    if missed:
        view.log(f"{missed} trial(s) are not up to date in the tracker; the next run sends them again")


def _report(store: TrialStore, config: SweepConfig) -> Mapping[str, Any]:
    from analysis.report import write_reports

    paths = write_reports(store, space=config.space)
    best: Mapping[str, Any] = json.loads(paths["best.json"].read_text())
    return best


def _tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    git = provenance.get("git", {})
    versions = {name: version for name, version in provenance["libraries"].items() if name in ("torch", "peft")}
    return {"git": str(git.get("commit", ""))[:12], "sweeper": str(provenance["version"]), **versions}

"""A sweep from configuration to report: plan, search, report. `cli` and `sweeper.run` call it.

A sweep that is done is answered from its files, before any heavy library loads.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from sweeper.checks import fixed_values
from sweeper.config import SweepConfig, compose
from sweeper.controller import Controller, Drain
from sweeper.errors import SweeperError, SweepLocked, SweepMismatch
from sweeper.execute.base import OpenStudy, WorkerSetup
from sweeper.ledger import Ledger, utc_now
from sweeper.logs import log_to
from sweeper.plan import StudyPlan, plan_model, plan_study, reference_recipe
from sweeper.progress import StudyProgress, study_progress
from sweeper.provenance import collect, config_hash, redact_url
from sweeper.settings import SweepSettings
from sweeper.store import TrialStore
from sweeper.study_run import StudyRun
from sweeper.track import make_tracker
from sweeper.train import make_worker
from sweeper.view import LiveView, fetch_progress, final_view

__all__ = ["SweepOutcome", "find_sweep", "progress_from_disk", "run_sweep", "show_final", "sweep_name"]

log = logging.getLogger(__name__)
_CLOSE_S = 60.0
_CLOSE_DRAINED_S = 5.0
_NOT_IDENTITY = ("name", "outputs", "cache", "executor", "budget", "tracker")
"""Sections that no trial's result depends on, so they may change from one session of a sweep to the next."""


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a session of a sweep ended."""

    best: Mapping[str, Any]
    """What best.json holds."""
    sweep_dir: Path
    stopped_by: str = ""
    """Name of the signal that ended the session; empty if nothing is left to do."""


def run_sweep(overrides: Sequence[str], *, console: Console | None = None, config_dir: Path | None = None) -> SweepOutcome:
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
    _check_identity(store, settings)
    progress = progress_from_disk(store, budget=settings.budget.trials) if store.exists else []
    if len(progress) == len(settings.dataset) and all(study.is_done for study in progress):
        shown.print(f"Sweep {store.root.name} is done: all {settings.budget.trials} trials of each study were run.")
        shown.print("For more, raise the budget, e.g. budget.trials=" + str(2 * settings.budget.trials))
        outcome = SweepOutcome(_report(store, config), store.root)
    else:
        with _lock(store), log_to(store.root / "sweep.log"):
            outcome = _run(config, store, shown)
    show_final(store, settings, shown)
    return outcome


def sweep_name(settings: SweepSettings) -> str:
    """Return the sweep's name: the one set, or one made of datasets, model, space and a hash of the settings."""
    if settings.name:
        return settings.name
    datasets = "+".join(dataset.name for dataset in settings.dataset.values())
    return f"{datasets[:60]}-{settings.model.name}-{settings.space.name}-{config_hash(_identity(settings))[:6]}"


def progress_from_disk(store: TrialStore, *, budget: int) -> list[StudyProgress]:
    """Return how far the studies of a sweep are, as the store tells."""
    recipes = store.read_sweep()["settings"]["search"]["recipes"]
    default = recipes[0]["name"] if recipes else ""
    ledger = Ledger(store.root / "ledger.json")
    progress = []
    for study in store.studies():
        trials = store.trials(study.name)
        share = sum(trial.cost.device_s for trial in trials) / max(ledger.cost.device_s, 1e-9)
        wall_s = ledger.past_s * min(1.0, share)
        progress.append(study_progress(study, trials, budget=budget, wall_s=wall_s, default=default))
    return progress


def show_final(store: TrialStore, settings: SweepSettings, console: Console) -> None:
    """Print the final table of a sweep, from disk."""
    progress = progress_from_disk(store, budget=settings.budget.trials)
    has_ui = settings.tracker.name == "mlflow"
    command = "make ui" if settings.outputs == "outputs" else f"sweeper ui outputs={settings.outputs}"
    console.print(final_view(progress, sweep_dir=store.root, ui_command=command if has_ui else ""))


def _run(config: SweepConfig, store: TrialStore, console: Console) -> SweepOutcome:
    settings = config.settings
    plans, model_dir = _plan(config, store, console)
    with ExitStack() as stack:
        provenance = store.read_sweep()["provenance"]
        tracker = make_tracker(
            settings.tracker, outputs=Path(settings.outputs), sweep=store.root.name, tags=_tags(provenance)
        )
        drain = stack.enter_context(_drain_on_signals(settings.executor.drain_s))
        runs = {plan.record.name: (stack.enter_context(_opened(plan, config, store, tracker)), plan.opening) for plan in plans}
        for run, _ in runs.values():
            run.show_all()
        ledger = Ledger(store.root / "ledger.json")
        view = stack.enter_context(LiveView(console))
        stop_reason = _search(config, store, runs, ledger=ledger, drain=drain, model_dir=model_dir, view=view)
        counts = tracker.close(_CLOSE_DRAINED_S if drain else _CLOSE_S)
        if counts.get("missed"):
            view.log(f"{counts['missed']} trial(s) are not up to date in the tracker; the next run sends them again")
        if stop_reason:
            view.log(f"Stopped: {stop_reason}")
    if drain:
        console.print(f"Stopped by {drain.reason}: everything is saved, the same command goes on.")
    return SweepOutcome(_report(store, config), store.root, stopped_by=drain.reason)


def _plan(config: SweepConfig, store: TrialStore, console: Console) -> tuple[list[StudyPlan], Path]:
    """Fetch and check everything, then record the sweep and its studies."""
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
                f"the rows of {plan.record.dataset} have changed since this sweep began; give the sweep another name"
            )
    if not store.exists:
        names = [plan.record.name for plan in plans]
        store.write_sweep({"settings": _public(settings), "studies": names, "provenance": collect()})
    for plan in plans:
        if plan.record.name not in known:
            store.write_study(plan.record)
    return [StudyPlan(known.get(plan.record.name, plan.record), plan.opening) for plan in plans], model_dir


@contextmanager
def _opened(plan: StudyPlan, config: SweepConfig, store: TrialStore, tracker: Any) -> Iterator[StudyRun]:
    from sweeper.search.study import Search

    settings, record = config.settings, plan.record
    search = Search.open(
        f"{store.root.name}/{record.name}",
        config.space,
        settings.search,
        direction=record.direction,
        storage_url=settings.search.storage or f"sqlite:///{store.root / 'optuna.db'}",
        seed=settings.seed,
        rungs=record.rungs,
        fixed=fixed_values(settings),
    )
    with search:
        yield StudyRun(
            record,
            search=search,
            store=store,
            tracker=tracker,
            fixed=fixed_values(settings),
            reference=reference_recipe(settings, config.space),
            seed=settings.seed,
            num_trials=settings.budget.trials,
            max_retries=settings.executor.max_retries,
        )


def _search(
    config: SweepConfig,
    store: TrialStore,
    runs: Mapping[str, tuple[StudyRun, OpenStudy]],
    *,
    ledger: Ledger,
    drain: Drain,
    model_dir: Path,
    view: LiveView,
) -> str | None:
    """Run the controller; return why no more trials were started, if that was not the number of trials."""
    from sweeper.execute import choose_devices, make_executor

    settings = config.settings
    devices = choose_devices(settings.executor)
    view.log(f"Training on {devices.note}, {settings.executor.lanes} lanes each.")
    setup = WorkerSetup(
        model=settings.model,
        model_dir=model_dir,
        cache=Path(settings.cache).expanduser(),
        device=devices.kind,
        threads=settings.executor.threads,
    )
    executor = make_executor(settings.executor, partial(make_worker, setup), logs=store.root / "logs")
    default = settings.search.recipes[0].name if settings.search.recipes else ""

    def show() -> None:
        view.update(
            [
                study_progress(
                    run.record,
                    run.trials.values(),
                    budget=settings.budget.trials,
                    wall_s=run.wall_s(devices.num_workers),
                    default=default,
                )
                for run, _ in runs.values()
            ]
        )

    controller = Controller(
        runs,
        executor,
        ledger=ledger,
        budget=settings.budget,
        lanes=settings.executor.lanes,
        drain=drain,
        on_change=show,
    )
    controller.run()
    return controller.stop_reason


def _report(store: TrialStore, config: SweepConfig) -> Mapping[str, Any]:
    from analysis.report import write_reports

    paths = write_reports(store, space=config.space)
    best: Mapping[str, Any] = json.loads(paths["best.json"].read_text())
    return best


def _identity(settings: SweepSettings) -> dict[str, Any]:
    content = {k: v for k, v in asdict(settings).items() if k not in _NOT_IDENTITY}
    content["search"] = {k: v for k, v in content["search"].items() if k != "storage"}
    return content


def _public(settings: SweepSettings) -> dict[str, Any]:
    """Return the settings as they may be written down: without passwords."""
    content = asdict(settings)
    content["search"]["storage"] = redact_url(settings.search.storage)
    content["tracker"]["uri"] = redact_url(settings.tracker.uri)
    return content


def _check_identity(store: TrialStore, settings: SweepSettings) -> None:
    if not store.exists:
        return
    before = {k: v for k, v in store.read_sweep()["settings"].items() if k not in _NOT_IDENTITY}
    now = json.loads(json.dumps(_identity(settings)))
    before["search"].pop("storage", None)
    changed = sorted(_differences(before, now))
    if changed:
        raise SweepMismatch(
            f"sweep {store.root.name} was begun with other settings ({'; '.join(changed[:4])}). Trials of both would not "
            "compare: give the new one a name of its own, e.g. name=second"
        )


def _differences(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield f"{key}: {one} before, {other} now"


def _tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    git = provenance.get("git", {})
    versions = {name: version for name, version in provenance["libraries"].items() if name in ("torch", "peft")}
    return {"git": str(git.get("commit", ""))[:12], "sweeper": str(provenance["version"]), **versions}


@contextmanager
def _lock(store: TrialStore) -> Iterator[None]:
    """Hold the sweep for this process alone.

    Raises:
        SweepLocked: Another process holds it.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    holder = store.root / "holder.json"
    lock = FileLock(store.root / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        known = json.loads(holder.read_text()) if holder.exists() else {}
        who = f"process {known.get('pid', '?')} on {known.get('host', '?')} since {known.get('since', '?')}"
        raise SweepLocked(f"sweep {store.root.name} is being run by {who}; wait for it, or stop it first") from None
    try:
        now = {"pid": os.getpid(), "host": os.uname().nodename, "since": utc_now().isoformat(timespec="seconds")}
        store.write_text(holder.name, json.dumps(now))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _drain_on_signals(patience_s: float) -> Iterator[Drain]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop; the second stops at once."""
    drain = Drain()
    if threading.current_thread() is not threading.main_thread():
        yield drain
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if drain:
            raise KeyboardInterrupt
        drain.reason = signal.Signals(number).name
        drain.deadline_s = time.monotonic() + patience_s
        log.warning("%s: waiting up to %g s for running chunks", drain.reason, patience_s)

    before: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield drain
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find_sweep(name: str, outputs: Path) -> TrialStore:
    """Return a sweep by name, or the latest one if the name is empty.

    Raises:
        SweeperError: There is none.
    """
    sweeps = sorted(outputs.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    names = [path.parent.name for path in sweeps]
    if name and name in names:
        return TrialStore(outputs / name)
    if not name and names:
        return TrialStore(outputs / names[-1])
    known = f"There are: {', '.join(names)}." if names else f"There is none in {outputs}."
    raise SweeperError(f"there is no sweep '{name}'. {known}" if name else f"no sweep was run yet. {known}")

"""Runs a sweep: plan, search, report. `cli`, `jobs` and `sweeper.run` call it.

For a sweep that is already done, the result is read from its files before any heavy library is loaded.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeper.clock import Clock, utc_now
from sweeper.config.compose import SweepConfig, compose
from sweeper.config.settings import DEFAULT_OUTPUTS, SweepSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.control.controller import Controller
from sweeper.control.lane_limits import LaneLimits, choose_limits
from sweeper.control.shutdown import ShutdownRequest, shutdown_on_signals
from sweeper.control.watchdog import Watchdog
from sweeper.disk.atomic import make_folder
from sweeper.disk.space import check_space
from sweeper.display.console import print_line
from sweeper.display.downloads import fetch_progress
from sweeper.display.final_view import final_view
from sweeper.display.live_view import LiveView
from sweeper.display.progress import StudyProgress, progress_from_disk
from sweeper.errors import DiskError
from sweeper.execute import choose_devices
from sweeper.fetch.progress import Progress
from sweeper.figures.text import plural
from sweeper.figures.training_rows import cut_rows, proposal
from sweeper.store.damage import new_stamp
from sweeper.store.health import read_health
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.paths import OutputsPaths
from sweeper.store.sessions import SessionLog
from sweeper.store.trials import TrialStore
from sweeper.sweep.early_checks import check_before_start, split_files
from sweeper.sweep.factory import (
    keep_report,
    make_confirmation,
    open_executor,
    open_search,
    open_study_run,
    open_tracker,
)
from sweeper.sweep.identity import check_identity, sweep_name
from sweeper.sweep.log_file import log_to
from sweeper.sweep.measured_rates import keep_rates, known_rate
from sweeper.sweep.memory import return_large_blocks
from sweeper.sweep.model_kind import settled_by_disk, settled_by_model, settled_text
from sweeper.sweep.monitor import SweepMonitor
from sweeper.sweep.plan import StudyPlan, check_content, plan_model, plan_study, plan_weights, reference_recipes
from sweeper.sweep.reports import current_best, write_report
from sweeper.sweep.session_recorder import SessionRecorder
from sweeper.sweep.sweep_record import has_sweep_record, restore_sweep, write_sweep_record
from sweeper.sweep.warm_start import with_portfolios
from sweeper.sweep.window_wait import wait_for_window
from sweeper.track import Tracker

if TYPE_CHECKING:
    from sweeper.analysis.load import Sweep

__all__ = ["SweepOutcome", "run_config", "run_sweep"]

_EXIT_NOTHING_FOUND = 3
_CLOSE_S = 60.0
"""Time for the tracker to catch up after a session, and again to keep the report."""
_CLOSE_STOPPED_S = 5.0
"""The same after a signal or an error."""


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """Result of a session, and how it ended."""

    best: Mapping[str, Any]
    """Content of best.json."""
    sweep_dir: Path
    stopped_by: str = ""
    """Name of the signal that ended the session; empty without one."""
    reason: str = ""
    """Why the session ended although work is left; empty if nothing is left."""
    is_paused: bool = False
    """Whether only its window or a daily deadline ended it, so that a later session continues."""
    aborted: Mapping[str, str] = field(default_factory=dict)
    """Why studies were aborted, by name."""

    def load(self) -> Sweep:
        """Return the sweep as `sweeper.load` does; without trials if the session could not start it."""
        from sweeper.analysis.load import Sweep

        return Sweep(TrialStore(self.sweep_dir))

    @property
    def found_nothing(self) -> bool:
        """Whether a study was aborted and no study has a best trial."""
        return bool(self.aborted) and not any(study["best"] for study in self.best["studies"])

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 128 plus the signal's number after a signal, 3 if it found nothing, else 0."""
        if self.stopped_by:
            return 128 + signal.Signals[self.stopped_by]
        return _EXIT_NOTHING_FOUND if self.found_nothing else 0


def run_sweep(
    overrides: Sequence[str],
    *,
    console: Console | None = None,
    config_dir: Path | None = None,
    clock: Clock = utc_now,
) -> SweepOutcome:
    """Run or resume the sweep that the overrides describe.

    Args:
        overrides: Hydra overrides.
        console: Where progress is printed; standard output if None.
        config_dir: A folder with more YAML files, laid out like conf/.
        clock: The present time.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    return run_config(compose(overrides, config_dir=config_dir), console=console or Console(), clock=clock)


def run_config(config: SweepConfig, *, console: Console, clock: Clock = utc_now, searches: bool = True) -> SweepOutcome:
    """Run or resume a sweep.

    Args:
        config: Its configuration.
        console: Where progress is printed.
        clock: The present time.
        searches: Whether new trials of the search may start; if not, what was found so far is confirmed.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    store = TrialStore(OutputsPaths(Path(config.settings.outputs)).sweep(sweep_name(config.settings)))
    config = settled_by_disk(config, store)
    settings = config.settings
    warning = check_space(store.root, settings.executor.min_free_mb)
    if warning:
        print_line(console, f"! {warning}")
    # Early, so that a mistake is shown before the wait. Only the check under the lock, in `_run_sessions`, is final.
    check_identity(store, settings)
    is_done = _is_done(store, settings, searches=searches)
    if not is_done:
        check_before_start(settings, is_new=not store.exists)
    if is_done or wait_for_window(settings.budget, clock, print_line=partial(print_line, console)):
        outcome = _run_sessions(config, store, console, clock, searches=searches)
        _print_final_view(store, settings, outcome.best, console)
        return outcome
    limit = find_time_limit(settings.budget, clock())
    is_paused = limit is not None and not limit.is_final
    best = current_best(store, config)
    return SweepOutcome(best, store.root, reason=limit.reason if limit else "", is_paused=is_paused)


def _run_sessions(
    config: SweepConfig, store: TrialStore, console: Console, clock: Clock, *, searches: bool
) -> SweepOutcome:
    """Run a session; with ``budget.wait``, also those of the following windows.

    Between two sessions, and before the first, any other command may have run or started a sweep of this name. So
    whether it has these settings, and what is left to do, is decided under the lock.
    """
    make_folder(store.root)
    while True:
        recorder = SessionRecorder(store, config.settings, clock)
        with (
            log_to(store.paths.log),
            recorder.notifying(),
            hold(store) as was_killed,
            recorder.recording_errors(),
        ):
            config = settled_by_disk(config, store)
            settings = config.settings
            check_identity(store, settings)
            for path in restore_sweep(store, settings, new_stamp()):
                print_line(console, f"! {path.name} was damaged and has been restored; the old one is in damaged/.")
            is_finished = not (was_killed or _has_open_ends(store))
            if is_finished and _is_done(store, settings, searches=searches):
                return _done(config, store, console, searches=searches)
            outcome = _run(config, store, console, recorder=recorder, clock=clock, searches=searches)
        budget = settings.budget
        is_over = not (outcome.is_paused and budget.wait)
        if is_over or not wait_for_window(budget, clock, print_line=partial(print_line, console), after=True):
            return outcome


def _is_done(store: TrialStore, settings: SweepSettings, *, searches: bool) -> bool:
    """Whether nothing is left to train."""
    progress = _progress(store, settings) if has_sweep_record(store) else []
    done = [study.is_done if searches else study.is_confirmed and not study.is_running for study in progress]
    return len(progress) == len(settings.dataset) and all(done)


def _has_open_ends(store: TrialStore) -> bool:
    """Whether Optuna or MLflow may lack the end of the last session, although all of its trials have finished."""
    last = SessionLog(store.root).read()[-1:]
    return any(session.has_failed or not session.ended_at for session in last) or bool(read_health(store.root).tracker)


def _done(config: SweepConfig, store: TrialStore, console: Console, *, searches: bool) -> SweepOutcome:
    """Print that nothing is left to do, and write the report again; the caller holds the lock."""
    budget = config.settings.budget.trials
    done = f"all {budget} trials of each study have finished" if searches else "its candidates are confirmed"
    print_line(console, f"Sweep {store.root.name} is done: {done}.")
    print_line(console, f"To continue the search, raise the budget, e.g. budget.trials={2 * budget}.")
    return SweepOutcome(write_report(store, config), store.root)


def _progress(store: TrialStore, settings: SweepSettings) -> list[StudyProgress]:
    return progress_from_disk(store, budget=settings.budget.trials, confirm=settings.confirm)


def _print_final_view(store: TrialStore, settings: SweepSettings, best: Mapping[str, Any], console: Console) -> None:
    """Print the final table of a sweep, read from its folder and from the content of best.json."""
    confirmations = {study["name"]: study["confirmation"] for study in best["studies"] if study["confirmation"]}
    progress = _progress(store, settings)
    has_ui = settings.tracker.name == "mlflow"
    is_checkout = Path(sys.prefix) == Path.cwd() / ".venv"
    command = "make ui" if is_checkout else "sweeper ui"
    if settings.outputs != DEFAULT_OUTPUTS:
        command = (
            f"make ui ARGS='outputs={settings.outputs}'" if is_checkout else f"sweeper ui outputs={settings.outputs}"
        )
    view = final_view(progress, sweep_dir=store.root, confirmations=confirmations, ui_command=command if has_ui else "")
    console.print(view)


def _run(
    config: SweepConfig,
    store: TrialStore,
    console: Console,
    *,
    recorder: SessionRecorder,
    clock: Clock,
    searches: bool,
) -> SweepOutcome:
    return_large_blocks()
    settings = config.settings
    devices = choose_devices(settings.executor)
    limits = choose_limits(settings, devices.kind)
    split_files(settings)
    with ExitStack() as stack:
        with fetch_progress(console) as progress:
            model_dir = plan_model(settings, progress)
            config = settled_by_model(config, model_dir)
            settings = config.settings
            executor = open_executor(settings, store, model_dir=model_dir, device=devices.kind)
            stack.callback(executor.stop)
            executor.start()  # workers need seconds to import; meanwhile this process plans and opens databases
            plans = _plan(config, store, model_dir=model_dir, limits=limits, progress=progress)
        shutdown = stack.enter_context(shutdown_on_signals(settings.executor.shutdown_grace_s))
        opened = [stack.enter_context(open_search(plan.record, config, store)) for plan in plans]
        _write_records(store, settings, plans)
        references = reference_recipes(settings, config.space)
        tracker = open_tracker(settings, store)
        runs = [
            open_study_run(
                plan.record,
                search,
                settings,
                store=store,
                tracker=tracker,
                references=references,
                confirmation=make_confirmation(settings, store),
                clock=clock,
            )
            for plan, search in zip(plans, opened, strict=True)
        ]
        for run in runs if not searches else ():
            run.end_search()
        view = stack.enter_context(LiveView(console))
        view.log(f"Training with {devices.note}. Lanes per worker: {limits}.")
        view.log(f"Model: {settled_text(config)}.")
        for plan in plans:
            for text in (cut_rows(plan.record), proposal(plan.record)):
                if text:
                    view.log(f"{plan.record.dataset}: {text}")
        monitor = SweepMonitor(
            view,
            runs,
            settings,
            num_workers=devices.num_workers,
            rate=known_rate(settings, devices, limits, model_dir),
            tracker=tracker,
            recorder=recorder,
        )
        ledger = Ledger(store.paths.ledger, clock)
        controller = Controller(
            {run.record.name: (run, plan.opening) for run, plan in zip(runs, plans, strict=True)},
            executor,
            ledger=ledger,
            budget=settings.budget,
            limits=limits,
            shutdown=shutdown,
            on_change=monitor,
            watchdog=Watchdog(settings.executor),
        )
        monitor.start(controller, ledger)
        _run_controller(controller, monitor, tracker, shutdown)
        if controller.stop_reason:
            view.log(f"Stopped: {controller.stop_reason}")
        recorder.end(shutdown.reason or controller.stop_reason or "nothing is left to do", monitor.progress())
        keep_rates(store, settings, devices, limits, model_dir)
    if shutdown:
        print_line(console, f"Stopped by {shutdown.reason}. Everything is saved; the same command resumes.")
    best = write_report(store, config)
    keep_report(tracker, store, _CLOSE_STOPPED_S if shutdown else _CLOSE_S)
    return SweepOutcome(
        best,
        store.root,
        stopped_by=shutdown.reason,
        reason=controller.stop_reason or "",
        is_paused=controller.forecast.is_paused and not shutdown,
        aborted=monitor.aborted,
    )


def _run_controller(controller: Controller, monitor: SweepMonitor, tracker: Tracker, shutdown: ShutdownRequest) -> None:
    """Run the controller, then let the tracker catch up, for a shorter time after a signal or an error."""
    timeout_s = _CLOSE_STOPPED_S
    try:
        controller.run()
        timeout_s = _CLOSE_STOPPED_S if shutdown else _CLOSE_S
    finally:
        missed = tracker.close(timeout_s)["missed"]
        why = f" ({tracker.problem})" if tracker.problem else ""
        with suppress(DiskError):
            monitor.record_final_health(
                f"not up to date: {plural(missed, 'trial')}{why}; the next run sends them" if missed else ""
            )


def _plan(
    config: SweepConfig, store: TrialStore, *, model_dir: Path, limits: LaneLimits, progress: Progress
) -> list[StudyPlan]:
    """Fetch and check all data; a study that exists on disk keeps its record, and with it its portfolio."""
    datasets = config.settings.dataset.values()
    lane_limit = limits.lanes if limits.is_measured else 0
    model = plan_weights(config.settings, model_dir, progress)
    plans = [
        plan_study(config, dataset, model_dir=model_dir, model=model, lane_limit=lane_limit, progress=progress)
        for dataset in datasets
    ]
    known = {study.name: study for study in store.studies()}
    for plan in plans:
        if plan.record.name not in known and store.paths.trials(plan.record.name):
            store.read_study(plan.record.name)  # trials without a study: raises an error that names the remedy
        if plan.record.name in known:
            cache = Path(config.settings.cache)
            check_content(known[plan.record.name], plan.record, sweep=store.root.name, cache=cache)
    new = [plan.record for plan in plans if plan.record.name not in known]
    records = {record.name: record for record in with_portfolios(new, config, model_dir=model_dir, sweep=store.root)}
    return [
        plan.resumed(known[plan.record.name])
        if plan.record.name in known
        else StudyPlan(records[plan.record.name], plan.opening)
        for plan in plans
    ]


def _write_records(store: TrialStore, settings: SweepSettings, plans: Sequence[StudyPlan]) -> None:
    """Write the records of the sweep and its studies, once and after every check, since they never change."""
    if not store.exists:
        write_sweep_record(store, settings)
    known = {study.name for study in store.studies()}
    for plan in plans:
        if plan.record.name not in known:
            store.write_study(plan.record)

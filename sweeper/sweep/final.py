"""Trains the chosen configuration of a study once more, on all rows: what a sweep's cap on rows saved. `cli` calls it.

A final training is a trial like any other, in a study of its own without a search: the controller runs it, so it is
checkpointed after every chunk, survives lost workers, and goes on where a kill interrupted it. Its records are in the
sweep's folder ``final``.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweeper.clock import Clock, utc_now
from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import BudgetSettings, SweepSettings
from sweeper.config.trial_length import trial_chunks, trial_epochs
from sweeper.control.controller import Controller
from sweeper.control.lane_limits import LaneLimits
from sweeper.control.shutdown import shutdown_on_signals
from sweeper.control.study_run import StudyRun
from sweeper.control.watchdog import Watchdog
from sweeper.disk.space import check_space
from sweeper.display.console import print_line
from sweeper.display.downloads import fetch_progress
from sweeper.errors import StoreError, SweeperError, did_you_mean
from sweeper.execute import choose_devices
from sweeper.figures.final import ALL_ROWS, final_origin
from sweeper.figures.ranking import best_trial
from sweeper.figures.recipes import recipe_name, recorded_default_recipe
from sweeper.figures.rungs import rung_epoch
from sweeper.figures.text import plural
from sweeper.search.no_search import NoSearch
from sweeper.store.discovery import find_sweep
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import open_executor, open_study_run, open_tracker
from sweeper.sweep.final_plan import keeping_all_adapters, plan_final
from sweeper.sweep.log_file import log_to
from sweeper.sweep.plan import StudyPlan, check_content, plan_model
from sweeper.sweep.reports import write_model_cards, write_report
from sweeper.sweep.stored_settings import check_sections, stored_settings, with_sections
from sweeper.track import Tracker
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialSpec, TrialState

__all__ = ["FinalOptions", "train_final"]

_SECTIONS = ("executor", "tracker")
"""Sections that may differ from those of the sweep."""
_CLOSE_S = 60.0
_CLOSE_STOPPED_S = 5.0
"""Time for the tracker to catch up, normally and after a signal or an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalOptions:
    """What to train."""

    rows: str = ALL_ROWS
    """Number of training rows, or `ALL_ROWS`."""
    trial: int | None = None
    """The trial whose configuration is trained; None for the one that the sweep recommends."""
    seed: int | None = None
    """None for the seed of the sweep."""
    with_validation: bool = False
    """Whether validation rows are trained on, too."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """The configuration to train."""

    name: str
    spec: TrialSpec
    why: str


def train_final(
    target: str,
    options: FinalOptions,
    *,
    outputs: Path,
    console: Console,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    clock: Clock = utc_now,
) -> int:
    """Train the chosen configuration of a study on more rows, or go on with that.

    Args:
        target: The study, as ``<sweep>/<study>``; the sweep is enough if it has one study.
        options: What to train.
        outputs: Folder of all sweeps.
        console: Where progress is printed.
        overrides: Hydra overrides of the sections executor and tracker.
        config_dir: A folder with more YAML files, laid out like conf/.
        clock: The present time.

    Returns:
        The exit code: 0, or 128 plus the number of the signal that ended it.

    Raises:
        SweeperError: There is no such study or trial, its rows have changed, or the training failed.
    """
    rows = _checked_rows(options.rows)
    check_sections(overrides, allowed=_SECTIONS, command="train")
    sweep, _, study_name = target.strip("/").partition("/")
    store = find_sweep(sweep, outputs)
    settings = with_sections(stored_settings(store), overrides, config_dir=config_dir)
    # One trial needs one worker.
    settings = dataclasses.replace(settings, executor=dataclasses.replace(settings.executor, workers=1))
    settings = keeping_all_adapters(settings)
    study = _find_study(store, study_name)
    if warning := check_space(store.root, settings.executor.min_free_mb):
        print_line(console, f"! {warning}")
    with log_to(store.paths.log), hold(store):
        choice = _choose(store, study, options.trial)
        training = _Training(store, study, settings, console, clock)
        return training.run(choice, dataclasses.replace(options, rows=rows))


class _Training:
    """One session of final training."""

    def __init__(
        self, store: TrialStore, study: StudyRecord, settings: SweepSettings, console: Console, clock: Clock
    ) -> None:
        self._store, self._study, self._settings = store, study, settings
        self._console, self._clock = console, clock
        self._finals = store.finals
        self._config = SweepConfig(settings, parse_space(study.space))

    def run(self, choice: _Choice, options: FinalOptions) -> int:
        """Train until the trial is complete, or a signal ends it; return the exit code."""
        with fetch_progress(self._console) as progress:
            model_dir = plan_model(self._settings, progress)
            plan = self._known(
                plan_final(
                    self._config,
                    self._study,
                    rows=options.rows,
                    with_validation=options.with_validation,
                    sweep=self._store.root.name,
                    model_dir=model_dir,
                    progress=progress,
                )
            )
        record = plan.record
        seed = self._settings.seed if options.seed is None else options.seed
        known = self._finals.trials(record.name)
        spec = _spec(record, choice, seed=seed, known=known)
        self._announce(record, choice, spec)
        if any(trial.spec.number == spec.number and trial.state is TrialState.COMPLETE for trial in known):
            print_line(self._console, "It is trained already.")
        # All of the study, so that interrupted ones go on too.
        specs = [*(trial.spec for trial in known if trial.spec.number != spec.number), spec]
        signal_name = self._train(plan, specs, number=spec.number, model_dir=model_dir)
        return self._end(record, spec.number, signal_name)

    def _known(self, plan: StudyPlan) -> StudyPlan:
        """Return the plan of a study that may be on disk already; write its record if it is not."""
        names = [study.name for study in self._finals.studies()]
        if plan.record.name not in names:
            self._finals.write_study(plan.record)
            return plan
        before = self._finals.read_study(plan.record.name)
        check_content(before, plan.record, sweep=self._store.root.name, cache=Path(self._settings.cache))
        return plan.resumed(before)

    def _announce(self, record: StudyRecord, choice: _Choice, spec: TrialSpec) -> None:
        rows, before = record.num_rows["train"], self._study.num_rows["train"]
        epochs = spec.train.epochs
        times = _rows_in_all(record, epochs) / _rows_in_all(self._study, choice.spec.train.epochs)
        length = f"{plural(epochs, 'epoch')}, {plural(trial_chunks(record, epochs), 'chunk')}"
        print_line(
            self._console,
            f"Training {choice.name} ({choice.why}) of {self._study.name} on {plural(rows, 'row')}, seed {spec.seed}; "
            f"the search used {before:,}. {length}: about {times:.1f} times as long as this trial of the search.",
        )
        if not record.num_rows["validation"]:
            print_line(self._console, "The validation rows are trained on, so only the test rows give a score.")

    def _train(self, plan: StudyPlan, specs: Sequence[TrialSpec], *, number: int, model_dir: Path) -> str:
        """Run the controller, which starts a worker only if work is left.

        Args:
            plan: The study.
            specs: Its trials.
            number: The trial that was asked for, whose model card the tracker gets.
            model_dir: Folder of the base model.

        Returns:
            The name of the signal that ended it; empty without one.
        """
        settings, record = self._settings, plan.record
        with ExitStack() as stack:
            device = choose_devices(settings.executor).kind
            executor = open_executor(settings, self._store, model_dir=model_dir, device=device)
            stack.callback(executor.stop)
            shutdown = stack.enter_context(shutdown_on_signals(settings.executor.shutdown_grace_s))
            tracker = open_tracker(settings, self._store)
            timeout_s = _CLOSE_STOPPED_S
            try:
                run = open_study_run(
                    record,
                    NoSearch(),
                    settings,
                    store=self._finals,
                    tracker=tracker,
                    finals=specs,
                    clock=self._clock,
                )
                Controller(
                    {record.name: (run, plan.opening)},
                    executor,
                    ledger=Ledger(self._store.paths.ledger, self._clock),
                    # The user asked for this training, so the window and the budget of the search do not limit it.
                    budget=BudgetSettings(),
                    limits=LaneLimits(lanes=1),
                    shutdown=shutdown,
                    on_change=_Progress(run, self._console),
                    watchdog=Watchdog(settings.executor),
                ).run()
                timeout_s = _CLOSE_STOPPED_S if shutdown else _CLOSE_S
            finally:
                self._close(tracker, timeout_s)
        write_model_cards(self._store, self._study, self._settings)
        card = self._finals.paths.trial(record.name, number).model_card
        if card.exists() and not shutdown:
            tracker.keep_report([record], [card], _CLOSE_S)
        return shutdown.reason

    def _close(self, tracker: Tracker, timeout_s: float) -> None:
        missed = tracker.close(timeout_s)["missed"]
        if missed:
            why = f" ({tracker.problem})" if tracker.problem else ""
            print_line(self._console, f"! MLflow is not up to date{why}; the same command sends what is missing.")

    def _end(self, record: StudyRecord, number: int, signal_name: str) -> int:
        """Write the report, print the result, and return the exit code."""
        from sweeper.analysis.final import final_trainings, score_text

        write_report(self._store, self._config)
        if signal_name:
            print_line(self._console, f"Stopped by {signal_name}. Everything is saved; the same command resumes.")
            return 128 + signal.Signals[signal_name]
        trial = self._finals.read_trial(record.name, number)
        if trial.state is not TrialState.COMPLETE:
            why = trial.failure.message if trial.failure else f"it is {trial.state}"
            raise SweeperError(f"{record.name} was not trained to its end: {why}. The same command starts it again")
        found = next(
            each
            for each in final_trainings(self._store, self._study)
            if (each["study"], each["trial"]) == (record.name, number)
        )
        print_line(self._console, score_text(found))
        print_line(self._console, f"Adapter and model card: {found['adapter']}")
        print_line(self._console, f"Report: {self._store.paths.report_html}")
        return 0


class _Progress:
    """Prints a line for every rung, and without rungs for every epoch, of the trials that are in training."""

    def __init__(self, run: StudyRun, console: Console) -> None:
        self._run, self._console = run, console
        self._shown = {number: trial.chunks_done for number, trial in run.trials.items()}

    def __call__(self) -> None:
        """Print what has been added since the last call."""
        study = self._run.record
        for number, trial in self._run.trials.items():
            for measurement in trial.measurements:
                is_due = measurement.is_rung or measurement.chunk % study.chunks_per_epoch == 0
                if measurement.chunk > self._shown.get(number, 0) and is_due:
                    scores = ", ".join(f"{name} {value:.4f}" for name, value in measurement.metrics.items())
                    epochs = trial_epochs(study, trial.spec.train.epochs)
                    epoch = f"epoch {rung_epoch(study, measurement):.3g} of {epochs}"
                    print_line(self._console, f"  {epoch}: {scores} ({measurement.elapsed_s:.0f} s)")
            self._shown[number] = trial.chunks_done


def _rows_in_all(study: StudyRecord, epochs: int) -> int:
    """Return the rows that a trial of a study trains on in so many epochs, repeats included."""
    return trial_chunks(study, epochs) * study.rows_per_chunk


def _checked_rows(rows: str) -> str:
    """Return the number of rows in its plain form, or `ALL_ROWS`.

    Raises:
        SweeperError: It is neither.
    """
    if rows == ALL_ROWS:
        return rows
    if not rows.isdecimal() or int(rows) < 2:  # noqa: PLR2004  nothing can be learnt from one row
        raise SweeperError(f"--rows {rows}: give a number of at least 2, or {ALL_ROWS}")
    return str(int(rows))


def _find_study(store: TrialStore, name: str) -> StudyRecord:
    """Return a study of a sweep by its name or that of its dataset.

    Raises:
        SweeperError: There is no such study, or several and no name.
    """
    studies = store.studies()
    found = [study for study in studies if not name or name in (study.name, study.dataset)]
    if len(found) == 1:
        return found[0]
    known = f"Its studies: {', '.join(study.name for study in studies) or 'none yet'}."
    if not name:
        raise SweeperError(f"sweep {store.root.name} has {len(studies)} studies; name one, as <sweep>/<study>. {known}")
    hint = did_you_mean(name, [study.name for study in studies])
    raise SweeperError(" ".join(filter(None, (f"sweep {store.root.name} has no study '{name}'.", hint, known))))


def _choose(store: TrialStore, study: StudyRecord, number: int | None) -> _Choice:
    """Return the configuration to train: of the given trial, else the confirmed one, else that of the best trial.

    Raises:
        SweeperError: There is no such trial, or no trial is complete.
    """
    if number is not None:
        try:
            trial = store.read_trial(study.name, number)
        except StoreError as error:
            raise SweeperError(f"study {study.name} has no trial {number}: {error}") from error
        return _Choice(_name(trial), trial.spec, "given by --trial")
    from sweeper.analysis.confirmation import confirmation

    trials = store.trials(study.name)
    block = confirmation(store, study, trials, default=recorded_default_recipe(store.read_sweep()))
    if block and block["recommended"]:
        name = block["recommended"]
        chosen = next(each["trial"] for each in block["candidates"] if each["name"] == name)
        return _Choice(name, next(t.spec for t in trials if t.spec.number == chosen), "recommended after confirmation")
    best = best_trial(study, trials)
    if best is None:
        raise SweeperError(f"no trial of {study.name} is complete, so no configuration is chosen. Name one: --trial 7")
    return _Choice(_name(best), best.spec, "best of the search, not confirmed")


def _name(trial: TrialRecord) -> str:
    return recipe_name(trial.spec) or f"trial {trial.spec.number}"


def _spec(record: StudyRecord, choice: _Choice, *, seed: int, known: Sequence[TrialRecord]) -> TrialSpec:
    """Return the spec of a final training: that of a known trial if it can go on or is complete, else a new one."""
    train = dataclasses.replace(
        choice.spec.train,
        epochs=trial_epochs(record, choice.spec.train.epochs),
        chunks_per_epoch=record.chunks_per_epoch,
    )
    spec = dataclasses.replace(
        choice.spec,
        study=record.name,
        number=max((trial.spec.number + 1 for trial in known), default=0),
        train=train,
        seed=seed,
        origin=final_origin(choice.name),
        phase=Phase.FINAL,
    )
    goes_on = (TrialState.RUNNING, TrialState.COMPLETE)
    same = [t.spec for t in known if t.state in goes_on and (t.spec.by_key(), t.spec.seed) == (spec.by_key(), seed)]
    return same[0] if same else spec

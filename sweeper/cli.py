"""The command line: run, plan, confirm, train, simulate, status, report, config, reproduce, reconcile, ui, jobs.

Prints a SweeperError without a traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.display.console import print_line, printable
from sweeper.errors import SweeperError
from sweeper.jobs.cli import app as jobs_app
from sweeper.urls import redact_urls

if TYPE_CHECKING:
    from sweeper.config.settings import SweepSettings
    from sweeper.store.trials import TrialStore

__all__ = ["app", "main"]

app = typer.Typer(
    help="Find good LoRA hyperparameters for a model on your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(jobs_app, name="jobs")
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, for example: dataset=trec budget.trials=40 'lora.r=choice(4,8,16)'.", show_default=False
    ),
]
ConfigDir = Annotated[
    Path | None,
    typer.Option(help="A folder with your own configuration files, laid out like conf/.", exists=True, file_okay=False),
]
Outputs = Annotated[Path, typer.Option(help="The folder that holds all sweeps.")]


@app.command()
def run(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="Outside the time window, wait until it opens.")] = False,
) -> None:
    """Run a sweep. The same command resumes it later.

    Exit codes:
    0: the sweep is done, or may not continue now (window, deadline, budget)
    2: an error
    3: no study has a complete trial, and at least one was aborted
    4: a disk is full, fails or is read-only
    5: the study database cannot be reached
    75: another process is running the sweep
    129, 130, 143: stopped by SIGHUP (the terminal was closed), Ctrl-C or SIGTERM
    """
    from sweeper.sweep.run import run_sweep

    outcome = run_sweep([*(overrides or []), *(["budget.wait=true"] if wait else [])], config_dir=config_dir)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compute parameters, memory, disk space, time and price of a sweep before it runs. Nothing is loaded or trained.

    Takes the overrides of `sweeper run`. Of the model, config.json is enough. plan.gpu_gb=80 plans for a GPU that this
    machine does not have. Exit code 2: a trial cannot fit into the memory.

    `sweeper simulate` answers another question: how good a result a budget would find, from recorded trials.
    """
    from sweeper.plan.command import plan as plan_sweep

    plan_sweep(overrides or [], console=Console(), config_dir=config_dir, is_json=is_json)


@app.command()
def confirm(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep. The default is the latest one.")] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides, for example: confirm.max_share=2.", show_default=False),
    ] = None,
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
    config_dir: ConfigDir = None,
) -> None:
    """Train the best configurations of a sweep again with fresh seeds. The search is not continued.

    `sweeper run` does this at its end, unless confirm=none is given. The exit codes are the same.
    """
    from sweeper.sweep.confirm import confirm_sweep

    words = [word for word in (sweep, *(overrides or [])) if word]
    names = [word for word in words if "=" not in word]
    outcome = confirm_sweep(
        names[0] if names else "",
        [word for word in words if "=" in word],
        outputs=outputs,
        console=Console(),
        config_dir=config_dir,
    )
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def train(
    study: Annotated[
        str,
        typer.Argument(help="The study as <sweep>/<study>; the sweep is enough if it has one study."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides, for example: executor.device=cpu.", show_default=False),
    ] = None,
    *,
    rows: Annotated[str, typer.Option(help="Number of training rows, or all: every row that is available.")] = "all",
    trial: Annotated[
        int | None,
        typer.Option(help="Number of the trial whose configuration is trained.", show_default="the recommended one"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the training.", show_default="that of the sweep", min=0)
    ] = None,
    with_validation: Annotated[
        bool,
        typer.Option("--include-validation", help="Train on the validation rows, too: only test rows give a score."),
    ] = False,
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
    config_dir: ConfigDir = None,
) -> None:
    """Train the best configuration of a study once more on all rows. The same command resumes it.

    This is the confirmed configuration, or without a confirmation that of the best trial. The number of epochs stays.
    Test rows are never trained on; they and the validation rows score the adapter. Adapter, model card and scores are
    in the sweep's folder final, in MLflow and in the report.
    """
    from sweeper.sweep.final import FinalOptions, train_final

    options = FinalOptions(rows=rows, trial=trial, seed=seed, with_validation=with_validation)
    exit_code = train_final(
        study, options, outputs=outputs, console=Console(), overrides=overrides or [], config_dir=config_dir
    )
    if exit_code:
        raise typer.Exit(exit_code)


@app.command()
def simulate(
    source: Annotated[
        str,
        typer.Argument(
            help="The recorded trials: a table, for example benchmarks/tables/trec.parquet, or the name of a sweep."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Hydra overrides, for example: search=gp budget.trials=24 executor.workers=2.", show_default=False
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Simulated searches with each budget, each with another seed.", min=1)] = 20,
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
    config_dir: ConfigDir = None,
) -> None:
    """Replay searches on recorded trials, to choose budget.trials. Nothing is trained.

    Prints what a quarter, half, all and twice of budget.trials would find, and how long that took when the trials
    were recorded. `sweeper plan` predicts memory and time of a sweep that was never run.
    """
    from sweeper.simulate.command import simulate as simulate_search

    simulate_search(source, overrides or [], outputs=outputs, num_runs=runs, console=Console(), config_dir=config_dir)


@app.command()
def status(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep. The default is the latest one.")] = "",
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
) -> None:
    """Show the progress, the last session and the failures of a sweep, as saved on disk."""
    from sweeper.config.settings import BudgetSettings
    from sweeper.display.failure_table import failure_view
    from sweeper.display.progress import progress_from_disk
    from sweeper.display.summary import session_line
    from sweeper.display.tables import progress_table
    from sweeper.store.discovery import find_sweep
    from sweeper.store.sessions import SessionLog

    store = find_sweep(sweep, outputs)
    kept = store.read_sweep()["settings"]["budget"]
    budget = BudgetSettings(trials=int(kept["trials"]), time_zone=str(kept.get("time_zone", "")))
    console = Console()
    print_line(console, f"Sweep {store.root.name}, in {store.root}")
    console.print(progress_table(progress_from_disk(store, budget=budget.trials)))
    for session in SessionLog(store.root).read()[-1:]:
        print_line(console, session_line(session, budget))
    failures = failure_view(store)
    if failures is not None:
        console.print(failures)


@app.command()
def report(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep. The default is the latest one.")] = "",
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
) -> None:
    """Write report.html, report.md, best.json and trials.csv of a sweep, also while it runs."""
    from sweeper.analysis.report import write_reports
    from sweeper.config.dimensions import parse_space
    from sweeper.store.discovery import find_sweep

    store = find_sweep(sweep, outputs)
    studies = store.studies()
    write_reports(store, space=parse_space(studies[0].space) if studies else None)
    print_line(Console(), f"Report: {store.paths.report_html}")


@app.command()
def config(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    help_keys: Annotated[
        bool, typer.Option("--help-keys", help="List all keys with their types, defaults and meanings.")
    ] = False,
) -> None:
    """Print the configuration that results from the overrides, or explain all keys."""
    if help_keys:
        typer.echo("\n".join(_key_lines()))
        return
    from sweeper.config.compose import as_yaml, compose
    from sweeper.sweep.model_kind import settled_if_known

    typer.echo(as_yaml(settled_if_known(compose(overrides or [], config_dir=config_dir))))


@app.command()
def reproduce(
    trial: Annotated[
        str, typer.Argument(help="The trial as <sweep>/<study>/<trial>, for example default/trec-minilm-lora/7.")
    ],
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
) -> None:
    """Train one trial again, alone, and compare the scores. Exit code 1: they differ by more than rounding."""
    from sweeper.sweep.reproduce import reproduce_trial

    if not reproduce_trial(trial, outputs=outputs, console=Console()):
        raise typer.Exit(1)


@app.command()
def reconcile(
    sweep: Annotated[
        list[str] | None,
        typer.Argument(
            help="Name of the sweep, or the overrides that it is run with. The default is the latest sweep.",
            show_default=False,
        ),
    ] = None,
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
    config_dir: ConfigDir = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the differences and their repair. Exit code 1: there are some."),
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Train complete trials again whose adapter is lost. Used only if losses and scores are the same.",
        ),
    ] = False,
) -> None:
    """Compare the trials in Optuna and MLflow with those in the sweep's folder, and repair them from the folder.

    Also restores damaged files of the folder. What is replaced is moved to damaged/; finished trials keep their scores.
    Exit code 1: something is lost for which there is no copy, or could not be repaired.
    """
    from sweeper.recovery.reconcile import reconcile_sweep

    store, settings = _named_sweep(sweep or [], outputs=outputs, config_dir=config_dir)
    if not reconcile_sweep(store, console=Console(), dry_run=dry_run, retrain=retrain, settings=settings):
        raise typer.Exit(1)


@app.command()
def ui(overrides: Overrides = None) -> None:
    """Start the MLflow web page with the curves, scores and adapters of all trials."""
    from sweeper.config.compose import compose
    from sweeper.track.mlflow import artifact_folder, tracking_uri
    from sweeper.track.server import serve

    settings = compose(overrides or []).settings
    outputs = Path(settings.outputs)
    uri = tracking_uri(settings.tracker.uri, outputs)
    raise typer.Exit(serve(uri, str(artifact_folder(uri, outputs)), settings.tracker.port))


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SweeperError as error:
        print_line(Console(stderr=True), Text.assemble(("Error: ", "bold red"), printable(str(error))))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception:  # noqa: BLE001  libraries quote the URLs of databases and trackers, with their passwords
        sys.stderr.write(redact_urls(traceback.format_exc()))
        sys.exit(1)


def _named_sweep(
    words: list[str], *, outputs: Path, config_dir: Path | None
) -> tuple[TrialStore, SweepSettings | None]:
    """Return the sweep that is given by its name or by overrides; in the second case, also its settings."""
    from sweeper.store.discovery import find_sweep

    if not any("=" in word for word in words):
        return find_sweep(words[0] if words else "", outputs), None
    from sweeper.config.compose import compose
    from sweeper.sweep.identity import check_identity, sweep_name
    from sweeper.sweep.model_kind import settled_by_disk

    config = compose(words, config_dir=config_dir)
    store = find_sweep(sweep_name(config.settings), Path(config.settings.outputs))
    settings = settled_by_disk(config, store).settings
    check_identity(store, settings)
    return store, settings


def _key_lines() -> list[str]:
    """Return one line per key. Lines are never folded, so that tools such as grep can search them."""
    from sweeper.config.keys import all_keys

    keys = all_keys()
    width = max(map(len, keys))
    return [f"{name:<{width}}  {key.kind} = {key.default or repr('')}  {key.help}" for name, key in keys.items()]


if __name__ == "__main__":
    main()

"""The command line: run, status, config, reproduce, reconcile, ui, jobs. Each error of ours is a readable paragraph."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.errors import SweeperError
from sweeper.jobs.cli import app as jobs_app

if TYPE_CHECKING:
    from sweeper.config.settings import SweepSettings
    from sweeper.store.trials import TrialStore

__all__ = ["app", "main"]

app = typer.Typer(
    help="Finds the LoRA settings that suit a model on your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(jobs_app, name="jobs")
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, e.g. dataset=trec budget.trials=40 'lora.r=choice(4,8,16)'.", show_default=False
    ),
]
ConfigDir = Annotated[
    Path | None,
    typer.Option(help="A folder with further YAML files, laid out like conf/.", exists=True, file_okay=False),
]
Outputs = Annotated[Path, typer.Option(help="Folder of all sweeps.")]


@app.command()
def run(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="Outside its window: wait until it opens.")] = False,
) -> None:
    """Run a sweep; the same command again goes on with it.

    Exit code 0: it is done, or may not run now (window, budget); 2: an error; 3: nothing was found; 4: the disk is
    full; 5: the database of studies is down; 75: another process runs the sweep; 130 or 143: stopped by
    Ctrl-C or SIGTERM.
    """
    from sweeper.sweep.run import run_sweep

    outcome = run_sweep([*(overrides or []), *(["budget.wait=true"] if wait else [])], config_dir=config_dir)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def status(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep; the latest if empty.")] = "",
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
) -> None:
    """Show how far a sweep is, from disk."""
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
    console.print(Text(f"Sweep {store.root.name}, in {store.root}"), soft_wrap=True)
    console.print(progress_table(progress_from_disk(store, budget=budget.trials)))
    for session in SessionLog(store.root).read()[-1:]:
        console.print(Text(session_line(session, budget)), soft_wrap=True)
    failures = failure_view(store)
    if failures is not None:
        console.print(failures)


@app.command()
def config(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    help_keys: Annotated[bool, typer.Option("--help-keys", help="List every key with its meaning.")] = False,
) -> None:
    """Print the configuration that overrides give, or explain every key."""
    if help_keys:
        typer.echo("\n".join(_key_lines()))
        return
    from sweeper.config.compose import as_yaml, compose

    typer.echo(as_yaml(compose(overrides or [], config_dir=config_dir)))


@app.command()
def reproduce(
    trial: Annotated[str, typer.Argument(help="<sweep>/<study>/<trial>, e.g. default/trec-minilm-lora/7.")],
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
) -> None:
    """Train one trial again, alone, and compare the scores; exit code 1 if they differ by more than rounding."""
    from sweeper.sweep.reproduce import reproduce_trial

    if not reproduce_trial(trial, outputs=outputs, console=Console()):
        raise typer.Exit(1)


@app.command()
def reconcile(
    sweep: Annotated[
        list[str] | None,
        typer.Argument(
            help="Name of the sweep, the latest if empty; or the overrides it is run with.", show_default=False
        ),
    ] = None,
    outputs: Outputs = Path(DEFAULT_OUTPUTS),
    config_dir: ConfigDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the differences; exit code 1 if any.")] = False,
) -> None:
    """Compare store, Optuna and MLflow trial by trial, and repair the two views from the store."""
    from sweeper.recovery.reconcile import reconcile_sweep

    store, settings = _named_sweep(sweep or [], outputs=outputs, config_dir=config_dir)
    if not reconcile_sweep(store, console=Console(), dry_run=dry_run, settings=settings):
        raise typer.Exit(1)


@app.command()
def ui(overrides: Overrides = None) -> None:
    """Open the tracker's pages: curves, comparison and adapters of all trials."""
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
        Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _named_sweep(
    words: list[str], *, outputs: Path, config_dir: Path | None
) -> tuple[TrialStore, SweepSettings | None]:
    """Return the sweep that a name, or overrides, mean; with its settings in the latter case."""
    from sweeper.store.discovery import find_sweep

    if not any("=" in word for word in words):
        return find_sweep(words[0] if words else "", outputs), None
    from sweeper.config.compose import compose
    from sweeper.sweep.identity import check_identity, sweep_name

    settings = compose(words, config_dir=config_dir).settings
    store = find_sweep(sweep_name(settings), Path(settings.outputs))
    check_identity(store, settings)
    return store, settings


def _key_lines() -> list[str]:
    """Return a line a key, never folded: so that it can be searched with other tools."""
    from sweeper.config.keys import all_keys

    keys = all_keys()
    width = max(map(len, keys))
    return [f"{name:<{width}}  {key.kind} = {key.default or repr('')}  {key.help}" for name, key in keys.items()]


if __name__ == "__main__":
    main()

"""The command `sweeper simulate`: prints what budgets of several sizes would find on recorded trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from sweeper.config.compose import compose
from sweeper.config.overrides import keys_set_by
from sweeper.config.settings import SweepSettings
from sweeper.display.console import print_line
from sweeper.display.tables import clock_text
from sweeper.errors import ConfigError, SweeperError
from sweeper.figures.text import plural
from sweeper.simulate.plan import SHARE_OF_RUNS, BudgetOutcome, budgets_of, conclusion, simulate_budget
from sweeper.simulate.response import TableResponse
from sweeper.simulate.table import Table
from sweeper.store.discovery import find_sweep

__all__ = ["simulate"]

_READ = ("search", "budget.trials", "budget.device_hours", "executor.workers", "executor.lanes", "seed")
"""Keys that a simulation reads, and the groups of which it reads all keys."""
_SUFFIX = ".parquet"
_NOTE = (
    "Score: of the configuration that a search ends with, mean over seeds. Regret: by how much it is worse than the "
    "best of the table. Times are those of the machine that recorded the trials."
)


def simulate(
    source: str,
    overrides: Sequence[str],
    *,
    outputs: Path,
    num_runs: int,
    console: Console,
    config_dir: Path | None = None,
) -> None:
    """Simulate searches on recorded trials, and print what they would find.

    Args:
        source: Path of a table (Parquet), name of a sweep, or ``<sweep>/<study>``.
        overrides: Hydra overrides of the keys in `_READ`.
        outputs: Folder of all sweeps.
        num_runs: Seeds for each budget.
        console: Where to print.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        ConfigError: The table cannot be used, or an override is wrong.
        SweeperError: There is no such sweep or study.
    """
    settings = _settings(overrides, config_dir)
    for table in _tables(source, outputs):
        _simulate_table(TableResponse(table), len(table.trials), settings, num_runs=num_runs, console=console)


def _settings(overrides: Sequence[str], config_dir: Path | None) -> SweepSettings:
    settings = compose(overrides, config_dir=config_dir).settings
    for text in overrides:
        for key in keys_set_by(text):
            if not any(key == known or key.startswith(f"{known}.") for known in _READ):
                rule = "a simulation does not read this key: the recorded trials fix everything else"
                raise ConfigError(key, text.partition("=")[2], rule, f"It reads {', '.join(_READ)}.")
    return settings


def _tables(source: str, outputs: Path) -> list[Table]:
    if source.endswith(_SUFFIX):
        return [Table.read(Path(source))]
    sweep, _, name = source.strip("/").partition("/")
    store = find_sweep(sweep, outputs)
    studies = store.studies()
    found = [study for study in studies if not name or study.name == name]
    if not found:
        known = f"Its studies: {', '.join(study.name for study in studies)}." if studies else "It has no study yet."
        raise SweeperError(f"sweep {store.root.name} has no study '{name}'. {known}")
    return [Table.of_study(study, store.trials(study.name)) for study in found]


def _simulate_table(
    response: TableResponse, num_recorded: int, settings: SweepSettings, *, num_runs: int, console: Console
) -> None:
    trials = settings.budget.trials
    budgets = budgets_of(trials)
    workers = settings.executor.workers or 1
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"Simulating {response.name}", total=len(budgets) * num_runs)
        outcomes = [
            simulate_budget(response, settings, n, num_runs=num_runs, on_run=lambda: progress.advance(task))
            for n in budgets
        ]
    settings.budget.trials = trials
    search = settings.search
    print_line(
        console,
        f"{response.name}, from {plural(num_recorded, 'recorded trial')}: {search.sampler}, {search.pruner}, "
        f"{plural(workers, 'worker')}, {plural(num_runs, 'run')} of each budget",
    )
    console.print(_table(outcomes, workers))
    print_line(console, conclusion(outcomes, trials, response.name))
    print_line(console, _NOTE)


def _table(outcomes: Sequence[BudgetOutcome], workers: int) -> RichTable:
    headings = (
        "Trials",
        "Score",
        "90% of\nruns",
        "Mean\nregret",
        f"{SHARE_OF_RUNS:.0%}\nwithin",
        "Device\ntime",
        f"Time with\n{plural(workers, 'worker')}",
        "Chunks\nsaved",
    )
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(
            f"{outcome.trials:,}",
            f"{outcome.score:.3f}",
            f"{outcome.lowest:.3f}-{outcome.highest:.3f}",
            f"{outcome.regret:.3f}",
            f"{outcome.most_regret:.3f}",
            clock_text(outcome.device_s),
            clock_text(outcome.wall_s),
            f"{outcome.saved_share:.0%}",
        )
    return table

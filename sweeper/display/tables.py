"""Formats `StudyProgress` as tables for rich and as lines for a log, for terminals of 80 columns or more.

`live_view`, `final_view` and ``sweeper status`` print them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sweeper.config.trial_length import trial_chunks
from sweeper.display.progress import StudyProgress
from sweeper.figures.confirmation import progress_text
from sweeper.figures.hyperparameters import params_text, shown_params
from sweeper.figures.ranking import finite_value
from sweeper.figures.training_rows import capped_rows, cut_rows
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = [
    "best_text",
    "clock_text",
    "configuration_text",
    "counts_text",
    "final_table",
    "progress_line",
    "progress_table",
    "running_text",
    "score_text",
]

_BAR_WIDTH = 12
_NAME_WIDTH = 15
_NOTHING = "-"
_BEST = "Best configuration"
_CONFIRMED = "Recommended"
_DEFAULT = "Default recipe"


def progress_table(progress: Sequence[StudyProgress]) -> Table:
    """Return the table of a running sweep, one row per study; long configurations wrap between words."""
    table = _table(progress, "Trials", "Best so far", "Default", "Time")
    for study in progress:
        cells = (_trials_cell(study), _best_cell(study), _default_cell(study), _time_cell(study))
        table.add_row(_dataset_cell(study.study), *cells)
    return table


def progress_line(progress: StudyProgress) -> str:
    """Return the progress of a study as one line."""
    pace = progress.trials_per_hour
    left = "" if progress.left_s is None else f", about {clock_text(progress.left_s)} left"
    speed = "" if not pace else f", {pace:.0f} trials/h"
    return f"{progress.study.dataset}: {counts_text(progress)}; {best_text(progress)}{speed}{left}"


def final_table(
    progress: Sequence[StudyProgress], confirmations: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """Return a table of each study's recommended configuration, default recipe and best baseline.

    Args:
        progress: The studies.
        confirmations: The blocks ``confirmation`` of best.json by study. A study without one shows its search's best.
    """
    blocks = {name: block for name, block in (confirmations or {}).items() if block["recommended"]}
    names = {study.baseline.kind.column for study in progress if study.baseline}
    baseline = " or ".join(sorted(names)) or "Probe"
    header = _CONFIRMED if len(blocks) == len(progress) else _BEST
    table = _table(progress, header, _DEFAULT, baseline, "Trials", "Time")
    for study in progress:
        block = blocks.get(study.study.name)
        cells = _confirmed_cells(study, block) if block else _searched_cells(study)
        effort = (str(study.num_done), clock_text(study.wall_s))
        table.add_row(_dataset_cell(study.study), *cells, _baseline_cell(study), *effort)
    return table


def _searched_cells(study: StudyProgress) -> tuple[Text, Text]:
    """Return the best of the search, and the default recipe with the search's seed."""
    default = Text.assemble(f"{_decimal_text(study.default_value)}\n", (_default_text(study), "dim"))
    return _best_cell(study), default


def _confirmed_cells(study: StudyProgress, block: Mapping[str, Any]) -> tuple[Text, Text]:
    """Return the recommended configuration and the default recipe, with the mean scores of fresh seeds."""
    candidates = {candidate["name"]: candidate for candidate in block["candidates"]}
    beats = block["baseline"] is None or block["baseline"]["beaten"]
    chosen = candidates[block["recommended"]]
    score = chosen["metrics"][study.study.metric]
    recommended = Text.assemble(
        (_decimal_text(score["estimate"]), "bold green" if beats else "bold yellow"),
        f" ({chosen['name']})\n{_interval_text(score)}\n{params_text(chosen['params'])}",
    )
    if block["default"] is None:
        return recommended, Text(_NOTHING)
    default = candidates[block["default"]]
    score = default["metrics"][study.study.metric]
    rest = f"{_interval_text(score)}\n{params_text(default['params'])}"
    return recommended, Text.assemble(f"{_decimal_text(score['estimate'])}\n", (rest, "dim"))


def _interval_text(found: Mapping[str, float]) -> str:
    return f"[{found['low']:.3f}, {found['high']:.3f}]"


def _table(progress: Sequence[StudyProgress], *headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=len(progress) > 1)
    longest = max((len(study.study.dataset) for study in progress), default=0)
    table.add_column("Dataset", overflow="fold", style="bold", min_width=min(longest, _NAME_WIDTH))
    for header in headers:
        is_text = header in ("Best so far", _BEST, _CONFIRMED, _DEFAULT)
        table.add_column(header, overflow="fold", no_wrap=not is_text)
    return table


def _dataset_cell(study: StudyRecord) -> Text:
    notes = [text for text in (capped_rows(study), cut_rows(study)) if text]
    return Text.assemble(study.dataset, ("".join(f"\n{text}" for text in notes), "not bold dim"))


def _trials_cell(progress: StudyProgress) -> Text:
    share = min(progress.num_done / progress.budget, 1.0) if progress.budget else 1.0
    filled = int(share * _BAR_WIDTH)
    bar = (("━" * filled, "green"), ("─" * (_BAR_WIDTH - filled), "dim"))
    confirming = textwrap.wrap(progress_text(progress.confirmation), _BAR_WIDTH)
    words = "".join(f"\n{word}" for word in (*_state_texts(progress), *confirming))
    return Text.assemble(*bar, f"\n{progress.num_done} of {progress.budget}", (words, "dim"))


def _state_texts(progress: StudyProgress) -> list[str]:
    shown = [state for state in TrialState if progress.counts[state] and state is not TrialState.COMPLETE]
    return [f"{progress.counts[state]} {state.value}" for state in shown]


def _best_cell(progress: StudyProgress) -> Text:
    if progress.best is None:
        return _running_cell(progress)
    style = "bold yellow" if progress.beats_baselines is False else "bold green"
    text = configuration_text(progress.study, progress.best)
    rung = f"\n{progress.best_rung}" if progress.best_rung else ""
    return Text.assemble((score_text(progress), style), f" (trial {progress.best.spec.number})\n{text}", (rung, "dim"))


def _running_cell(progress: StudyProgress) -> Text:
    running = progress.best_running
    if running is None:
        return Text("no complete trial", style="yellow")
    text = configuration_text(progress.study, running)
    return Text.assemble((running_text(progress), "yellow"), f"\n{text}")


def _default_cell(progress: StudyProgress) -> Text:
    lines = [_decimal_text(progress.default_value)]
    if progress.default is not None and progress.default.state is not TrialState.COMPLETE:
        lines.append(progress.default.state.value)
    if progress.baseline is not None:
        kind, value = progress.baseline.kind, progress.baseline.value
        lines.append(f"{kind.column.lower()} {_decimal_text(value)}")
        lines += [kind.variant] if kind.variant else []
    return Text("\n".join(lines))


def _baseline_cell(progress: StudyProgress) -> Text:
    if progress.baseline is None:
        return Text(_NOTHING)
    variant = progress.baseline.kind.variant
    return Text.assemble(_decimal_text(progress.baseline.value), (f"\n{variant}" if variant else "", "dim"))


def _time_cell(progress: StudyProgress) -> Text:
    lines = [f"{clock_text(progress.wall_s)} used"]
    if progress.left_s is not None and not progress.is_done:
        lines.append(f"~{clock_text(progress.left_s)} left")
    pace = ((progress.trials_per_hour, "trials/h"), (progress.tokens_per_s, "tokens/s"))
    return Text.assemble("\n".join(lines), *((f"\n{_rate_text(rate)} {unit}", "dim") for rate, unit in pace if rate))


def counts_text(progress: StudyProgress) -> str:
    """Return the number of trials done, of those in each state except complete, and how far the confirmation is."""
    confirming = progress_text(progress.confirmation)
    words = [f"{progress.num_done}/{progress.budget} trials", *_state_texts(progress), confirming]
    return ", ".join(word for word in words if word)


def best_text(progress: StudyProgress) -> str:
    """Return the best score; before a trial is complete, the best one of a running trial, marked as such."""
    if progress.best is not None:
        return f"best {score_text(progress)}"
    running = running_text(progress)
    return f"no complete trial yet, {running}" if running else "no complete trial yet"


def running_text(progress: StudyProgress) -> str:
    """Return the best score of a running trial and how far it is; empty if none was scored yet."""
    running = progress.best_running
    if running is None:
        return ""
    score, study = _decimal_text(finite_value(progress.study, running)), progress.study
    full = trial_chunks(study, running.spec.train.epochs)
    return f"{score} so far (trial {running.spec.number} running, {running.chunks_done} of {full} chunks)"


def _default_text(progress: StudyProgress) -> str:
    if progress.default is None:
        return "not run"
    state = progress.default.state
    suffix = "" if state is TrialState.COMPLETE else f" ({state.value})"
    return configuration_text(progress.study, progress.default) + suffix


def configuration_text(study: StudyRecord, record: TrialRecord) -> str:
    """Return a trial's configuration as one line."""
    return params_text(shown_params(record.spec, study.space))


def score_text(progress: StudyProgress) -> str:
    """Return the best score, with its standard error if the metric has one."""
    error = "" if progress.best_error is None else f" ± {progress.best_error:.3f}"
    return f"{_decimal_text(progress.best_value)}{error}"


def _decimal_text(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.3f}"


def _rate_text(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"  # noqa: PLR2004 - a thousand


def clock_text(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

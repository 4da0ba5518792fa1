"""The output at the end of a session: the final table, how reliable it is, and the paths of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.display.progress import StudyProgress
from sweeper.display.tables import final_table
from sweeper.figures.baselines import baseline_descriptions
from sweeper.figures.comparison import NOISE_ERRORS
from sweeper.figures.rungs import better_rung
from sweeper.store.trials import TrialStore

__all__ = ["caution", "final_view"]


def final_view(progress: Sequence[StudyProgress], *, sweep_dir: Path, ui_command: str = "", ui_uri: str = "") -> Group:
    """Return warnings of baselines, the final table, notes on how reliable it is, and the paths of the files.

    Args:
        progress: The studies.
        sweep_dir: The sweep's folder.
        ui_command: The command that opens the tracker's user interface; empty without a tracker.
        ui_uri: Where the tracker stores its data; not shown if empty.
    """
    parts: list[RenderableType] = [
        Text(f"! {study.baseline_warning}", style="bold yellow") for study in progress if study.baseline_warning
    ]
    parts += [final_table(progress), *(Text(line, style="dim") for line in _legend(progress))]
    parts += [Text(f"! {line}", style="yellow") for study in progress if (line := caution(study))]
    store = TrialStore(sweep_dir)
    names = ", ".join(path.name for path in (store.paths.report, store.paths.best, store.paths.trials_csv))
    parts += [Text(f"\nTo read the results, open:  {store.paths.report_html}")]
    parts += [Text(f"In {sweep_dir}:"), Text(f"  {names}")]
    for study in progress:
        parts += [Text(f"  {line}") for line in _adapter_lines(store, study)]
    if ui_command:
        parts.append(
            Text.assemble("To see curves and adapters, run:  ", (ui_command, "bold"), f"\n  {ui_uri}" if ui_uri else "")
        )
    return Group(*parts)


def _adapter_lines(store: TrialStore, progress: StudyProgress) -> list[str]:
    """Return the folders of the best trial's adapter, and of its best rung's if that scored higher."""
    study, best = progress.study, progress.best
    if best is None:
        return []
    found = [(store.adapter_dir(study.name, best.spec.number), f"best of {study.dataset}")]
    if rung := better_rung(study, best):
        found.append((store.rung_adapter_dir(study.name, best.spec.number, rung.chunk), progress.best_rung))
    return [f"{folder.relative_to(store.root)}  ({what})" for folder, what in found if folder.is_dir()]


def caution(progress: StudyProgress) -> str:
    """Return why the best trial of a study cannot be called better than the default recipe; empty if it can."""
    name, gain = progress.study.dataset, progress.gain
    if progress.best is None:
        return f"{name}: no trial is complete, so there is no best configuration. The report lists the causes."
    if gain is None:
        return f"{name}: the default recipe has no complete trial, so the best cannot be compared with it."
    if progress.default is not None and progress.default.spec.number == progress.best.spec.number:
        return f"{name}: no configuration scored higher than the default recipe."
    if gain.standard_error is None:
        return f"{name}: {progress.study.metric} has no simple standard error: the lead over the default may be noise."
    if not gain.is_noise:
        return ""
    num_rows = progress.study.num_rows.get("validation", 0)
    return (
        f"{name}: the lead over the default, {gain.gain:+.3f} ± {gain.standard_error:.3f}, is within the noise of "
        f"{num_rows} validation rows (under {NOISE_ERRORS:g} standard errors)."
    )


def _legend(progress: Sequence[StudyProgress]) -> list[str]:
    lines = ["Scores are on the validation rows that also selected the best: expect slightly lower scores on new rows."]
    if any(study.best_error is not None for study in progress):
        lines.insert(
            0,
            "± is one binomial standard error of the accuracy, without the variation between seeds.",
        )
    names = {study.baseline.kind.name for study in progress if study.baseline}
    return [*baseline_descriptions(names), *lines]

"""The output at the end of a session: the final table, how reliable it is, and the paths of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.display.progress import StudyProgress
from sweeper.display.tables import final_table
from sweeper.figures.baselines import baseline_descriptions
from sweeper.figures.comparison import NOISE_ERRORS
from sweeper.figures.confirmation import recommended_seed
from sweeper.figures.rungs import better_rung
from sweeper.store.damage import adapter_warnings, is_adapter_intact
from sweeper.store.trials import TrialStore

__all__ = ["caution", "final_view"]


def final_view(
    progress: Sequence[StudyProgress],
    *,
    sweep_dir: Path,
    confirmations: Mapping[str, Mapping[str, Any]] | None = None,
    ui_command: str = "",
    ui_uri: str = "",
) -> Group:
    """Return the final table, the verdict on each study, notes on how reliable they are, and the paths of the files.

    A study without a confirmation gets warnings instead of a verdict.

    Args:
        progress: The studies.
        sweep_dir: The sweep's folder.
        confirmations: The blocks ``confirmation`` of best.json by study; those that are None are left out.
        ui_command: The command that opens the tracker's user interface; empty without a tracker.
        ui_uri: Where the tracker stores its data; not shown if empty.
    """
    blocks = {name: block for name, block in (confirmations or {}).items() if block["recommended"]}
    searched = [study for study in progress if study.study.name not in blocks]
    parts: list[RenderableType] = [
        Text(f"! {study.baseline_warning}", style="bold yellow") for study in searched if study.baseline_warning
    ]
    parts += [final_table(progress, blocks)]
    parts += [_verdict(study.study.dataset, blocks[study.study.name]) for study in progress if study not in searched]
    parts += [Text(f"! {line}", style="yellow") for study in searched if (line := caution(study))]
    parts += [Text(line, style="dim") for line in _legend(progress, searched, list(blocks.values()))]
    store = TrialStore(sweep_dir)
    names = ", ".join(path.name for path in (store.paths.report, store.paths.best, store.paths.trials_csv))
    parts += [Text(f"\nTo read the results, open:  {store.paths.report_html}")]
    parts += [Text(f"In {sweep_dir}:"), Text(f"  {names}")]
    parts += [Text(f"! {line}", style="yellow") for line in adapter_warnings(store)]
    for study in progress:
        parts += [Text(f"  {line}") for line in _adapter_lines(store, study, blocks.get(study.study.name))]
    if ui_command:
        parts.append(
            Text.assemble("To see curves and adapters, run:  ", (ui_command, "bold"), f"\n  {ui_uri}" if ui_uri else "")
        )
    return Group(*parts)


def _verdict(dataset: str, block: Mapping[str, Any]) -> Text:
    """Return the verdict on a study; yellow where no adapter is clearly better than a baseline."""
    is_beaten = block["baseline"] is None or block["baseline"]["beaten"]
    return Text.assemble((f"{dataset}: ", "bold"), (block["verdict"], "" if is_beaten else "yellow"))


def _adapter_lines(store: TrialStore, progress: StudyProgress, block: Mapping[str, Any] | None) -> list[str]:
    """Return the folder of the recommended adapter.

    Without a confirmation, that of the best trial of the search, and that of its best rung if this scored higher.
    """
    study, best = progress.study, progress.best
    if block is not None:
        seed = recommended_seed(block)
        if seed is None:
            return []
        folder = Path(seed["adapter"]).relative_to(store.root)
        return [f"{folder}  (recommended for {study.dataset}: {block['recommended']}, seed {seed['seed']})"]
    if best is None:
        return []
    found = [(store.adapter_dir(study.name, best.spec.number), f"best of {study.dataset}")]
    if rung := better_rung(study, best):
        found.append((store.rung_adapter_dir(study.name, best.spec.number, rung.chunk), progress.best_rung))
    return [f"{folder.relative_to(store.root)}  ({what})" for folder, what in found if is_adapter_intact(folder)]


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


def _legend(
    progress: Sequence[StudyProgress], searched: Sequence[StudyProgress], blocks: Sequence[Mapping[str, Any]]
) -> list[str]:
    lines = baseline_descriptions({study.baseline.kind.name for study in progress if study.baseline})
    if blocks:
        levels = sorted({f"{100 * block['confidence']:g} %" for block in blocks})
        lines.append(
            f"[low, high] are {' or '.join(levels)} intervals over seeds and rows; those of differences hold for all "
            "candidates at once."
        )
    if any(study.best_error is not None for study in searched):
        lines.append("± is one binomial standard error of the accuracy, without the variation between seeds.")
    if searched:
        lines.append(
            "Scores of a search are on the validation rows that also selected the best: expect slightly lower scores "
            "on new rows."
        )
    return lines

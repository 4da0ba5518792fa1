"""What a finished or interrupted sweep prints: the final table, how far to trust it, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.analysis.compare import NOISE_ERRORS
from sweeper.display.progress import StudyProgress
from sweeper.display.tables import final_table
from sweeper.store.trials import TrialStore

__all__ = ["caution", "final_view"]


def final_view(progress: Sequence[StudyProgress], *, sweep_dir: Path, ui_command: str = "", ui_uri: str = "") -> Group:
    """Return all that a user needs after a sweep: the final table, how sure it is, and where everything lies.

    Args:
        progress: The studies.
        sweep_dir: Folder of the sweep; report, best.json, trials.csv and adapters lie in it.
        ui_command: What to type to open the tracker's pages; empty without a tracker.
        ui_uri: Where the tracker keeps what it shows.
    """
    parts: list[RenderableType] = [final_table(progress), *(Text(line, style="dim") for line in _legend(progress))]
    parts += [Text(f"! {line}", style="yellow") for study in progress if (line := caution(study))]
    store = TrialStore(sweep_dir)
    names = ", ".join(path.name for path in (store.paths.report, store.paths.best, store.paths.trials_csv))
    parts += [Text(f"\nIn {sweep_dir}:"), Text(f"  {names}")]
    parts += [Text(f"  {path}  (best of {name})") for name, path in _adapters(progress, store)]
    if ui_command:
        parts.append(
            Text.assemble("Open the curves and adapters:  ", (ui_command, "bold"), f"\n  {ui_uri}" if ui_uri else "")
        )
    return Group(*parts)


def caution(progress: StudyProgress) -> str:
    """Return what keeps the best of a study from being called better than the default; empty if nothing does."""
    name, gain = progress.study.dataset, progress.gain
    if progress.best is None:
        return f"{name}: no trial was completed, so there is no best setting; the report says what happened."
    if gain is None:
        return f"{name}: the default recipe has no complete trial, so nothing shows that the best is better than it."
    if progress.default is not None and progress.default.spec.number == progress.best.spec.number:
        return f"{name}: no setting scored higher than the default recipe."
    if gain.standard_error is None:
        return f"{name}: {progress.study.metric} has no simple standard error; the lead over the default may be noise."
    if not gain.is_noise:
        return ""
    num_rows = progress.study.num_rows.get("validation", 0)
    return (
        f"{name}: the lead over the default, {gain.gain:+.3f} ± {gain.standard_error:.3f}, is within the noise of "
        f"{num_rows} validation rows (under {NOISE_ERRORS:g} standard errors): they do not show that it is better."
    )


def _legend(progress: Sequence[StudyProgress]) -> list[str]:
    lines = ["Scores are on the validation rows that also chose the winner: expect a little less on new rows."]
    if any(study.best_error is not None for study in progress):
        lines.insert(0, "± is one binomial standard error of the accuracy; it leaves out the training seed.")
    names = {study.baseline[0] for study in progress if study.baseline}
    if "probe" in names:
        lines.insert(0, "Probe: logistic regression on the features of the frozen model.")
    if "untuned" in names:
        lines.insert(0, "Untuned: the model as it is, without any adapter.")
    return lines


def _adapters(progress: Sequence[StudyProgress], store: TrialStore) -> list[tuple[str, Path]]:
    found = [(s.study, store.adapter_dir(s.study.name, s.best.spec.number)) for s in progress if s.best]
    return [(study.dataset, path.relative_to(store.root)) for study, path in found if path.is_dir()]

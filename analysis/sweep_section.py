"""The parts of report.html that are about several datasets: what is best where, what transfers, folklore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.plot_parts import Plot, interval_text
from sweeper.analysis.verdict_plots import settings_plot
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text, short_name

__all__ = ["SweepSection", "sweep_section"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSection:
    """What report.html shows across datasets."""

    settings: Plot | None
    """The setting of each dataset."""
    is_confirmed: bool
    """Whether the settings are the recommended ones of all datasets, not only the best of the search."""
    ranges: Sequence[tuple[str, str, str, str]]
    """Hyperparameter, smallest and largest value over the datasets, and their ratio."""
    transfer: Mapping[str, Mapping[str, str]]
    """For each known configuration that several datasets confirmed: its gain and verdict against the default."""
    folklore: Sequence[Mapping[str, Any]]
    """Claims over all datasets."""
    by_dataset: Mapping[str, Mapping[str, str]]
    """The verdicts on each claim by dataset."""


def sweep_section(best: Mapping[str, Any]) -> SweepSection:
    """Return the part across datasets.

    Args:
        best: Content of best.json.
    """
    studies: Sequence[Mapping[str, Any]] = best["studies"]
    shown = [(study["dataset"], found) for study in studies if (found := _setting(study)) is not None]
    params = [found for _, found in shown]
    keys = list(dict.fromkeys(key for found in params for key in found))
    confirmed = [study for study in studies if (study.get("confirmation") or {}).get("recommended")]
    return SweepSection(
        settings=settings_plot([name for name, _ in shown], params, keys) if len(shown) > 1 else None,
        is_confirmed=bool(studies) and len(confirmed) == len(studies),
        ranges=_ranges(params, keys) if len(shown) > 1 else [],
        transfer=_transfer(studies),
        folklore=best.get("folklore") or [],
        by_dataset=_verdicts(studies),
    )


def _setting(study: Mapping[str, Any]) -> Mapping[str, ParamValue] | None:
    """Return the recommended configuration of a study; the best of its search if nothing is confirmed."""
    confirmation = study.get("confirmation")
    if confirmation and confirmation["recommended"]:
        for candidate in confirmation["candidates"]:
            if candidate["name"] == confirmation["recommended"]:
                params: Mapping[str, ParamValue] = candidate["params"]
                return params
    return study["best"]["params"] if study["best"] else None


def _ranges(params: Sequence[Mapping[str, ParamValue]], keys: Sequence[str]) -> list[tuple[str, str, str, str]]:
    rows = []
    for key in keys:
        values = [found[key] for found in params if key in found]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) < len(values):
            names = ", ".join(sorted({number_text(value) for value in values}))
            rows.append((short_name(key), names, "", ""))
            continue
        low, high = min(numbers), max(numbers)
        ratio = f"{high / low:.3g}" if low > 0 else "-"
        rows.append((short_name(key), number_text(low), number_text(high), ratio))
    return rows


def _transfer(studies: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the comparisons with the default by recipe and dataset; only what several datasets confirmed transfers."""
    found: dict[str, dict[str, str]] = {}
    for study in studies:
        for candidate in (study.get("confirmation") or {}).get("candidates", ()):
            against = candidate["against_default"]
            if candidate["source"] == "recipe" and against:
                text = f"{interval_text(against['gain'], signed=True)}, {against['verdict']}"
                found.setdefault(candidate["name"], {})[study["dataset"]] = text
    return {name: datasets for name, datasets in found.items() if len(datasets) > 1}


def _verdicts(studies: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for study in studies:
        for entry in study.get("folklore") or ():
            found.setdefault(entry["claim"], {})[study["dataset"]] = entry["verdict"]
    return found

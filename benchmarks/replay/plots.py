"""Regret over device time, drawn with matplotlib; needs no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay.judge import SHARES

__all__ = ["plot_regrets"]

_FLOOR = 1e-4
"""Regrets below are drawn here, since the axis is logarithmic."""


def plot_regrets(
    cells: Mapping[tuple[str, str, int], Sequence[Mapping[str, Any]]],
    truths: Sequence[str],
    names: Mapping[str, str],
    path: Path,
) -> None:
    """Draw the mean regret of each search over the budget: a column for each number of lanes, a row for each truth.

    The first row is the mean over all truths. Bands are two standard errors over seeds.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    all_lanes = sorted({lanes for truth, _, lanes in cells if truth in truths})
    groups = [("all", list(truths)), *((truth, [truth]) for truth in truths)] if len(truths) > 1 else [("", [*truths])]
    if not all_lanes:
        return
    size = (4.4 * len(all_lanes), 2.4 * len(groups) + 0.9)
    figure, panels = pyplot.subplots(
        len(groups), len(all_lanes), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey="row"
    )
    colours = {name: pyplot.get_cmap("tab20")(index) for index, name in enumerate(names)}
    for line, (title, members) in enumerate(groups):
        for column, lanes in enumerate(all_lanes):
            axes = panels[line, column]
            for name in names:
                found = [cells[truth, name, lanes] for truth in members if (truth, name, lanes) in cells]
                if len(found) == len(members):
                    _draw(axes, found, colours[name], is_ours=name == next(iter(names)))
            axes.set(title=f"{title or members[0]}, {lanes} lane{'s' if lanes > 1 else ''}", yscale="log")
            axes.grid(alpha=0.3, which="both")
    figure.supxlabel("share of the device time")
    figure.supylabel("regret")
    handles = [mpl.lines.Line2D([], [], color=colours[name], label=text) for name, text in names.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _draw(axes: Any, found: Sequence[Sequence[Mapping[str, Any]]], colour: object, *, is_ours: bool) -> None:
    by_truth = [np.array([row["regret"] for row in group]) for group in found]
    mean = np.mean([regrets.mean(0) for regrets in by_truth], axis=0)
    variance = np.sum([regrets.var(0) / len(regrets) for regrets in by_truth], axis=0) / len(by_truth) ** 2
    error = 2 * np.sqrt(variance)
    axes.plot(SHARES, _shown(mean), color=colour, linewidth=2.2 if is_ours else 1)
    axes.fill_between(SHARES, _shown(mean - error), _shown(mean + error), color=colour, alpha=0.12, linewidth=0)


def _shown(regrets: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(regrets, _FLOOR)

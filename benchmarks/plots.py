"""Plots of the recorded rows, drawn with matplotlib; needs no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.arithmetic import best_evaluation_so_far, best_so_far
from benchmarks.record import Row

__all__ = ["plot_throughput", "plot_time_to_score"]


_COLOURS = ("tab:blue", "tab:red", "tab:orange", "tab:green", "tab:purple")
_COLUMNS = 3


def plot_time_to_score(rows: Sequence[Row], names: dict[str, str], path: Path) -> None:
    """Draw the best score so far over time: a panel for each dataset, a line for each command.

    Solid lines count complete trials only, dotted ones every evaluation.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    columns = min(_COLUMNS, len(datasets))
    lines = -(-len(datasets) // columns)
    size = (4.2 * columns, 3.2 * lines + 0.6)
    figure, panels = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    colours = dict(zip(names, _COLOURS, strict=False))
    for axes, dataset in zip(panels.flat, datasets, strict=False):
        for row in (row for row in rows if row["dataset"] == dataset):
            for style, curve in (("-", best_so_far(row["trials"])), (":", best_evaluation_so_far(row["trials"]))):
                if curve:
                    seconds = [at for at, _ in curve] + [row["wall_s"]]
                    best = [score for _, score in curve] + [curve[-1][1]]
                    axes.step(seconds, best, style, where="post", color=colours[row["contender"]], linewidth=1)
        axes.set(title=dataset, xscale="log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(alpha=0.3, which="both")
    for axes in panels.flat[len(datasets) :]:
        axes.set_axis_off()
    figure.supxlabel("seconds since the command was started")
    figure.supylabel("best accuracy so far")
    shown = [name for name in names if any(row["contender"] == name for row in rows)]
    handles = [mpl.lines.Line2D([], [], color=colours[name], label=names[name]) for name in shown]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(shown), columns))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_throughput(rows: Sequence[Row], path: Path) -> None:
    """Draw rows per second over tokens per step, one line per dataset and layout."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for dataset, workers in sorted({(row["dataset"], row["workers"]) for row in rows}):
        line = [row for row in rows if (row["dataset"], row["workers"]) == (dataset, workers)]
        label = f"{dataset}, {workers} worker(s) of {line[0]['threads']}"
        axes.plot([r["tokens_per_step"] for r in line], [r["rows_per_s"] for r in line], marker="o", label=label)
    axes.set(xscale="log", xlabel="tokens per step (padded)", ylabel="rows per second", ylim=(0, None))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

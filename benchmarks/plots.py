"""Plots of the recorded rows, drawn with matplotlib; needs no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.arithmetic import best_so_far
from benchmarks.record import Row

__all__ = ["plot_quality", "plot_throughput"]


def plot_quality(rows: Sequence[Row], names: dict[str, str], path: Path) -> None:
    """Draw the best score so far over time, one line per command."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    colours = dict(zip(names, ("tab:blue", "tab:red", "tab:orange", "tab:green"), strict=True))
    labelled: set[str] = set()
    for row in rows:
        name = row["contender"]
        curve = best_so_far(row["trials"])
        seconds = [at for at, _ in curve] + [row["wall_s"]]
        best = [score for _, score in curve] + [curve[-1][1]]
        label = None if name in labelled else names[name]
        axes.step(seconds, best, where="post", color=colours[name], label=label)
        labelled.add(name)
    axes.set(xscale="log", xlabel="seconds since the command was started", ylabel="best validation accuracy so far")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
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

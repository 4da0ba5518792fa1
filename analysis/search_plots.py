"""Plots of a search: learning curves, the best score so far, all trials, score against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.plot_parts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Figure,
    Plot,
    Scale,
    joined,
    layout,
    log_axis,
    metric_title,
    number,
    plot_text,
    scatter,
)
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text, short_name
from sweeper.figures.text import plural

__all__ = ["Curve", "Marked", "ScoredTrial", "curves_plot", "front", "history_plot", "parallel_plot", "pareto_plot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A trial that is marked in the plots of all trials, such as the recommended one."""

    trial: int
    label: str
    color: str
    symbol: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrial:
    """A trial as plots of all trials show it."""

    number: int
    value: float | None
    """Its objective at its last rung."""
    is_complete: bool
    params: Mapping[str, ParamValue]
    num_parameters: int
    device_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The scores of a trial at its rungs."""

    number: int
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    is_complete: bool
    is_stopped: bool
    """Whether it ended before its last chunk."""


def curves_plot(curves: Sequence[Curve], *, metric: str, marked: Sequence[Marked]) -> Plot | None:
    """Return the scores of every trial over the epochs, with a cross where it was stopped; None without a score."""
    scored = [curve for curve in curves if curve.values]
    if not scored:
        return None
    own = {mark.trial for mark in marked}
    stopped = [curve for curve in scored if curve.is_stopped]
    data = [
        _lines("stopped early", [c for c in stopped if c.number not in own], color=GREY, width=1, opacity=0.8),
        scatter(
            "stop",
            [curve.epochs[-1] for curve in stopped],
            [curve.values[-1] for curve in stopped],
            mode="markers",
            marker={"color": GREY, "size": 6, "symbol": "x-thin", "line": {"width": 1.4, "color": GREY}},
            customdata=[curve.number for curve in stopped],
            hovertemplate="trial %{customdata} was stopped<br>epoch %{x}: %{y}<extra></extra>",
        ),
        _lines(
            "running or complete",
            [c for c in scored if not c.is_stopped and c.number not in own],
            color=BLUE,
            width=1.2,
            opacity=0.7,
        ),
        *(
            _lines(mark.label, [c for c in scored if c.number == mark.trial], color=mark.color, width=3)
            for mark in marked
        ),
    ]
    num_complete = sum(curve.is_complete for curve in scored)
    return Plot(
        name="curves",
        title="Learning curves",
        summary=f"{plural(len(scored), 'trial')} were scored; {num_complete} reached the end and {len(stopped)} were "
        "stopped early. A cross marks a stop.",
        data=[trace for trace in data if trace["x"]],
        layout=layout({"title": "training (epochs)"}, {"title": metric_title(metric)}),
    )


def history_plot(
    trials: Sequence[ScoredTrial],
    *,
    metric: str,
    maximize: bool,
    lines: Mapping[str, float],
) -> Plot | None:
    """Return the best score so far over the device time spent; None without a complete trial.

    Args:
        trials: The trials of the search, in the order in which they ended.
        metric: The study's metric.
        maximize: Whether a higher value is better.
        lines: Values to compare with, by name, such as those of the default recipe and of the probe.
    """
    spent_s, best = 0.0, None
    complete: list[tuple[float, float, int]] = []
    steps: list[tuple[float, float]] = []
    for trial in trials:
        spent_s += trial.device_s
        if not trial.is_complete or trial.value is None:
            continue
        complete.append((spent_s, trial.value, trial.number))
        if best is None or (trial.value > best if maximize else trial.value < best):
            best = trial.value
            steps.append((spent_s, best))
    if best is None:
        return None
    unit, divisor = _time_unit(spent_s)
    steps.append((spent_s, best))
    data = [
        scatter(
            "complete trial",
            [at / divisor for at, _, _ in complete],
            [value for _, value, _ in complete],
            mode="markers",
            marker={"color": GREY, "size": 6, "symbol": "circle-open"},
            customdata=[number for _, _, number in complete],
            hovertemplate="trial %{customdata}<br>%{y}<extra></extra>",
        ),
        scatter(
            "best so far",
            [at / divisor for at, _ in steps],
            [value for _, value in steps],
            mode="lines",
            line={"shape": "hv", "color": BLUE, "width": 2.5},
        ),
    ]
    styles = ((GREEN, "dash"), (ORANGE, "dot"), (GREY, "dashdot"))
    for (name, value), (color, dash) in zip(lines.items(), styles, strict=False):
        line = {"color": color, "width": 2, "dash": dash}
        data.append(scatter(name, [0.0, spent_s / divisor], [value, value], mode="lines", line=line))
    reached = f"after {number(steps[-2][0] / divisor)} {unit} of {number(spent_s / divisor)} {unit} of device time"
    others = ", ".join(f"{name} {number(value)}" for name, value in lines.items())
    return Plot(
        name="history",
        title="Best score so far",
        summary=f"The best complete trial, {number(best)}, was found {reached}. The score is on the rows that selected "
        f"it.{f' For comparison: {others}.' if others else ''}",
        data=data,
        layout=layout({"title": f"device time ({unit})", "rangemode": "tozero"}, {"title": metric_title(metric)}),
    )


def parallel_plot(
    trials: Sequence[ScoredTrial], *, keys: Sequence[str], metric: str, marked: Sequence[Marked]
) -> Plot | None:
    """Return every trial as a line across its hyperparameters and its score; None with fewer than two trials.

    Drawn with ordinary lines, since plotly's own parallel coordinates need WebGL, which prints badly. The lines of
    trials that were stopped end before the score: their scores are from other rungs.
    """
    keys = [key for key in keys if len({trial.params[key] for trial in trials if key in trial.params}) > 1]
    if len(trials) < 2 or not keys:  # noqa: PLR2004  one line shows nothing
        return None
    scales = {key: Scale([trial.params[key] for trial in trials if key in trial.params]) for key in keys}
    scores = [trial.value for trial in trials if trial.is_complete and trial.value is not None]
    if scores:
        scales[metric] = Scale(scores, is_log=False)
    axes = list(scales)
    own = {mark.trial for mark in marked}
    groups = [
        ("stopped early or running", GREY, 0.8, 0.6, [t for t in trials if not t.is_complete and t.number not in own]),
        ("complete", BLUE, 1.4, 0.7, [t for t in trials if t.is_complete and t.number not in own]),
        *((mark.label, mark.color, 3, 1.0, [t for t in trials if t.number == mark.trial]) for mark in marked),
    ]
    data = [
        _parallel_lines(name, found, scales, metric, line={"color": color, "width": width}, opacity=opacity)
        for name, color, width, opacity, found in groups
        if found
    ]
    ticks = [
        {
            "x": index, "y": at, "text": plot_text(text), "showarrow": False, "xanchor": "left", "xshift": 4,
            "font": {"size": 11},
        }
        for index, key in enumerate(axes)
        for at, text in scales[key].ticks
    ]  # fmt: skip
    rods = [
        {"type": "line", "x0": index, "x1": index, "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1}}
        for index in range(len(axes))
    ]
    names = [metric_title(key).partition(" (")[0] if key == metric else short_name(key) for key in axes]
    logs = [short_name(key) for key in axes if scales[key].is_log]
    summary = f"{plural(len(trials), 'trial')} over {', '.join(short_name(key) for key in keys)}."
    if logs:
        summary += f" Logarithmic: {', '.join(logs)}."
    return Plot(
        name="parallel",
        title="All trials and their hyperparameters",
        summary=f"{summary} Each line is a trial; only complete trials reach the score.",
        data=data,
        layout={
            **layout(
                {
                    "tickvals": list(range(len(axes))),
                    "ticktext": [plot_text(name) for name in names],
                    "range": [-0.1, len(axes) - 0.55],
                    "showgrid": False,
                    "side": "top",
                },
                {"visible": False, "range": [-0.05, 1.05]},
            ),
            "legend": {"y": -0.02, "yanchor": "top"},
            "annotations": ticks,
            "shapes": rods,
        },
        height=400,
        is_wide=True,
    )


def pareto_plot(
    trials: Sequence[ScoredTrial], *, cost: str, metric: str, maximize: bool, marked: Sequence[Marked]
) -> Plot | None:
    """Return the scores of the complete trials against a cost, with the Pareto front; None without a complete trial.

    Args:
        trials: The trials.
        cost: ``num_parameters`` or ``device_s``.
        metric: The study's metric.
        maximize: Whether a higher value is better.
        marked: Trials to point out.
    """
    points = [(getattr(t, cost), t.value, t.number) for t in trials if t.is_complete and t.value is not None]
    if not points:
        return None
    best = front(points, maximize=maximize)
    is_count = cost == "num_parameters"
    title = "trainable parameters (count)" if is_count else "device time of the trial (s)"
    hover = f"trial %{{customdata}}<br>%{{x}} {'parameters' if is_count else 's'}<br>%{{y}}<extra></extra>"
    data = [
        scatter(
            "complete trial",
            [at for at, _, _ in points],
            [value for _, value, _ in points],
            mode="markers",
            marker={"color": GREY, "size": 7, "symbol": "circle-open"},
            customdata=[number for _, _, number in points],
            hovertemplate=hover,
        ),
        scatter(
            "Pareto front",
            [at for at, _, _ in best],
            [value for _, value, _ in best],
            mode="lines+markers",
            line={"color": BLUE, "width": 2, "shape": "hv"},
            marker={"color": BLUE, "size": 7},
            customdata=[number for _, _, number in best],
            hovertemplate=hover,
        ),
    ]
    for mark in marked:
        found = [point for point in points if point[2] == mark.trial]
        style = {"color": mark.color, "size": 13, "symbol": f"{mark.symbol}-open", "line": {"width": 2.5}}
        if found:
            at, value, number = found[0]
            data.append(
                scatter(
                    mark.label, [at], [value], mode="markers", marker=style, customdata=[number], hovertemplate=hover
                )
            )
    numbers = ", ".join(str(number) for _, _, number in best)
    return Plot(
        name=f"pareto-{'parameters' if is_count else 'seconds'}",
        title=f"Score against {'trainable parameters' if is_count else 'training time'}",
        summary=f"No complete trial is both cheaper and better than one on the front: "
        f"{'trial' if len(best) == 1 else 'trials'} {numbers}. Scores are those of the search, one seed each.",
        data=data,
        layout=layout(
            {"title": title, **(log_axis([at for at, _, _ in points]) if is_count else {"rangemode": "tozero"})},
            {"title": metric_title(metric)},
        ),
    )


def front(points: Iterable[tuple[float, float, int]], *, maximize: bool) -> list[tuple[float, float, int]]:
    """Return the points (cost, value, number) that no other beats in both cost and value, cheapest first."""
    sign = -1 if maximize else 1
    kept: list[tuple[float, float, int]] = []
    for point in sorted(points, key=lambda entry: (entry[0], sign * entry[1], entry[2])):
        if not kept or sign * point[1] < sign * kept[-1][1]:
            kept.append(point)
    return kept


def _parallel_lines(
    name: str, trials: Sequence[ScoredTrial], scales: Mapping[str, Scale], metric: str, **style: Any
) -> Figure:
    """Return the lines of several trials across the axes as one trace, a gap after each."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for trial in trials:
        for index, (key, scale) in enumerate(scales.items()):
            value = (trial.value if trial.is_complete else None) if key == metric else trial.params.get(key)
            if value is not None:
                xs.append(index)
                ys.append(scale.position(value))
                texts.append(f"trial {trial.number}: {short_name(key)} = {plot_text(number_text(value))}")
        xs.append(None)
        ys.append(None)
        texts.append("")
    return scatter(name, xs, ys, mode="lines", text=texts, hovertemplate="%{text}<extra></extra>", **style)


def _lines(name: str, curves: Sequence[Curve], *, color: str, width: float, opacity: float = 1.0) -> Figure:
    """Return several learning curves as one trace, a gap after each: a thousand traces would take seconds to draw."""
    x, y = joined(list(zip(curve.epochs, curve.values, strict=True)) for curve in curves)
    numbers = [number for curve in curves for number in [curve.number] * (len(curve.values) + 1)]
    return scatter(
        name, x, y, mode="lines+markers" if width > 2 else "lines", line={"color": color, "width": width},  # noqa: PLR2004
        opacity=opacity, customdata=numbers[: len(x)],
        hovertemplate="trial %{customdata}<br>epoch %{x}: %{y}<extra></extra>",
    )  # fmt: skip


def _time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit that suits a time, and its length in seconds."""
    if seconds < 120:  # noqa: PLR2004
        return "s", 1.0
    return ("min", 60.0) if seconds < 7200 else ("h", 3600.0)  # noqa: PLR2004

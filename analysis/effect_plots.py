"""Plots of the effects of hyperparameters: importance, profiles, contours, the path to the best, rungs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sweeper.analysis.plot_parts import (
    BAND,
    BLUE,
    GREY,
    GREY_BAND,
    ORANGE,
    Figure,
    Plot,
    category_axis,
    error_bars,
    interval_text,
    interval_trace,
    is_geometric,
    joined,
    key_label,
    layout,
    log_axis,
    metric_title,
    number,
    plot_text,
    rounded,
    scatter,
    sentence,
    slug,
)
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text, short_name
from sweeper.figures.text import plural

__all__ = ["contour_plot", "importance_plot", "path_plot", "profile_plot", "rung_correlation_plot"]

_MAX_PAIRS = 5


def importance_plot(effects: Mapping[str, Any]) -> Plot | None:
    """Return the share of the scores' variance that each hyperparameter and pair explains; None without one."""
    single = [(key_label(entry["key"]), entry["share"]) for entry in effects.get("importance") or ()]
    strongest = (effects.get("interactions") or ())[:_MAX_PAIRS]
    pairs = [(" with ".join(map(key_label, entry["keys"])), entry["share"]) for entry in strongest]
    if not single and not pairs:
        return None
    names = [name for name, _ in (*single, *pairs)]
    parts = [f"{name} {interval_text(share)}" for name, share in (*single, *pairs)]
    data = [
        interval_trace(title, [name for name, _ in found], [share for _, share in found], color=color)
        for title, color, found in (("one, with its interactions", BLUE, single), ("a pair beyond each", ORANGE, pairs))
        if found
    ]
    return Plot(
        name="importance",
        title="Which hyperparameters matter",
        summary="Share of the variance of the predicted score over the search space that a hyperparameter explains "
        "with its interactions, and that a pair explains beyond each of the two.",
        details=sentence(parts),
        data=data,
        layout=layout({"title": "share of the variance"}, category_axis(names)),
        height=130 + 30 * len(names),
    )


def profile_plot(profile: Mapping[str, Any], *, metric: str) -> Plot:
    """Return the best achievable score over one hyperparameter, grey where there are no data."""
    xs, has_data = profile["x"], profile["has_data"]
    known = [index for index, found in enumerate(has_data) if found]
    points = profile.get("points") or []
    data = []
    for name, wanted, color, band, dash in (
        ("no data nearby", False, GREY, GREY_BAND, "dot"),
        ("best achievable", True, BLUE, BAND, "solid"),
    ):
        spans = list(_spans(has_data, wanted=wanted))
        if not spans:
            continue
        edge = joined([*zip(xs[a:b], profile["high"][a:b], strict=True),
                        *reversed(list(zip(xs[a:b], profile["low"][a:b], strict=True)))] for a, b in spans)  # fmt: skip
        line = joined(list(zip(xs[a:b], profile["best"][a:b], strict=True)) for a, b in spans)
        data.append({
            **scatter(f"band, {name}", *edge, mode="lines", line={"width": 0}),
            "fill": "toself", "fillcolor": band, "hoverinfo": "skip", "showlegend": False,
        })  # fmt: skip
        data.append(scatter(name, *line, mode="lines", line={"color": color, "width": 2.5, "dash": dash}))
    for name, is_final, symbol in (("complete trial", True, "circle"), ("stopped trial", False, "circle-open")):
        found = [(x, value) for x, value, final in points if bool(final) is is_final]
        if found:
            style = {"color": GREY, "size": 5, "symbol": symbol, "opacity": 0.8}
            data.append(scatter(name, [x for x, _ in found], [y for _, y in found], mode="markers", marker=style))
    label = profile.get("label") or short_name(profile["key"])
    is_log = profile["scale"] == "log"
    axis = {"title": plot_text(label), **(log_axis(xs) if is_log else {})}
    return Plot(
        name=f"profile-{slug(profile['key'])}",
        title=f"Profile: {label}",
        summary=_profile_summary(profile, known),
        data=data,
        layout=layout(axis, {"title": metric_title(metric), "range": _score_range(profile, known)}),
        height=310,
    )


def contour_plot(contour: Mapping[str, Any], *, metric: str, marked: Mapping[str, Mapping[str, ParamValue]]) -> Plot:
    """Return the predicted score over two hyperparameters, blank where there are no data.

    Args:
        contour: An entry of best.json's ``effects.contours``.
        metric: The study's metric.
        marked: Configurations to point out, by name.
    """
    x_key, y_key = contour["keys"]
    cells = [
        [value if found else None for value, found in zip(values, flags, strict=True)]
        for values, flags in zip(contour["mean_YX"], contour["has_data_YX"], strict=True)
    ]
    known = [value for row in cells for value in row if value is not None]
    data: list[Figure] = [
        {
            "type": "contour",
            "x": rounded(contour["x"]),
            "y": rounded(contour["y"]),
            "z": [rounded(row) for row in cells],
            "colorscale": "Cividis",
            "colorbar": {
                "title": {"text": metric_title(metric).partition(" (")[0], "side": "right", "font": {"size": 12}},
                "thickness": 12,
            },
            "line": {"width": 0.5},
            "hovertemplate": "%{x}, %{y}: %{z}<extra></extra>",
            "name": "predicted score",
        }
    ]
    for (name, params), symbol in zip(marked.items(), ("star", "diamond", "square"), strict=False):
        x, y = params.get(x_key), params.get(y_key)
        if isinstance(x, int | float) and isinstance(y, int | float):
            style = {"size": 14, "symbol": symbol, "color": "#ffffff", "line": {"width": 2, "color": "#000000"}}
            data.append(scatter(name, [x], [y], mode="markers", marker=style))
    axes = [
        {"title": key_label(key), **(log_axis(values) if is_geometric(values) else {})}
        for key, values in ((x_key, contour["x"]), (y_key, contour["y"]))
    ]
    summary = f"Predicted score over {key_label(x_key)} and {key_label(y_key)}."
    if known:
        summary += f" It lies between {number(min(known))} and {number(max(known))} where there are data."
    return Plot(
        name=f"contour-{slug(x_key)}-{slug(y_key)}",
        title=f"Predicted score: {key_label(x_key)} and {key_label(y_key)}",
        summary=f"{summary} Grey: no trial nearby, so no prediction.",
        data=data,
        layout={**layout(*axes), "plot_bgcolor": GREY_BAND},
        height=380,
    )


def path_plot(path: Sequence[Mapping[str, Any]], *, metric: str) -> Plot | None:
    """Return the way from the default to the best, one hyperparameter at a time; None without a step."""
    if len(path) < 2:  # noqa: PLR2004  the default alone
        return None
    names = ["default", *(f"{key_label(s['key'])} {number_text(s['from'])} → {number_text(s['to'])}" for s in path[1:])]
    intervals = [step["value"] for step in path]
    parts = [f"{name}: {interval_text(interval)}" for name, interval in zip(names, intervals, strict=True)]
    trace = interval_trace("predicted score", names, intervals, color=BLUE)
    return Plot(
        name="path",
        title="From the default to the best, step by step",
        summary="Predicted score after each change, in the order of the largest predicted gain.",
        details=sentence(parts),
        data=[{**trace, "mode": "lines+markers", "line": {"color": BLUE, "width": 1, "dash": "dot"}}],
        layout={**layout({"title": metric_title(metric)}, category_axis(names)), "showlegend": False},
        height=110 + 40 * len(names),
    )


def rung_correlation_plot(entries: Sequence[Mapping[str, Any]], *, num_chunks: int) -> Plot | None:
    """Return how well the order of the trials at each rung agrees with the final one; None without a rung."""
    if not entries:
        return None
    shares = [100 * entry["chunk"] / num_chunks for entry in entries]
    found = [entry["correlation"] for entry in entries]
    parts = [
        f"after {share:.0f} % of the training {interval_text(interval)} ({plural(entry['num_trials'], 'trial')})"
        for share, interval, entry in zip(shares, found, entries, strict=True)
    ]
    return Plot(
        name="rungs",
        title="Was pruning safe?",
        summary="Rank correlation of the scores at a rung with the final ones; 1 means the same order.",
        details=sentence(parts),
        data=[
            scatter(
                "rank correlation",
                shares,
                [interval["estimate"] for interval in found],
                mode="lines+markers",
                line={"color": BLUE, "width": 1.5},
                marker={"size": 8, "color": BLUE},
                error_y=error_bars(found),
            )
        ],
        layout={
            **layout(
                {"title": "share of the training (%)", "range": [0, 104]},
                {"title": "rank correlation (-1 to 1)", "range": [min(-0.05, *(i["low"] for i in found)), 1.05]},
            ),
            "showlegend": False,
        },
    )


def _spans(flags: Sequence[bool], *, wanted: bool) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of a flag; runs without data reach the next point with data, to leave no gap."""
    for flag, group in groupby(range(len(flags)), key=lambda index: bool(flags[index])):
        indices = list(group)
        if flag is wanted:
            begin, end = indices[0], indices[-1] + 1
            yield (begin, end) if wanted else (max(0, begin - 1), min(len(flags), end + 1))


def _score_range(profile: Mapping[str, Any], known: Sequence[int]) -> list[float]:
    """Return the range of the band where there are data: bad trials would flatten the profile."""
    shown = known or range(len(profile["x"]))
    low, high = min(profile["low"][index] for index in shown), max(profile["high"][index] for index in shown)
    margin = 0.1 * (high - low) or 0.01
    return rounded([low - margin, high + margin])


def _profile_summary(profile: Mapping[str, Any], known: Sequence[int]) -> str:
    if not known:
        return "No trial is near any of these values, so nothing is claimed."
    values = [profile["best"][index] for index in known]
    low, high = (number(profile["x"][index]) for index in (known[0], known[-1]))
    lowest, highest = number(min(values)), number(max(values))
    level = f"is {lowest}" if lowest == highest else f"varies between {lowest} and {highest}"
    span = f"it {level} from {low} to {high}"
    return (
        f"Best predicted score at each value, all other hyperparameters chosen freely: {span}. The band is its "
        "interval; grey has no data nearby. Trials outside this range of scores are not shown."
    )

"""Plots of what was confirmed: the finalists, their gains over the default, the setting of each dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.plot_parts import (
    BLUE,
    GREY,
    GREY_BAND,
    HEAT,
    ORANGE,
    Plot,
    Scale,
    category_axis,
    interval_text,
    interval_trace,
    key_label,
    layout,
    metric_title,
    plot_text,
    scatter,
    sentence,
)
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text

__all__ = ["finalists_plot", "gains_plot", "settings_plot"]


def finalists_plot(candidates: Sequence[Mapping[str, Any]], *, metric: str, roles: Mapping[str, str]) -> Plot:
    """Return the candidates with every seed as a dot, and the interval of their means.

    Args:
        candidates: Those of best.json's confirmation, best first.
        metric: The study's metric.
        roles: What a candidate is called besides its name, e.g. ``recommended, simplest equivalent``.
    """
    names = [_with_role(candidate["name"], roles) for candidate in candidates]
    seeds = [
        (name, seed) for name, found in zip(names, candidates, strict=True) for seed in found["seeds"]
        if seed["value"] is not None
    ]  # fmt: skip
    known = [
        (name, found["metrics"][metric]) for name, found in zip(names, candidates, strict=True)
        if found["metrics"].get(metric)
    ]  # fmt: skip
    tests = [(name, found["test"]["value"]) for name, found in zip(names, candidates, strict=True) if found.get("test")]
    data = [
        scatter(
            "one seed",
            [seed["value"] for _, seed in seeds],
            [name for name, _ in seeds],
            mode="markers",
            marker={"color": GREY, "size": 9, "symbol": "circle-open", "line": {"width": 1.6}},
            text=[f"seed {seed['seed']}, trial {seed['trial']}" for _, seed in seeds],
            hovertemplate="%{y}<br>%{x} (%{text})<extra></extra>",
        ),
        interval_trace(
            "mean and interval", [name for name, _ in known], [interval for _, interval in known], color=BLUE
        ),
    ]
    if tests:
        data.append(
            scatter(
                "test rows",
                [value for _, value in tests],
                [name for name, _ in tests],
                mode="markers",
                marker={"color": ORANGE, "size": 10, "symbol": "square-open", "line": {"width": 2}},
                hovertemplate="%{y}<br>%{x} on test rows<extra></extra>",
            )
        )
    parts = [f"{name}: {interval_text(interval)}" for name, interval in known]
    return Plot(
        name="finalists",
        title="Finalists, trained again with fresh seeds",
        summary=f"Mean of {metric_title(metric)} over fresh seeds, with its interval; every seed is a circle.",
        details=sentence(parts),
        data=data,
        layout=layout(
            {"title": metric_title(metric)},
            category_axis(names),
        ),
        height=130 + 60 * len(names),
        is_wide=True,
    )


def gains_plot(
    candidates: Sequence[Mapping[str, Any]], *, metric: str, margin: float, roles: Mapping[str, str]
) -> Plot | None:
    """Return the gains of the candidates over the default with the margin of equivalence; None if there is none."""
    compared = [candidate for candidate in candidates if candidate.get("against_default")]
    if not compared:
        return None
    names = [_with_role(candidate["name"], roles) for candidate in compared]
    gains = [candidate["against_default"]["gain"] for candidate in compared]
    verdicts = [candidate["against_default"]["verdict"] for candidate in compared]
    parts = [
        f"{name}: {interval_text(gain, signed=True)}, {verdict}"
        for name, gain, verdict in zip(names, gains, verdicts, strict=True)
    ]
    unit = metric_title(metric).partition(" (")[2].rstrip(")")
    band = {
        "type": "rect", "xref": "x", "yref": "paper", "x0": -margin, "x1": margin, "y0": 0, "y1": 1,
        "fillcolor": GREY_BAND, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
    zero = {
        "type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1,
        "line": {"color": GREY, "width": 1, "dash": "dot"}, "layer": "below",
    }  # fmt: skip
    return Plot(
        name="gains",
        title="Gain over the default recipe",
        summary=f"Positive is better. The grey band is the margin of equivalence, ±{margin:g}.",
        details=sentence(parts),
        data=[interval_trace("gain", names, gains, color=BLUE, text=verdicts)],
        layout={
            **layout({"title": f"gain ({unit})" if unit else "gain"}, category_axis(names)),
            "shapes": [band, zero],
            "showlegend": False,
        },
        height=110 + 60 * len(names),
        is_wide=True,
    )


def settings_plot(
    datasets: Sequence[str], settings: Sequence[Mapping[str, ParamValue]], keys: Sequence[str]
) -> Plot | None:
    """Return the setting of each dataset as a heatmap, each column on its own scale; None if there are none."""
    keys = [key for key in keys if any(key in found for found in settings)]
    if not datasets or not keys:
        return None
    scales = {key: Scale([found[key] for found in settings if key in found]) for key in keys}
    columns = [plot_text(key_label(key)) for key in keys]
    parts = [
        f"{dataset}: " + " ".join(f"{key_label(key)}={number_text(found[key])}" for key in keys if key in found)
        for dataset, found in zip(datasets, settings, strict=True)
    ]
    return Plot(
        name="settings",
        title="What is best where",
        summary="Colour shows where a value lies between the smallest and the largest of its column.",
        details=sentence(parts),
        data=[
            {
                "type": "heatmap",
                "x": columns,
                "y": [plot_text(dataset) for dataset in datasets],
                "z": [
                    [scales[key].position(found[key]) if key in found else None for key in keys] for found in settings
                ],
                "text": [
                    [plot_text(number_text(found[key])) if key in found else "" for key in keys] for found in settings
                ],
                "texttemplate": "%{text}",
                "hovertemplate": "%{y}: %{x} = %{text}<extra></extra>",
                "colorscale": HEAT,
                "zmin": 0,
                "zmax": 1,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "name": "position",
            }
        ],
        layout=layout(
            {"type": "category", "side": "top", "showgrid": False},
            {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True},
        ),
        height=120 + 38 * len(datasets),
        is_wide=True,
    )


def _with_role(name: str, roles: Mapping[str, str]) -> str:
    """Return a candidate's name and its roles, a line each, so that the label fits on a phone."""
    return "\n".join((name, *roles[name].split(", "))) if name in roles else name

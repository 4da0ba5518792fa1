"""What the plots of report.html share: colours, traces, axes and texts, as plain dicts for plotly.js.

A figure is a plain dict: plotly's own classes would check thousands of values again and cost more than they find.
Colours of text, grid and background are not set here but in the style sheet, which knows light, dark and paper. The
colours of the data follow Okabe and Ito (2008), which people with colour blindness can tell apart; each has a contrast
of at least 3 with white and with the dark page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text, short_name

__all__ = [
    "BAND",
    "BLUE",
    "GREEN",
    "GREY",
    "GREY_BAND",
    "HEAT",
    "ORANGE",
    "Figure",
    "Plot",
    "Scale",
    "category_axis",
    "error_bars",
    "interval_text",
    "interval_trace",
    "is_geometric",
    "joined",
    "key_label",
    "layout",
    "log_axis",
    "metric_title",
    "number",
    "plot_text",
    "rounded",
    "scatter",
    "sentence",
    "slug",
]

BLUE, ORANGE, GREEN, GREY = "#1f83bf", "#D55E00", "#009E73", "#8a8f94"
BAND = "rgba(31,131,191,0.24)"
GREY_BAND = "rgba(138,143,148,0.18)"
HEAT = [[0, "#f4f7f9"], [0.5, "#a9cfe6"], [1, "#4f9fcf"]]
"""Light enough for black text on every cell."""
_DIGITS = 5
_LOG_RATIO = 10.0
"""A hyperparameter whose values span more than this factor is drawn on a logarithmic axis."""
_TITLES = {
    "accuracy": "accuracy (share of rows)",
    "macro_f1": "macro-F1 (0 to 1)",
    "mcc": "MCC (-1 to 1)",
    "loss": "loss (nats)",
    "perplexity": "perplexity (per token)",
}

_STEPS = (tuple(range(1, 10)), (1, 2, 5), (1, 3), (1,))
"""Ticks of a decade, from many to few."""
_MAX_TICKS = 8

Figure = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A plot with the text that says what it shows."""

    name: str
    """Unique in its section; a part of the element's id."""
    title: str
    summary: str
    """What it shows, above the plot."""
    data: list[Figure]
    details: str = ""
    """Its numbers, for those who do not see it; not shown."""
    layout: Figure = field(default_factory=dict)
    height: int = 340
    """Pixels."""
    is_wide: bool = False
    """Whether it takes the whole width of the page."""

    @property
    def figure(self) -> Figure:
        """The figure for plotly.js."""
        return {"data": self.data, "layout": {"height": self.height, **self.layout}}


def plot_text(text: object) -> str:
    """Escape text from data for plotly.js, which reads some HTML in titles, ticks and hover texts; lines are kept."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def metric_title(metric: str) -> str:
    """Return what a metric is called on an axis, with its unit, e.g. ``validation accuracy (share of rows)``."""
    split, _, name = metric.rpartition("/")
    return f"{split} {_TITLES.get(name, name)}".strip()


class Scale:
    """Places the values of a hyperparameter between 0 and 1, logarithmically if they span much.

    Args:
        values: All values.
        is_log: Whether it is logarithmic; decided by the values if None.
    """

    def __init__(self, values: Sequence[ParamValue], *, is_log: bool | None = None) -> None:
        self._names: list[str] = []
        numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) < len(values):
            self._names = sorted({number_text(value) for value in values})
            self.is_log = False
            return
        self._low, self._high = min(numbers), max(numbers)
        spans_much = self._low > 0 and self._high / self._low > _LOG_RATIO
        self.is_log = spans_much if is_log is None else is_log

    def position(self, value: ParamValue) -> float:
        """Return where a value lies; 0.5 if all are equal."""
        if self._names:
            return self._names.index(number_text(value)) / max(1, len(self._names) - 1)
        low, high, at = (self._level(number) for number in (self._low, self._high, float(value)))
        return 0.5 if high == low else round((at - low) / (high - low), 4)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Positions with their text: every name, or five values of a scale."""
        if self._names:
            return [(self.position(name), name) for name in self._names]
        if self._low == self._high:
            return [(0.5, number_text(self._low))]
        low, high = self._level(self._low), self._level(self._high)
        levels = [(share / 4, low + share / 4 * (high - low)) for share in range(5)]
        return [(at, number_text(round(math.exp(x) if self.is_log else x, 10))) for at, x in levels]

    def _level(self, number: float) -> float:
        return math.log(number) if self.is_log else number


def scatter(name: str, x: Iterable[Any], y: Iterable[Any], **style: Any) -> Figure:
    """Return a trace of points or lines; values are rounded, text is escaped."""
    return {"type": "scatter", "name": plot_text(name), "x": rounded(x), "y": rounded(y), **style}


def interval_trace(
    name: str,
    labels: Sequence[str],
    intervals: Sequence[Mapping[str, float]],
    *,
    color: str,
    text: Sequence[str] | None = None,
) -> Figure:
    """Return estimates with their intervals, one line each."""
    hover = "%{y}<br>%{x}" + ("<br>%{text}" if text else "") + "<extra></extra>"
    trace = scatter(
        name,
        [interval["estimate"] for interval in intervals],
        labels,
        mode="markers",
        marker={"color": color, "size": 9, "symbol": "diamond"},
        error_x=error_bars(intervals),
        hovertemplate=hover,
    )
    return {**trace, "text": list(text)} if text else trace


def error_bars(intervals: Sequence[Mapping[str, float]]) -> Figure:
    """Return the error bars of intervals, which may be asymmetric."""
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded(interval["high"] - interval["estimate"] for interval in intervals),
        "arrayminus": rounded(interval["estimate"] - interval["low"] for interval in intervals),
        "thickness": 2,
        "width": 5,
    }


def layout(x: Mapping[str, Any], y: Mapping[str, Any]) -> Figure:
    """Return a layout with both axes; their titles are given as text."""
    return {"xaxis": _axis(x), "yaxis": _axis(y)}


def _axis(values: Mapping[str, Any]) -> Figure:
    title = values.get("title")
    return {**values, **({"title": {"text": title}} if title else {}), "automargin": True}


def category_axis(names: Sequence[str]) -> Figure:
    """Return an axis with one line for each name, the first on top."""
    order = [plot_text(name) for name in names]
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": order,
        "autorange": "reversed",
        "automargin": True,
    }


def log_axis(values: Iterable[float]) -> Figure:
    """Return a logarithmic axis with the most round ticks that fit; at powers of two if all values are."""
    numbers = [value for value in values if value > 0]
    if not numbers:
        return {}
    low, high = min(numbers), max(numbers)
    if low >= 1 and all(math.log2(value).is_integer() for value in numbers):
        ticks = [2.0**power for power in range(round(math.log2(low)), round(math.log2(high)) + 1)]
    else:
        ticks = next(found for steps in _STEPS if len(found := _ticks(low, high, steps)) <= _MAX_TICKS or steps == (1,))
    return {"type": "log", "tickvals": rounded(ticks), "ticktext": [_tick(tick) for tick in ticks]}


def _ticks(low: float, high: float, steps: Iterable[int]) -> list[float]:
    """Return the ticks at these steps of every decade, within and just beyond the values."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for decade in decades for step in steps if low / 1.1 <= (tick := step * 10.0**decade) <= high * 1.1]


def _tick(value: float) -> str:
    if value >= 1e6:  # noqa: PLR2004
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e4 else f"{value:.3g}".replace("e-0", "e-")  # noqa: PLR2004


def is_geometric(values: Sequence[float]) -> bool:
    """Whether values are spaced by a factor, as on a logarithmic axis."""
    if len(values) < 3 or min(values) <= 0:  # noqa: PLR2004  two values have no spacing
        return False
    return math.isclose(values[1] / values[0], values[-1] / values[-2], rel_tol=0.05)


def joined(
    lines: Iterable[Sequence[tuple[float | None, float | None]]],
) -> tuple[list[float | None], list[float | None]]:
    """Return the points of several lines as x and y, with a gap between two lines."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for line in lines:
        if xs:
            xs.append(None)
            ys.append(None)
        xs += [x for x, _ in line]
        ys += [y for _, y in line]
    return xs, ys


def rounded(values: Iterable[Any]) -> list[Any]:
    """Return values with five significant digits, which no screen can tell from all; text is escaped."""
    return [_round(value) for value in values]


def _round(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return plot_text(value)
    if isinstance(value, int):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def number(value: float) -> str:
    """Return a number of a plot as text, with four significant digits."""
    return f"{value:.4g}"


def interval_text(interval: Mapping[str, float], *, signed: bool = False) -> str:
    """Return an estimate with its interval, e.g. ``0.912 (0.897 to 0.926)``."""
    sign = "+" if signed else ""
    return f"{interval['estimate']:{sign}.3f} ({interval['low']:{sign}.3f} to {interval['high']:{sign}.3f})"


def sentence(parts: Sequence[str]) -> str:
    """Return the parts as one line that ends in a full stop; empty without a part."""
    return "; ".join(part.replace("\n", " ") for part in parts) + "." if parts else ""


def key_label(key: str) -> str:
    """Return what a hyperparameter is called in a plot; ``effective_rate`` is derived from several."""
    return "effective rate" if key == "effective_rate" else short_name(key)


def slug(key: str) -> str:
    """Return a key as a part of an element's id."""
    return "".join(letter if letter.isalnum() else "-" for letter in key.lower())

"""Plots of errors by label: the confusion matrix, and the change of each label against the default."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.analysis.plot_parts import BLUE, HEAT, ORANGE, Figure, Plot, layout, plot_text, rounded, sentence
from sweeper.figures.text import plural

__all__ = ["class_change_plot", "confusion_plot"]

_MAX_CLASSES = 30
_MAX_TEXT_CELLS = 150


def confusion_plot(counts_CC: Sequence[Sequence[int]], labels: Sequence[str], *, name: str, num_seeds: int) -> Plot:
    """Return which labels are taken for which others.

    Args:
        counts_CC: Rows by true label, then by predicted label, summed over the seeds.
        labels: The labels, in order.
        name: Whose predictions they are.
        num_seeds: Seeds that were summed.
    """
    shares = [[cell / sum(row) if sum(row) else None for cell in row] for row in counts_CC]
    ticks = [plot_text(label) for label in labels]
    wrong = sorted(
        (
            (cell, true, predicted)
            for true, row in enumerate(counts_CC)
            for predicted, cell in enumerate(row)
            if true != predicted and cell
        ),
        reverse=True,
    )
    top = [f"{labels[true]} taken for {labels[predicted]} {cell} times" for cell, true, predicted in wrong[:3]]
    rows = f"scored rows, summed over {plural(num_seeds, 'seed')}" if num_seeds > 1 else "scored rows of one seed"
    heat: Figure = {
        "type": "heatmap",
        "x": ticks,
        "y": ticks,
        "z": [rounded(row) for row in shares],
        "text": [[str(cell) for cell in row] for row in counts_CC],
        "colorscale": HEAT,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "name": "share of the label's rows",
        "colorbar": {
            "title": {"text": "share of the label's rows", "side": "right", "font": {"size": 12}},
            "thickness": 12,
        },
        "hovertemplate": "%{y} taken for %{x}<br>%{text} rows, share %{z}<extra></extra>",
    }
    if len(labels) ** 2 <= _MAX_TEXT_CELLS:
        heat["texttemplate"] = "%{text}"
    return Plot(
        name="confusion",
        title=f"Confusion matrix of {name}",
        summary=f"Each row is a true label, each column a predicted one ({rows}). "
        + (f"The most frequent errors: {sentence(top)}" if top else "There is no error."),
        data=[heat],
        layout=layout(
            {"title": "predicted label", "type": "category", "tickangle": -60, "showgrid": False},
            {"title": "true label", "type": "category", "autorange": "reversed", "showgrid": False},
        ),
        height=min(900, 240 + 22 * len(labels)),
    )


def class_change_plot(
    labels: Sequence[str], change: Sequence[float | None], num_rows: Sequence[int], *, name: str, default: str
) -> Plot | None:
    """Return by how much the share of right rows of each label differs from the default's; None if there is no row."""
    entries = [
        (value, label, rows) for label, value, rows in zip(labels, change, num_rows, strict=True) if value is not None
    ]
    if not entries:
        return None
    shown = sorted(sorted(entries, key=lambda entry: -abs(entry[0]))[:_MAX_CLASSES], reverse=True)
    left_out = len(entries) - len(shown)
    better, worse = sum(value > 0 for value, _, _ in entries), sum(value < 0 for value, _, _ in entries)
    colors = [BLUE if value >= 0 else ORANGE for value, _, _ in shown]
    return Plot(
        name="classes",
        title=f"Per label: {name} against {default}",
        summary=f"Change of the share of a label's rows that are right: higher for {plural(better, 'label')}, "
        f"lower for {worse}. No intervals: a label with few rows varies much by chance."
        + (f" The {plural(left_out, 'label')} with the smallest changes are not shown." if left_out else ""),
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "x": rounded(value for value, _, _ in shown),
                "y": [plot_text(f"{label} ({rows})") for _, label, rows in shown],
                "marker": {"color": colors},
                "name": "change",
                "hovertemplate": "%{y} rows: %{x}<extra></extra>",
            }
        ],
        layout={
            **layout(
                {"title": "change of the share of right rows"},
                {"type": "category", "autorange": "reversed", "automargin": True, "title": "label (scored rows)"},
            ),
            "showlegend": False,
        },
        height=max(260, 120 + 22 * len(shown)),
    )

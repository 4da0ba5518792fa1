"""The tables of `benchmarks.recipes`, from its rows."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

from benchmarks.arithmetic import table

__all__ = ["EPOCHS", "EPOCHS_BEFORE", "INIT", "RATE", "RATIO", "render"]

Row = Mapping[str, Any]
RATIO, INIT, RATE, EPOCHS = "train.head_lr_ratio", "train.head_init", "train.learning_rate", "train.epochs"
EPOCHS_BEFORE = 3
_HEADS = [
    (1.0, "random"),
    (10.0, "random"),
    (30.0, "random"),
    (100.0, "random"),
    (10.0, "probe"),
    (30.0, "probe"),
    (30.0, "probe, held-out strength"),
]


def render(rows: Sequence[Row]) -> str:
    """Return recipes.md."""
    by_plan: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_plan[row["plan"]].append(row)
    sections = {
        "head": _head,
        "before": _before,
        "length": _length,
        "lr": _rate,
        "screen": _screen,
        "language": _language,
    }
    parts = [draw(by_plan[name], by_plan) for name, draw in sections.items() if by_plan[name]]
    return "# Recipes\n\n" + _INTRODUCTION + "\n\n" + "\n\n".join([*parts, _early(rows), _best_rung(rows)]) + "\n"


_UNCHANGED = "as it is"
"""Name of the trials that the others are compared with."""

_INTRODUCTION = """Made by `python benchmarks/recipes.py`. MiniLM, r=8, alpha=8, dropout 0, learning rate 0.001, unless
a table says otherwise. Validation accuracy on 400 rows (300 for trec_entity): the standard error is 0.015 to 0.025.
Means over seeds."""


def _head(rows: Sequence[Row], by_plan: Mapping[str, Sequence[Row]]) -> str:
    rows = [*rows, *by_plan["probe"]]
    scores = [(of, found) for of, found in _means(rows, _head_of) if len(found) == len(_HEADS)]
    early = _means(rows, _head_of, rung=0)
    header = ["dataset", "classes", "rows", "epochs", *(f"{init}, x{ratio:g}" for ratio, init in _HEADS)]
    lines = [[*_about(of), *(_score(found.get(head)) for head in _HEADS)] for of, found in scores]
    best = [(head, statistics.fmean(max(found.values()) - found[head] for _, found in scores)) for head in _HEADS]
    text = ", ".join(f"{init} x{ratio:g} {loss:.3f}" for (ratio, init), loss in best)
    first = ", ".join(
        f"{init} x{ratio:g} {statistics.fmean(found[ratio, init] for _, found in early if (ratio, init) in found):.3f}"
        for ratio, init in _HEADS
    )
    note = f"Mean distance from the best of a row: {text}.\n\nMean score after a quarter of the training: {first}."
    return f"## Learning rate of the head, and its initial values\n\n{table(header, lines)}\n\n{note}"


def _before(rows: Sequence[Row], by_plan: Mapping[str, Sequence[Row]]) -> str:
    now = dict(_means_by_dataset(_default_rows(by_plan)))
    lines = []
    same = [row for row in by_plan["head"] if _head_of(row) == (1.0, "random") and row["epochs"] == EPOCHS_BEFORE]
    for of, found in _means([*same, *rows], lambda _: "before"):
        new = now.get(of["dataset"])
        if new is not None:
            lines.append(
                [
                    of["dataset"],
                    of["classes"],
                    of["rows"],
                    _score(found["before"]),
                    _score(new),
                    f"{new - found['before']:+.3f}",
                ]
            )
    return "## The default recipe before and now\n\nBefore: one learning rate, three epochs.\n\n" + table(
        ["dataset", "classes", "rows", "before", "now", "difference"], lines
    )


def _default_rows(by_plan: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return the rows of the present default recipe."""
    from sweeper.config.settings import TrainSettings

    ratio = TrainSettings().head_lr_ratio
    nearest = min((1.0, 10.0, 30.0, 100.0), key=lambda known: abs(known - ratio))
    wanted = (nearest, TrainSettings().head_init)
    return [r for r in (*by_plan["head"], *by_plan["probe"]) if _head_of(r) == wanted]


def _length(rows: Sequence[Row], by_plan: Mapping[str, Sequence[Row]]) -> str:
    heads = [(10.0, "random"), (30.0, "random"), (10.0, "probe"), (30.0, "probe")]
    same = [r for r in [*by_plan["head"], *by_plan["probe"]] if r["seed"] == 0 and _head_of(r) in heads]
    found: dict[tuple[str, int], dict[tuple[float, str], float]] = defaultdict(dict)
    about: dict[str, Row] = {}
    for row in [*same, *rows]:
        found[row["dataset"], row["epochs"]][_head_of(row)] = row["accuracy"][-1]
        about[row["dataset"]] = row
    lengths = [key for key in sorted(found, key=lambda key: (list(about).index(key[0]), key[1])) if len(found[key]) > 1]
    lines = [
        [
            name,
            about[name]["classes"],
            about[name]["rows"],
            epochs,
            epochs * about[name]["rows"],
            *(_score(found[name, epochs].get(h)) for h in heads),
        ]
        for name, epochs in lengths
    ]
    header = ["dataset", "classes", "rows", "epochs", "rows seen", *(f"{init}, x{ratio:g}" for ratio, init in heads)]
    return f"## Length\n\nOne seed.\n\n{table(header, lines)}"


def _rate(rows: Sequence[Row], by_plan: Mapping[str, Sequence[Row]]) -> str:
    middle = [
        {**r, "params": {**r["params"], RATE: 1e-3}}
        for r in by_plan["head"]
        if r["seed"] == 0 and r["params"][INIT] == "random"
    ]
    pairs = [(rate, ratio) for rate in (3e-4, 1e-3, 3e-3) for ratio in (1.0, 10.0, 30.0)]
    scores = _means([*rows, *middle], lambda row: (row["params"].get(RATE), row["params"].get(RATIO)))
    lines = [
        [*_about(of), *(_score(found.get(pair)) for pair in pairs)]
        for of, found in scores
        if len(found) > len(pairs) // 2
    ]
    header = ["dataset", "classes", "rows", "epochs", *(f"{rate:g}, x{ratio:g}" for rate, ratio in pairs)]
    note = "One seed. The adapter's learning rate, and the head's as a multiple of it."
    return f"## Learning rates\n\n{note}\n\n{table(header, lines)}"


def _screen(rows: Sequence[Row], _: Mapping[str, Sequence[Row]]) -> str:
    names = list(dict.fromkeys([_UNCHANGED, *(row["name"] for row in rows)]))
    scores = _means(rows, lambda row: row["name"])
    header = ["changed", *(of["dataset"] for of, _ in scores), "mean difference", "on test rows"]
    lines = [
        [
            name,
            *(_score(found.get(name)) for _, found in scores),
            *(_paired_text(rows, name, split) for split in ("accuracy", "test")),
        ]
        for name in names
    ]
    note = "Differences are paired by dataset and seed, with their standard errors."
    return f"## Other hyperparameters\n\n{note}\n\n{table(header, lines)}"


def _paired_text(rows: Sequence[Row], name: str, split: str) -> str:
    paired = _paired(rows, name, split)
    if name == _UNCHANGED or not paired:
        return "-"
    error = f" ± {statistics.stdev(paired) / len(paired) ** 0.5:.4f}" if len(paired) > 1 else ""
    return f"{statistics.fmean(paired):+.4f}{error}"


def _language(rows: Sequence[Row], by_plan: Mapping[str, Sequence[Row]]) -> str:
    first, _, rest = _screen(rows, by_plan).partition("\n\n")
    return f"{first}, language model\n\nSmolLM2-135M on TREC as instructions, 480 rows, 3 epochs. {rest}"


def _paired(rows: Sequence[Row], name: str, split: str) -> list[float]:
    last = {(row["dataset"], row["seed"], row["name"]): row[split][-1] for row in rows}
    scores = {identity: value for identity, value in last.items() if value is not None}
    return [
        value - scores[dataset, seed, _UNCHANGED]
        for (dataset, seed, changed), value in scores.items()
        if changed == name and (dataset, seed, _UNCHANGED) in scores
    ]


def _early(rows: Sequence[Row]) -> str:
    """Return how well the score after a part of the training predicts the order at the end."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["plan"] in ("head", "lr") and row["params"].get(INIT, "random") == "random":
            groups[row["dataset"], row["seed"], row["epochs"]].append(row)
    lines: dict[str, list[list[float]]] = defaultdict(list)
    for (dataset, _, _), found in groups.items():
        if len(found) >= 4:
            ends = [row["accuracy"][-1] for row in found]
            lines[dataset].append(
                [float(spearmanr([r["accuracy"][part] for r in found], ends).statistic) for part in range(3)]
            )
    cells = [
        [name, *(f"{statistics.fmean(values):.2f}" for values in zip(*known, strict=True))]
        for name, known in lines.items()
    ]
    return "## Rank correlation of early scores with the last one\n\nOver settings with a random head.\n\n" + table(
        ["dataset", "after a quarter", "after a half", "after three quarters"], cells
    )


def _best_rung(rows: Sequence[Row]) -> str:
    """Return what choosing the best-scored rung promises on validation rows and keeps on test rows."""
    chosen = [row for row in rows if None not in row["test"]]
    if not chosen:
        return ""
    promised, kept = [], []
    for row in chosen:
        best = max(range(len(row["accuracy"])), key=lambda index: (row["accuracy"][index], index))
        promised.append(row["accuracy"][best] - row["accuracy"][-1])
        kept.append(row["test"][best] - row["test"][-1])
    error = statistics.stdev(kept) / len(kept) ** 0.5
    return (
        "## The best-scored rung against the last one\n\n"
        f"{len(chosen)} trials, scored four times on validation and test rows. The best of a trial's four validation "
        f"scores is {statistics.fmean(promised):+.4f} above its last one; on test rows, the same adapter is "
        f"{statistics.fmean(kept):+.4f} (standard error {error:.4f}) above the last one."
    )


def _head_of(row: Row) -> tuple[float, str]:
    strength = ", held-out strength" if row["params"].get("held_out_strength") else ""
    return row["params"].get(RATIO, 1.0), row["params"].get(INIT, "random") + strength


def _means(rows: Iterable[Row], key: Callable[[Row], Any], *, rung: int = -1) -> list[tuple[Row, dict[Any, float]]]:
    """Return a row of each dataset, with the mean accuracy at a rung, the last one by default, by key."""
    found: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    about: dict[str, Row] = {}
    for row in rows:
        found[row["dataset"]][key(row)].append(row["accuracy"][rung])
        about.setdefault(row["dataset"], row)
    return [(about[name], {k: statistics.fmean(v) for k, v in keys.items()}) for name, keys in found.items()]


def _means_by_dataset(rows: Iterable[Row]) -> list[tuple[str, float]]:
    return [(of["dataset"], found["all"]) for of, found in _means(rows, lambda _: "all")]


def _about(row: Row) -> list[Any]:
    return [row["dataset"], row["classes"], row["rows"], row["epochs"]]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""The page and the plot of the recorded searches."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import table
from benchmarks.replay.contenders import CONTENDERS, PEERS
from benchmarks.replay.judge import SHARES
from benchmarks.replay.plots import plot_regrets
from benchmarks.replay.verdicts import Comparison, Regrets, compare, compare_over_tables

__all__ = ["write_page"]

OURS = "sweeper"
_SHOWN = (0.25, 0.5, 1.0)
"""Shares of the budget in the tables."""
_GOAL_SHARES, _GOAL_LANES = (0.5, 1.0), (8, 16)
_NULL = "null"

Row = dict[str, Any]
Cells = Mapping[tuple[str, str, int], Sequence[Row]]
"""Rows by truth, contender and lanes."""


def write_page(rows: Iterable[Row], folder: Path, *, is_table: Mapping[str, bool]) -> None:
    """Write replay.md and replay.png.

    Args:
        rows: Rows of replay.jsonl.
        folder: Where they are written.
        is_table: By truth, whether it is a table of recorded trials; the others are synthetic.
    """
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["truth"], row["contender"], row["lanes"]].append(row)
    cells = {key: sorted(group, key=lambda row: row["seed"]) for key, group in found.items()}
    tables = [truth for truth, is_real in is_table.items() if is_real and any(key[0] == truth for key in cells)]
    others = [truth for truth, is_real in is_table.items() if not is_real and any(key[0] == truth for key in cells)]
    plotted = tables or [truth for truth in others if truth != _NULL]
    names = [name for name in [OURS, *CONTENDERS] if any(key[1] == name for key in cells)]
    plot_regrets(cells, plotted, {name: _text(name) for name in names}, folder / "replay.png")
    lines = ["# Searches on the same trials", "", *_introduction(cells, names), ""]
    if tables:
        lines += _goal(cells, tables)
        lines += ["## Over all tables", "", *_overview(cells, tables), "![Regret over device time](replay.png)", ""]
        lines += ["## Each table", "", *_each(cells, tables)]
    if others:
        lines += ["## Synthetic truths", "", *_each(cells, [truth for truth in others if truth != _NULL])]
        lines += _null(cells)
    lines += ["## CPU seconds of a search's own code", "", *_cpu(cells, names)]
    (folder / "replay.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _introduction(cells: Cells, names: Sequence[str]) -> list[str]:
    seeds = max((len(rows) for rows in cells.values()), default=0)
    missing = [
        text for peer, text in PEERS.items() if not any(CONTENDERS[n].peer == peer for n in names if n in CONTENDERS)
    ]
    return [
        f"Written by `make replay` from replay.jsonl; {seeds} seeds. Every search has the device time of 16 full "
        "trials on one device. Regret: by how much the mean score of the configuration that a user would choose (the "
        "best complete trial) is below the best mean score. Negative differences favour sweeper; the verdict is "
        "*worse* or *better* if the 95 % interval of the paired difference leaves out zero. [How it is "
        "measured](../../docs/benchmarks.md#searches-on-the-same-trials).",
        *(["", f"Not run yet, or not installed: {', '.join(missing)}."] if missing else []),
    ]


def _goal(cells: Cells, tables: Sequence[str]) -> list[str]:
    """Return whether any peer is better over all tables where the goal says that none must be."""
    lines = []
    for lanes in _GOAL_LANES:
        for share in _GOAL_SHARES:
            for name in CONTENDERS:
                found = _over_tables(cells, tables, name, lanes, share)
                if found is not None and found.verdict == "worse":
                    lines.append(f"- {_text(name)} at {lanes} lanes, {share:.0%}: {found}")
    if not any(key[1] == OURS for key in cells):
        return []
    if not lines:
        return [
            "**Over all tables, no search is better than sweeper at 50 and 100 % of the budget, at 8 and 16 lanes.**",
            "",
        ]
    return [
        "**Over all tables, these are better than sweeper at 50 or 100 % of the budget, at 8 or 16 lanes:**",
        "",
        *lines,
        "",
    ]


def _overview(cells: Cells, tables: Sequence[str]) -> list[str]:
    lines = []
    for lanes in _lanes(cells):
        rows: list[list[object]] = []
        for name in _present(cells, tables, lanes):
            groups = [cells[truth, name, lanes] for truth in tables if (truth, name, lanes) in cells]
            regrets = [statistics.mean(_mean(group, share) for group in groups) for share in _SHOWN]
            medians = [statistics.mean(_median(group, share) for group in groups) for share in _SHOWN]
            good = [row["good"] for group in groups for row in group if row["good"] is not None]
            versus = [_over_tables(cells, tables, name, lanes, share) for share in _SHOWN]
            rows.append(
                [
                    _text(name),
                    *(f"{mean:.4f} ({median:.4f})" for mean, median in zip(regrets, medians, strict=True)),
                    f"{statistics.mean(good):.0%}" if good else "",
                    *("" if found is None else str(found) for found in versus),
                ]
            )
        header = ["search", *(f"regret at {share:.0%}" for share in _SHOWN), "good draws"]
        header += [f"sweeper less it, {share:.0%}" for share in _SHOWN]
        title = f"### {lanes} lane{'s' if lanes > 1 else ''}"
        lines += [title, "", "Mean over tables of the mean (median) over seeds.", "", table(header, rows), ""]
    return lines


def _each(cells: Cells, truths: Sequence[str]) -> list[str]:
    lines = []
    for lanes in _lanes(cells):
        present = [truth for truth in truths if any(key[0] == truth and key[2] == lanes for key in cells)]
        if not present:
            continue
        rows = [
            [_text(name), *(_cell(cells, truth, name, lanes) for truth in present)]
            for name in _present(cells, present, lanes)
        ]
        lines += [
            f"### {lanes} lane{'s' if lanes > 1 else ''}: mean regret at 50 and 100 %, and the verdicts",
            "",
            table(["search", *present], rows),
            "",
        ]
    return lines


def _cell(cells: Cells, truth: str, name: str, lanes: int) -> str:
    if (truth, name, lanes) not in cells:
        return ""
    texts = []
    for share in _GOAL_SHARES:
        group = cells[truth, name, lanes]
        ours = cells.get((truth, OURS, lanes))
        verdict = f" {compare(_regrets(ours, share), _regrets(group, share)).verdict}" if ours and name != OURS else ""
        texts.append(f"{_mean(group, share):.4f}{verdict}")
    return ", ".join(texts)


def _null(cells: Cells) -> list[str]:
    """Return what each search does where all configurations are equal, so that its regret is zero whatever it does."""
    all_lanes = [lanes for lanes in _lanes(cells) if _present(cells, [_NULL], lanes)]
    if not all_lanes:
        return []
    rows: list[list[object]] = []
    for name in dict.fromkeys(name for lanes in all_lanes for name in _present(cells, [_NULL], lanes)):
        groups = [cells.get((_NULL, name, lanes), ()) for lanes in all_lanes]
        rows.append([_text(name), *(_spent(group) for group in groups)])
    text = (
        "All configurations are equal, so the regret is zero. A search can only spend its time on trials or on scores."
    )
    header = ["search", *(f"{lanes} lanes: trials, complete ones, chunks" for lanes in all_lanes)]
    return ["### Null", "", text, "", table(header, rows), ""]


def _spent(group: Sequence[Row]) -> str:
    if not group:
        return ""
    return ", ".join(f"{statistics.mean(row[key] for row in group):.1f}" for key in ("draws", "complete", "chunks"))


def _cpu(cells: Cells, names: Sequence[str]) -> list[str]:
    rows: list[list[object]] = []
    for name in names:
        groups = [row for key, group in cells.items() if key[1] == name for row in group]
        per_draw = [row["cpu_s"] / row["draws"] for row in groups if row["draws"]]
        rows.append(
            [_text(name), f"{statistics.mean(per_draw):.4f}", f"{statistics.mean(r['cpu_s'] for r in groups):.2f}"]
        )
    text = (
        "Of all calls, by the number of trials; sweeper's include its controller and the simulated worker. One thread."
    )
    return [text, "", table(["search", "per trial", "per search"], rows), ""]


def _over_tables(cells: Cells, tables: Sequence[str], name: str, lanes: int, share: float) -> Comparison | None:
    ours = {t: _regrets(cells[t, OURS, lanes], share) for t in tables if (t, OURS, lanes) in cells}
    theirs = {t: _regrets(cells[t, name, lanes], share) for t in tables if (t, name, lanes) in cells}
    both = {t: found for t, found in ours.items() if t in theirs and found.keys() & theirs[t].keys()}
    return compare_over_tables(both, theirs) if both and name != OURS else None


def _regrets(group: Sequence[Row], share: float) -> Regrets:
    return {row["seed"]: row["regret"][SHARES.index(share)] for row in group}


def _mean(group: Sequence[Row], share: float) -> float:
    return statistics.mean(_regrets(group, share).values())


def _median(group: Sequence[Row], share: float) -> float:
    return statistics.median(_regrets(group, share).values())


def _lanes(cells: Cells) -> list[int]:
    return sorted({lanes for _, _, lanes in cells})


def _present(cells: Cells, truths: Sequence[str], lanes: int) -> list[str]:
    return [name for name in [OURS, *CONTENDERS] if any((truth, name, lanes) in cells for truth in truths)]


def _text(name: str) -> str:
    return CONTENDERS[name].text if name in CONTENDERS else name

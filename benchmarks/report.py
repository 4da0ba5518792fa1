"""Renders bench.md and the plots from the newest rows of every section."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import machine_speed, plots
from benchmarks.record import Results, Row, describe_machine
from benchmarks.sections import (
    equal_work,
    language_model,
    layout,
    limit,
    make_sweep,
    memory,
    parity,
    profile,
    throughput,
    time_to_score,
)

__all__ = ["render_report"]


@dataclass(frozen=True, slots=True)
class _Part:
    section: str
    title: str
    render: Callable[[Sequence[Row]], str]
    picture: str = ""


_PARTS = (
    _Part("time_to_score", "Time to the tuned script's best score", time_to_score.render, "time_to_score.png"),
    _Part("make_sweep", "The default sweep", make_sweep.render),
    _Part("equal_work", "Trials per hour at equal work", equal_work.render),
    _Part("memory", "Peak memory", memory.render),
    _Part("throughput", "Rows per second over tokens per step", throughput.render, "throughput.png"),
    _Part("limit", "Distance to the limit", limit.render),
    _Part("profile", "Where the time of a step goes", profile.render),
    _Part("parity", "Scores of packed bf16 trials and of stock PEFT in fp32", parity.render),
    _Part("language_model", "A language model", language_model.render),
    _Part("layout", "The peer script's use of two cores", layout.render),
)


def render_report(results: Results) -> str:
    """Write bench.md and the plots; return the text."""
    parts = ["# Benchmarks", _INTRODUCTION]
    for part in _PARTS:
        rows = results.latest(part.section)
        if rows:
            parts += _section_lines(part, rows, results)
    text = "\n\n".join(parts) + "\n"
    aside = results.folder / ".bench.md.tmp"
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, results.folder / "bench.md")
    return text


def _section_lines(part: _Part, rows: Sequence[Row], results: Results) -> list[str]:
    stamp = results.machine_of(rows[0]["run"])
    found = [f"## {part.title}"]
    if stamp.get("note") == "short":
        found.append("**Short form: it only checks that everything runs. The numbers mean nothing.**")
    speeds = [row for row in results.of_run(machine_speed.SECTION, rows[0]["run"]) if row["section"] == part.section]
    speed = f"The machine during this section: {machine_speed.describe_speed(speeds)}."
    found += [part.render(rows), speed, f"Measured on: {describe_machine(stamp)}."]
    if part.picture:
        path = results.folder / part.picture
        if part.section == time_to_score.SECTION:
            plots.plot_time_to_score(rows, time_to_score.NAMES, path)
        else:
            plots.plot_throughput(rows, path)
        found.append(f"![{part.title}]({part.picture})")
    return found


_INTRODUCTION = (
    "Written by `python benchmarks/run.py`; the raw rows are next to it. Each ratio is from one run on one machine. It "
    "differs between machines, also between CPUs of one name, so the clock and the rate of plain matrix products, "
    "measured right before and after the section, are below each table. Absolute times mean little, because this "
    "machine may have been busy. The docstrings of `benchmarks/peers/` and `benchmarks/sections/` describe each "
    "contender, and every choice that affects a ratio."
)

"""The table of `crash_points`: how many points of each kind were tried, and with what outcome."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.disk_shim import ERRORS
from chaos.evidence import commit, upper_bound
from chaos.power_loss import IMAGES

if TYPE_CHECKING:
    from chaos.crash_points import Result

__all__ = ["write_report"]

_COLUMNS = ("points", "same", "not reached", "tried", "with complaints")


def write_report(file: Path | None, results: Sequence[Result], *, seconds: float, command: str) -> str:
    """Return the table as Markdown, and write it with the counts and complaints as JSON.

    Args:
        file: Where to write counts and complaints (.json) and the table (.md), without suffix; None writes nothing.
        results: The outcomes.
        seconds: How long it took.
        command: The command that was run.
    """
    rows = _rows(results)
    head = {
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round(seconds / 60, 1),
    }
    total = {column: sum(row[column] for row in rows) for column in _COLUMNS}
    # With no complaint in n tries, the chance of one is at most this, with 95 % confidence, if points were alike.
    bound = upper_bound(total["tried"]) if total["tried"] and not total["with complaints"] else None
    complaints = [
        {"point": f"{r.scenario}: {r.fault.what} {r.fault.at.kind} {r.fault.at.number} of {r.fault.at.thread}"}
        | {"path": r.fault.at.path, "what": r.what, "complaints": r.complaints}
        for r in results
        if r.complaints
    ]
    table = _table(rows, total)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {**head, "rows": rows, "total": total, "upper_bound_95": bound, "complaints": complaints}
        file.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        made = f"Made by `{command}`, commit {head['commit']}, {head['date']}, {head['minutes']} minutes."
        text = f"# Crash points\n\n{made}\n"
        file.with_suffix(".md").write_text(f"{text}\n{_LEGEND}\n\n{table}\n", encoding="utf-8")
    return table


_LEGEND = (
    "After each point, the same command ran again and the sweep was compared with an undisturbed one: trials, scores, "
    "decisions, reports, adapters, ledger, Optuna, MLflow, leftover files, `sweeper reconcile --dry-run`. `same`: not "
    "tried, since an earlier point leaves an identical disk. `not reached`: threads did not get there in this session."
)


def _rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    groups: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.scenario, _title(result)].append(result)
    return [
        {
            "scenario": scenario,
            "disturbance": title,
            "points": len(group),
            "same": sum(each.is_same for each in group),
            "not reached": sum(not each.is_reached for each in group),
            "tried": sum(not each.is_same and each.is_reached for each in group),
            "with complaints": sum(bool(each.complaints) for each in group),
        }
        for (scenario, title), group in sorted(groups.items())
    ]


def _title(result: Result) -> str:
    at = result.fault.at
    if result.what in ERRORS:
        return f"{result.what} at {at.kind}"
    if result.what in IMAGES:
        return f"power failure before {at.kind}: {IMAGES[result.what]}"
    when = "at the system call" if result.fault.what == "strace" else result.fault.what
    return f"kill {when} {at.kind}"


def _table(rows: Sequence[Mapping[str, Any]], total: Mapping[str, int]) -> str:
    columns = ("scenario", "disturbance", *_COLUMNS)
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in rows]
    return "\n".join([*lines, f"| all |  | {' | '.join(str(total[column]) for column in _COLUMNS)} |"])

"""Compares searches on the same tables and synthetic truths, at equal device time; make replay.

    python -m benchmarks.replay.run                    everything that results/replay.jsonl lacks, then the page
    python -m benchmarks.replay.run --short            checks that everything runs; the numbers mean nothing
    python -m benchmarks.replay.run --only sweeper     one contender, and the page

Every search has the device time of 16 full trials. A row of replay.jsonl is one search; it has the regret at each
twentieth of the budget. A row whose table or whose contender's code has changed is computed again, so the command can
be killed at any time and repeated.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.replay.contenders import CONTENDERS, Entry, Peer, PeerSearch, Start
from benchmarks.replay.driver import Contender, Log, drive, full_trial_s
from benchmarks.replay.judge import good_draws, regrets
from benchmarks.replay.ours import drive_ours
from benchmarks.replay.page import write_page
from benchmarks.replay.truths import TRUTHS
from sweeper.disk.atomic import checksum, write_atomic
from sweeper.simulate.base import ResponseProtocol
from sweeper.simulate.response import TableResponse
from sweeper.simulate.table import Table

ROOT = Path(__file__).resolve().parents[2]
OURS = "sweeper"
_OURS = Entry(name=OURS, text=OURS, sampler="auto")
_BUDGET_TRIALS = 16
_NUM_SEEDS = 30
_LANES = (1, 8, 16)
_FEW_SEEDS = 10
"""Seeds of slow contenders with one lane, which the goal does not cover."""
_UNIT_SEEDS = 10
"""Searches of a unit of work; after each unit, its rows are on disk."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Searches of one contender on one truth."""

    truth: str
    table: str
    """Path of its table; empty for a synthetic truth."""
    data: str
    """Changes with the truth's data."""
    contender: str
    code: str
    """Changes with the contender's code."""
    lanes: int
    seeds: tuple[int, ...]
    peers: str
    """Folder of the peers' environments."""


def main() -> None:
    """Compute what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one seed on two truths, into results/short")
    parser.add_argument("--page", action="store_true", help="compute nothing; write the page of the recorded rows")
    parser.add_argument("--only", nargs="+", metavar="contender", default=[], help=", ".join([OURS, *CONTENDERS]))
    parser.add_argument("--truths", nargs="+", metavar="truth", default=[], help="tables or synthetic truths")
    parser.add_argument("--seeds", type=int, default=_NUM_SEEDS)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--tables", type=Path, default=ROOT / "benchmarks" / "tables")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    if asked.short:
        asked.seeds, asked.truths = 1, asked.truths or ["ridge", "null"]
        asked.results = asked.results / "short"
    failures = compare(asked)
    if failures:
        sys.exit("\n".join(failures))


def compare(asked: argparse.Namespace) -> list[str]:
    """Compute the rows that are missing, write the page, and return the errors of peers."""
    path = asked.results / "replay.jsonl"
    units = list(_units(asked))
    rows = _current(_read(path), _units_of_all(asked))
    known = {_key(row) for row in rows}
    todo = [] if asked.page else [unit for whole in units for unit in _missing(whole, known)]
    # What the goal is about comes first.
    todo.sort(key=lambda unit: (unit.contender != OURS and CONTENDERS[unit.contender].is_slow, unit.lanes == 1))
    failures = []
    for count, (unit, found) in enumerate(_results(todo, asked.processes), 1):
        if isinstance(found, RuntimeError):
            failures.append(f"{unit.contender} on {unit.truth}, {unit.lanes} lane(s): {found}")
        else:
            rows += found
            _append(path, found)
        sys.stderr.write(f"\r{count} of {len(todo)} units ")
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in sorted(rows, key=_key)).encode())
    write_page(rows, asked.results, is_table={unit.truth: bool(unit.table) for unit in _units_of_all(asked)})
    return failures


def _results(units: Sequence[Unit], num_processes: int) -> Iterator[tuple[Unit, list[Row] | RuntimeError]]:
    if num_processes == 1:
        yield from ((unit, search_all(unit)) for unit in units)
        return
    # A fork of a process with threads may hang.
    with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(search_all, unit): unit for unit in units}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


def search_all(unit: Unit) -> list[Row] | RuntimeError:
    """Run the searches of a unit; return the error of a peer that cannot."""
    try:
        return _search_all(unit)
    except RuntimeError as error:
        return error


def _search_all(unit: Unit) -> list[Row]:
    response, budget_s = _open(unit.truth, unit.table)
    found = []
    for seed in unit.seeds:
        log = search(unit, response, budget_s, seed)
        good = good_draws(response, log)
        complete = sum(rung.chunk == response.num_chunks for rung in log.rungs)
        found.append(
            {
                **{name: getattr(unit, name) for name in ("truth", "data", "contender", "code", "lanes")},
                "seed": seed,
                "regret": [round(regret, 5) for regret in regrets(response, log, budget_s)],
                "good": None if math.isnan(good) else round(good, 3),
                "draws": len(log.draws),
                "complete": complete,
                "chunks": log.chunks,
                "cpu_s": round(log.cpu_s, 4),
            }
        )
    return found


def search(unit: Unit, response: ResponseProtocol, budget_s: float, seed: int) -> Log:
    """Run one search."""
    sampler = _sampler(unit.contender)
    if sampler:
        own = CONTENDERS.get(unit.contender, _OURS)
        return drive_ours(
            response,
            sampler,
            num_lanes=unit.lanes,
            budget_s=budget_s,
            seed=seed,
            knows_recipes=own.knows_recipes,
            overrides=own.overrides,
        )
    entry = CONTENDERS[unit.contender]
    start = Start(space=response.space, num_chunks=response.num_chunks, num_lanes=unit.lanes, seed=seed)
    make: Callable[[], Contender]
    if entry.make is not None:
        make = functools.partial(entry.make, start)
    else:
        make = functools.partial(PeerSearch, start, _peer(unit.peers, entry.peer), entry.options)
    return drive(make, response, num_lanes=unit.lanes, budget_s=budget_s, seed=seed)


def _sampler(contender: str) -> str:
    """Return the sampler of this project's own search; empty for another search."""
    return CONTENDERS.get(contender, _OURS).sampler


@functools.cache
def _peer(folder: str, name: str) -> Peer:
    module = "benchmarks.replay.adapters.protocol"
    return Peer([str(_python(Path(folder), name)), "-m", module, name])


def _python(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


@functools.lru_cache(maxsize=2)
def _open(truth: str, table: str) -> tuple[ResponseProtocol, float]:
    response: ResponseProtocol = TableResponse(Table.read(Path(table))) if table else TRUTHS[truth]
    return response, _BUDGET_TRIALS * full_trial_s(response)


def _units(asked: argparse.Namespace) -> Iterator[Unit]:
    for unit in _units_of_all(asked):
        is_wanted = not asked.only or unit.contender in asked.only
        if is_wanted and _is_installed(unit) and (not asked.truths or unit.truth in asked.truths):
            yield unit


def _is_installed(unit: Unit) -> bool:
    entry = CONTENDERS.get(unit.contender)
    return entry is None or not entry.peer or _python(Path(unit.peers), entry.peer).exists()


def _units_of_all(asked: argparse.Namespace) -> Iterator[Unit]:
    """Return all searches, also those of peers that are not installed here."""
    tables = {path.stem: path for path in sorted(asked.tables.glob("*.parquet"))}
    for truth in [*tables, *TRUTHS]:
        table = tables.get(truth)
        data = checksum(table.read_bytes())[:8] if table else _digest(["benchmarks/replay/truths.py"])
        for contender in [OURS, *CONTENDERS]:
            entry = CONTENDERS.get(contender)
            is_slow = entry is not None and entry.is_slow and not asked.short
            if is_slow and table is None:
                continue
            for lanes in _LANES:
                num_seeds = min(asked.seeds, _FEW_SEEDS) if is_slow and lanes == 1 else asked.seeds
                yield Unit(
                    truth=truth,
                    table=str(table or ""),
                    data=data,
                    contender=contender,
                    code=_code(contender),
                    lanes=lanes,
                    seeds=tuple(range(num_seeds)),
                    peers=str(asked.peers),
                )


@functools.cache
def _code(contender: str) -> str:
    """Return a digest of the code that a contender's rows depend on."""
    if _sampler(contender):
        folders = ["search", "simulate", "control", "sweep", "statistics", "config"]
        return _digest(["conf/search", "benchmarks/replay/ours.py", *(f"sweeper/{name}" for name in folders)])
    entry = CONTENDERS[contender]
    if entry.peer:
        return _digest([f"benchmarks/replay/adapters/{entry.peer}.py", f"benchmarks/replay/peers/{entry.peer}.txt"])
    return _digest(["benchmarks/replay/contenders.py"])


def _digest(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(file for name in names for file in _files(ROOT / name)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in (".py", ".yaml", ".json")]


def _missing(unit: Unit, known: set[tuple]) -> Iterator[Unit]:
    seeds = [seed for seed in unit.seeds if _key(_names(unit) | {"seed": seed}) not in known]
    for first in range(0, len(seeds), _UNIT_SEEDS):
        yield replace(unit, seeds=tuple(seeds[first : first + _UNIT_SEEDS]))


def _names(unit: Unit) -> Row:
    return {name: getattr(unit, name) for name in ("truth", "data", "contender", "code", "lanes")}


def _key(row: Row) -> tuple:
    return tuple(row[name] for name in ("truth", "contender", "lanes", "seed", "data", "code"))


def _current(rows: list[Row], units: Iterable[Unit]) -> list[Row]:
    """Return the rows whose truth and contender are still what they were, without duplicates."""
    valid = {(unit.truth, unit.data, unit.contender, unit.code, unit.lanes) for unit in units}
    names = ("truth", "data", "contender", "code", "lanes")
    kept = {_key(row): row for row in rows if tuple(row[name] for name in names) in valid}
    return list(kept.values())


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    # The last line is incomplete after a kill.
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def _append(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()

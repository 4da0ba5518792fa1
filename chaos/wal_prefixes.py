"""Damage the study database as a loss of power may, in every way, and start the sweep again.

    python chaos/wal_prefixes.py              every position of the write-ahead log, at two moments of a sweep
    python chaos/wal_prefixes.py --short      some of them

The sweep is small and has fake workers; controller, search, store and database are real. At each moment, its folder is
copied as it is. Then the log is cut after every frame and inside every frame, files are taken away or replaced by those
of an earlier moment, pages are overwritten, and rows lose their parameters. Each time the sweep is started again. It
must end with the trials and decisions that it has with an intact database, and the database must agree with the store.
The long form writes chaos/results/wal_prefixes.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos.evidence import commit as commit_name  # noqa: E402  after the path is set
from sweeper.config.compose import SweepConfig, compose  # noqa: E402
from sweeper.config.settings import SweepSettings  # noqa: E402
from sweeper.search.distributions import from_shown  # noqa: E402
from sweeper.search.study import Search  # noqa: E402
from sweeper.search.write_behind import WriteBehind  # noqa: E402
from sweeper.store.paths import SweepPaths  # noqa: E402
from sweeper.store.sqlite import sqlite_files  # noqa: E402
from sweeper.sweep.factory import open_search  # noqa: E402
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState  # noqa: E402
from tests.control.bench import Bench  # noqa: E402
from tests.search.toy import SPACE, preset  # noqa: E402

__all__ = ["Suite", "run"]

_MOMENTS = (1, 12)
"""Writes to the database after which the power is lost; 1 is that of the first trial, right after the tables."""
_LOG_HEADER, _FRAME_HEADER = 32, 24
_NUM_TRIALS = 9
_STUDY = "toy"
_STATES = {TrialState.PRUNED: "PRUNED", TrialState.COMPLETE: "COMPLETE"}
_OF_TRIAL = "trial_id = (SELECT trial_id FROM trials WHERE number = ?)"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way to damage the database at a moment."""

    kind: str
    where: str
    damage: Callable[[Path], None]
    """Damages the database in the folder of a sweep."""


@dataclass
class _Sweep(Bench):
    """A sweep whose database is opened as `sweeper run` opens it."""

    num_trials: int = _NUM_TRIALS
    lanes: int = 2

    def _open_search(self, study: StudyRecord) -> Search:
        settings = dataclasses.replace(_settings(), search=self.search, seed=1)
        return open_search(study, SweepConfig(settings, SPACE), self.store)


@cache
def _settings() -> SweepSettings:
    return compose(["name=sweep"]).settings


class Suite:
    """Runs a sweep, and damages its database at some moments.

    Args:
        folder: An empty folder. Flushing files is most of the time, so one in memory is best.
        moments: Writes to the database after which the power is lost.
        every: Tries every n-th point of each kind.
    """

    def __init__(self, folder: Path, *, moments: Sequence[int] = _MOMENTS, every: int = 1) -> None:
        self._folder, self._moments, self._every = folder, moments, every
        self.points: Counter[str] = Counter()
        """Points tried, by kind."""
        self.outcomes: Counter[str] = Counter()
        """What the start did, by kind of the point and what it was: brought up to date, or moved aside and rebuilt."""
        self.complaints: list[str] = []
        """What was wrong, each with the name of the rule first."""

    def run(self) -> None:
        """Try all points."""
        self._record()
        for index, moment in enumerate(self._moments):
            expected = self._expected(moment)
            earlier = [self._copied(each) for each in self._moments[:index]]
            points = list(_points(self._copied(moment), earlier))
            for kind in dict.fromkeys(point.kind for point in points):
                of_kind = [point for point in points if point.kind == kind]
                for point in of_kind[:: max(1, min(self._every, len(of_kind) - 1))]:  # the first and another at least
                    self._try(moment, point, expected)

    def _copied(self, moment: int) -> Path:
        return self._folder / f"moment-{moment}" / "sweep"

    def _record(self) -> None:
        """Run the sweep once, and copy its folder at the moments. The database is written in this thread."""
        sweep, writes = _Sweep(self._folder / "whole" / "sweep", search=_search()), []

        def put(writer: WriteBehind, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
            if trials:
                writer._write(trials)
                writes.append(len(trials))
                if len(writes) in self._moments:
                    shutil.copytree(sweep.folder, self._copied(len(writes)))

        with patch.object(WriteBehind, "put", put):
            sweep.run()
        assert len(writes) > max(self._moments), f"the sweep has only {len(writes)} writes"

    def _start(self, moment: int, damage: Callable[[Path], None]) -> tuple[_Sweep, dict[int, TrialRecord]]:
        """Return the sweep as it ends after a loss of power, and the records it had then."""
        folder = self._folder / "again" / "sweep"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._copied(moment), folder)
        damage(folder)
        sweep = _Sweep(folder, search=_search())
        before = sweep.trials()
        sweep.run()
        return sweep, before

    def _expected(self, moment: int) -> Mapping[int, Any]:
        sweep, _ = self._start(moment, lambda _folder: None)
        return _ends(sweep)

    def _try(self, moment: int, point: Point, expected: Mapping[int, Any]) -> None:
        self.points[point.kind] += 1
        where = f"{point.kind}, {point.where}, after write {moment}"
        try:
            sweep, before = self._start(moment, point.damage)
        except Exception as error:  # noqa: BLE001  any error is a complaint
            self.complaints.append(f"starts: {where}: {type(error).__name__}: {error}")
            return
        is_rebuilt = (sweep.folder / "damaged").exists()
        self.outcomes[f"{point.kind}: {'moved aside and rebuilt' if is_rebuilt else 'brought up to date'}"] += 1
        self.complaints += [f"{rule}: {where}: {what}" for rule, what in _check(sweep, before, expected)]


def run(folder: Path, *, moments: Sequence[int] = _MOMENTS, every: int = 1) -> list[str]:
    """Return complaints about all points, see `Suite`."""
    suite = Suite(folder, moments=moments, every=every)
    suite.run()
    return suite.complaints


def _file(folder: Path, suffix: str = "") -> Path:
    """Return a file of the database of a sweep."""
    database = SweepPaths(folder).optuna_db
    return database.with_name(database.name + suffix)


def _search() -> Any:
    return dataclasses.replace(preset("tpe", num_startup_trials=2), reduction_factor=2)


def _points(folder: Path, earlier: Sequence[Path]) -> Iterator[Point]:
    """Yield the points at a moment."""
    log = _file(folder, "-wal")
    size, frame = log.stat().st_size, _FRAME_HEADER + _page_size(folder)
    for length in (0, 1, _LOG_HEADER // 2, _LOG_HEADER - 1):
        yield Point(kind="torn header of the log", where=f"{length} bytes", damage=partial(_cut, length=length))
    num_frames = (size - _LOG_HEADER) // frame
    for number in range(num_frames + 1):
        end = _LOG_HEADER + number * frame
        where = f"frame {number} of {num_frames}"
        yield Point(kind="log cut after a frame", where=where, damage=partial(_cut, length=end))
        if number < num_frames:
            for kind, part in (("header", _FRAME_HEADER // 2), ("page", frame // 2)):
                yield Point(kind=f"torn {kind} of a frame", where=where, damage=partial(_cut, length=end + part))
            yield Point(kind="frame of zeros", where=where, damage=partial(_cut, length=end, fill=frame))
    for missing in (["-wal"], ["-shm"], ["-wal", "-shm"], [""], ["", "-wal"], ["", "-wal", "-shm"]):
        names = ", ".join(_file(folder, suffix).name for suffix in missing)
        yield Point(kind="missing files", where=names, damage=partial(_remove, suffixes=missing))
    for other in earlier:
        for suffixes in ([""], ["", "-wal", "-shm"], ["-wal"]):
            names = ", ".join(_file(folder, suffix).name for suffix in suffixes)
            damage = partial(_replace, source=other, suffixes=suffixes)
            yield Point(kind="files of an earlier moment", where=f"{names} of {other.parent.name}", damage=damage)
    for number in range(_num_pages(folder)):
        yield Point(kind="overwritten page", where=f"page {number}", damage=partial(_overwrite, page=number))
        yield Point(kind="truncated database", where=f"page {number}", damage=partial(_truncate, page=number))
    for trial in range(_num_trials(folder)):
        for kind, statements in _HALF_WRITTEN.items():
            yield Point(kind=kind, where=f"trial {trial}", damage=partial(_execute, statements=statements, trial=trial))


_HALF_WRITTEN = {
    "row without parameters": [f"DELETE FROM trial_params WHERE {_OF_TRIAL}"],  # noqa: S608
    "row with some parameters": [
        f"DELETE FROM trial_params WHERE {_OF_TRIAL} AND param_name != 'lora.r'",  # noqa: S608
        f"UPDATE trial_params SET param_value = 6 WHERE {_OF_TRIAL}",  # noqa: S608
    ],
    "waiting row": [
        f"DELETE FROM trial_params WHERE {_OF_TRIAL}",  # noqa: S608
        f"DELETE FROM trial_values WHERE {_OF_TRIAL}",  # noqa: S608
        f"UPDATE trials SET state = 'WAITING', datetime_start = NULL WHERE {_OF_TRIAL}",  # noqa: S608
    ],
    "running row": [
        f"DELETE FROM trial_values WHERE {_OF_TRIAL}",  # noqa: S608
        f"UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE {_OF_TRIAL}",  # noqa: S608
    ],
}
"""What versions before the mirror, which drew in the database, may have left."""


def _cut(folder: Path, *, length: int, fill: int = 0) -> None:
    log = _file(folder, "-wal")
    log.write_bytes(log.read_bytes()[:length] + bytes(fill))


def _remove(folder: Path, *, suffixes: Sequence[str]) -> None:
    for suffix in suffixes:
        (_file(folder, suffix)).unlink(missing_ok=True)


def _replace(folder: Path, *, source: Path, suffixes: Sequence[str]) -> None:
    for suffix in suffixes:
        shutil.copyfile(_file(source, suffix), _file(folder, suffix))


def _overwrite(folder: Path, *, page: int) -> None:
    path = _checkpointed(folder)
    content, size = bytearray(path.read_bytes()), _page_size(folder)
    content[page * size : (page + 1) * size] = b"\x07" * size
    path.write_bytes(content)


def _truncate(folder: Path, *, page: int) -> None:
    path = _checkpointed(folder)
    path.write_bytes(path.read_bytes()[: page * _page_size(folder)])


def _execute(folder: Path, *, statements: Sequence[str], trial: int) -> None:
    with closing(sqlite3.connect(_file(folder), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, [trial])


def _checkpointed(folder: Path) -> Path:
    """Move the log into the database file, as the last connection does when it closes; return the file."""
    path = _file(folder)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT count(*) FROM trials").fetchone()
    assert sqlite_files(path) == [path]
    return path


def _page_size(folder: Path) -> int:
    return int.from_bytes((_file(folder)).read_bytes()[16:18], "big")


def _num_pages(folder: Path) -> int:
    return _number(folder, "PRAGMA page_count")


def _num_trials(folder: Path) -> int:
    return _number(folder, "SELECT count(*) FROM trials")


def _number(folder: Path, query: str) -> int:
    """Answer a query from a copy, since a connection that closes changes the files."""
    with tempfile.TemporaryDirectory() as copy:
        for path in sqlite_files(_file(folder)):
            shutil.copy(path, copy)
        with closing(sqlite3.connect(_file(Path(copy)))) as connection:
            (found,) = connection.execute(query).fetchone()
            return int(found)


def _ends(sweep: Bench) -> dict[int, Any]:
    """Return what must not depend on the database, by trial: configuration, decisions and scores."""
    return {
        number: (
            trial.spec,
            trial.state,
            trial.decided_chunk,
            [(each.chunk, dict(each.metrics), each.outcomes) for each in trial.measurements],
        )
        for number, trial in sweep.trials().items()
    }


def _check(sweep: Bench, before: Mapping[int, TrialRecord], expected: Mapping[int, Any]) -> Iterator[tuple[str, str]]:
    """Yield rule and text of each complaint about a sweep that ended after a loss of power."""
    ends, trials = _ends(sweep), sweep.trials()
    if list(ends) != list(expected):
        yield "same-trials", f"trials {list(ends)} instead of {list(expected)}"
    for number in ends.keys() & expected.keys():
        if ends[number][0] != expected[number][0]:
            yield "same-trials", f"trial {number} is {ends[number][0]} instead of {expected[number][0]}"
        elif ends[number] != expected[number]:
            yield "same-decisions", f"trial {number} ended as {ends[number][1:]} instead of {expected[number][1:]}"
    for number, record in before.items():
        after = trials.get(number)
        kept = after and after.measurements[: len(record.measurements)]
        if kept != record.measurements or (record.state.is_finished and after != record):
            yield "nothing-lost", f"trial {number} was {record}, and is {after}"
    yield from _check_database(sweep, trials)


def _check_database(sweep: Bench, trials: Mapping[int, TrialRecord]) -> Iterator[tuple[str, str]]:
    """Read the database through Optuna's public interface, and compare each trial with its record."""
    stored = {trial.number: _stored(trial) for trial in sweep.in_optuna()}
    expected = {number: _recorded(trial) for number, trial in trials.items() if trial.spec.phase is Phase.SEARCH}
    for number in sorted(stored.keys() | expected.keys()):
        if stored.get(number) != expected.get(number):
            found, wanted = stored.get(number), expected.get(number)
            yield "views-agree", f"trial {number} is {found} in Optuna, but should be {wanted}"


def _stored(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    params = from_shown(SPACE, trial.params) if trial.params.keys() == set(SPACE.keys) else dict(trial.params)
    value = trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None
    return trial.state.name, params, value, trial.intermediate_values


def _recorded(record: TrialRecord) -> tuple[Any, ...]:
    rungs = {each.chunk: each.metrics["validation/accuracy"] for each in record.measurements if each.is_rung}
    value = rungs[record.chunks_done] if record.state is TrialState.COMPLETE else None
    return _STATES.get(record.state, record.state.name), dict(record.spec.params), value, rungs


def main() -> None:
    """Try all points; exit with code 1 if there was any complaint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="every 20th point; writes no file")
    asked = parser.parse_args()
    logging.getLogger("sweeper").setLevel(logging.ERROR)
    memory = Path("/dev/shm")  # noqa: S108  a file system, not a file
    commit, started_s = commit_name(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        suite = Suite(Path(folder), every=20 if asked.short else 1)
        suite.run()
    result = {
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "sqlite": sqlite3.sqlite_version,
        "minutes": round((time.monotonic() - started_s) / 60, 1),
        "points": dict(suite.points),
        "num_points": suite.points.total(),
        "outcomes": dict(suite.outcomes),
        "complaints": suite.complaints,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if not asked.short:
        (ROOT / "chaos" / "results" / "wal_prefixes.json").write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if suite.complaints else 0)


if __name__ == "__main__":
    main()

"""Simulates small sweeps in virtual time, with seeded faults, and judges their histories. `make chaos-simulate`.

    python chaos/simulator.py --seed 1234             one sweep: prints what was drawn, what happened and what is wrong
    python chaos/simulator.py --seeds 10000 --jobs 2  many; writes chaos/results/simulator.json

Controller, search, store and ledger are the product's; workers, clocks and study database are doubles (`simulated`). A
seed draws the settings of a sweep, then the faults of each session: workers that die, hang, fail or are slow, trials
that fail, a wall clock that is set both ways, a disk that is full or broken, a database that fails, damaged
checkpoints, signals, and kills before any change of the disk. The same command runs again and again, at last without
faults, until the sweep is done. The same seed always gives the same history.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import math
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

import optuna  # noqa: E402  after the path is set

import sweeper.control.controller  # noqa: E402
import sweeper.search.study  # noqa: E402
from chaos.evidence import commit, upper_bound  # noqa: E402
from chaos.history import Event, Recorder, recording  # noqa: E402
from chaos.history_check import check  # noqa: E402
from chaos.simulated import (  # noqa: E402
    Databases,
    Disk,
    Faults,
    VirtualClock,
    VirtualExecutor,
    VirtualWorker,
    draw_doom,
)
from sweeper.analysis.best import best_configurations  # noqa: E402
from sweeper.config.settings import (  # noqa: E402
    BudgetSettings,
    ConfirmSettings,
    ExecutorSettings,
    Recipe,
    SearchSettings,
)
from sweeper.config.time_windows import parse_windows  # noqa: E402
from sweeper.control.confirmation import Confirmation  # noqa: E402
from sweeper.control.shutdown import ShutdownRequest  # noqa: E402
from sweeper.errors import DiskError, StorageDown, WorkerError  # noqa: E402
from sweeper.execute.base import CheckpointPolicy  # noqa: E402
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER  # noqa: E402
from sweeper.store.trials import TrialStore  # noqa: E402
from sweeper.types import FailureKind, TrialSpec  # noqa: E402
from tests.builders import DEFAULT_PARAMS  # noqa: E402
from tests.control.bench import Bench, Comparison, Killed, check_intact, probability_best, record  # noqa: E402
from tests.doubles import accuracy  # noqa: E402
from tests.search.toy import preset  # noqa: E402

__all__ = ["Outcome", "digest", "run", "simulate"]

_SEARCHES = ("random", "random", "qmc", "tpe", "grid", "cmaes")
"""Not auto: its Gaussian process takes a second for each proposal."""
_PRUNERS = ("halving", "hyperband", "median", "none")
_WINDOWS = ("", "", "22:00-22:01", "22:00-22:02")
"""A sweep takes a few minutes of virtual time."""
_POLICIES = {
    "small": CheckpointPolicy(),
    "large": CheckpointPolicy(file_bytes=0),
    "large, by time": CheckpointPolicy(file_bytes=0, every_s=2.0),
    "large, at rungs": CheckpointPolicy(file_bytes=0, every_s=math.inf),
}
"""How workers save trials. A chunk takes two seconds on average, and every second one is a rung."""
_MOST_SESSIONS = 40
_MOST_PRINTED = 20
_RECORDED = 10_000
"""Results are written from so many seeds on."""
_DOES_NOT_FIT = "and a chunk takes"
"""Part of the reason for the end of a session in whose window no chunk fits."""
_EXPECTED = (DiskError, StorageDown, WorkerError, KeyboardInterrupt)
"""Errors that end a session with faults. The user runs the same command again."""


@dataclass
class Outcome:
    """What a seed led to."""

    seed: int
    settings: dict[str, Any]
    sessions: list[str] = field(default_factory=list)
    """How each session ended."""
    complaints: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    is_window_too_short: bool = False
    """Whether the sweep could not end, since no chunk fits into its window."""


def simulate(seed: int, folder: Path) -> Outcome:
    """Simulate one sweep.

    Args:
        seed: Decides everything.
        folder: Where the sweep is written; must not exist.
    """
    sweep = _Sweep(seed, folder)
    with sweep.doubles():
        try:
            sweep.run()
        except Exception:  # noqa: BLE001  any error of the product is what the simulation looks for
            sweep.outcome.complaints.append(f"crash: {traceback.format_exc()}")
    sweep.judge()
    return sweep.outcome


def run(seeds: Iterable[int], *, until: Collection[str] = ()) -> list[str]:
    """Simulate a sweep for each seed, in this process; return the complaints.

    Args:
        seeds: The seeds.
        until: Names of complaints; after the first of them, no further seed is simulated.
    """
    logging.disable(logging.CRITICAL)
    complaints: list[str] = []
    try:
        for seed in seeds:
            complaints += _one(seed).complaints
            if any(each.split(":")[0] in until for each in complaints):
                break
    finally:
        logging.disable(logging.NOTSET)
    return complaints


class _Bench(Bench):
    """The bench of the controller's tests, in which time passes and things go wrong."""

    sweep: _Sweep

    def _executor(self, make_worker: Any, num_workers: int, **_more: Any) -> VirtualExecutor:  # type: ignore[override]
        sweep = self.sweep
        return VirtualExecutor(
            make_worker, num_workers, timer=self.timer, draw=sweep.draw, faults=sweep.faults, on_wait=sweep.tick
        )

    def _make_worker(self, index: int) -> VirtualWorker:
        sweep = self.sweep
        return VirtualWorker(
            index,
            draw=sweep.draw,
            faults=sweep.faults,
            doomed=sweep.doom,
            score=sweep.score,
            events=self.events,
            policy=_POLICIES[sweep.saving],
            timer=self.timer,
        )

    def in_optuna(self, study: str = "toy") -> list[optuna.trial.FrozenTrial]:
        trials = self.sweep.databases.of[f"sweep/{study}"].trials
        return [trials[number] for number in sorted(trials)]


class _Sweep:
    """One sweep: draws its settings, then runs one session after the other.

    Args:
        seed: Decides everything.
        folder: Where it is written.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        self.draw = Random(f"{seed}/faults")  # noqa: S311  no secret; the same below
        self.faults = Faults()
        self.disk = Disk(folder)
        self.databases = Databases(self.disk, self.draw)
        self._settings = Random(f"{seed}/settings")  # noqa: S311
        self._num_faulty = self._settings.choice((0, 1, 2, 2, 3, 3, 4, 6))
        """Sessions with faults, before those without."""
        self.saving = Random(f"{seed}/checkpoints").choice(tuple(_POLICIES))  # noqa: S311
        """How its workers save trials."""
        self._doom_share = self._settings.choice((0.0, 0.0, 0.1, 0.3, 0.9))
        self._ticks = 0
        self.bench = self._make_bench()
        self.bench.sweep = self
        self._clock = VirtualClock(self.bench.timer)
        self.bench.clock = self._clock
        self.outcome = Outcome(seed, self._describe())
        self._recorder = Recorder(self.outcome.events.append, clock=self._clock, timer=self.bench.timer)

    @contextmanager
    def doubles(self) -> Iterator[None]:
        """Replace disk, study database and time in the product within the block, and record it."""
        timer = SimpleNamespace(monotonic=self.bench.timer)
        with ExitStack() as stack:
            stack.enter_context(self.disk.watching())
            stack.enter_context(patch.object(sweeper.search.study, "StudyDatabase", self.databases))
            stack.enter_context(patch.object(sweeper.search.study, "WriteBehind", self.databases.writer))
            stack.enter_context(patch.object(sweeper.control.controller, "time", timer))
            stack.enter_context(recording(self._recorder))
            yield

    def run(self) -> None:
        """Run sessions until the sweep is done."""
        for study in self.bench.studies:
            known = record(study)
            self.bench.store.write_study(replace(known, num_rows={**known.num_rows, "validation": 100, "test": 10}))
        for number in range(_MOST_SESSIONS):
            self.faults = self._draw_faults() if number < self._num_faulty else Faults()
            if self._run_session(number):
                return
            if number < self._num_faulty:
                self._damage()
            self._open_window()
        # A seed may draw a window into which no chunk fits. Every session says so, and there is nothing to wait for.
        undisturbed = self.outcome.sessions[self._num_faulty :]
        self.outcome.is_window_too_short = any(_DOES_NOT_FIT in ended for ended in undisturbed)
        if not self.outcome.is_window_too_short:
            self.outcome.complaints.append(f"stall: the sweep is not done after {_MOST_SESSIONS} sessions")

    def tick(self) -> None:
        """Let something happen between two steps of the controller."""
        self.disk.step()
        self._ticks += 1
        if self.draw.random() < self.faults.jumps:
            self.faults.count("clock set")
            self._clock.offset_s += self.draw.uniform(-7200, 7200)
        if self.faults.stop_at == self._ticks:
            self.faults.count("signal")
            self.bench.shutdown.reason = "SIGTERM"
            self.bench.shutdown.deadline_s = self.bench.timer.now + self.draw.choice((0.0, 1.0, 10.0))
        if self.faults.interrupts and self.faults.stop_at == self._ticks - 1:
            self.faults.count("second signal")
            raise KeyboardInterrupt

    def doom(self, spec: TrialSpec) -> tuple[FailureKind, int] | None:
        """Return why a configuration always fails, if it does."""
        return draw_doom(Random(f"{self._seed}/{sorted(spec.params.items())}"), self._doom_share)  # noqa: S311

    def score(self, spec: TrialSpec, chunk: int) -> float:
        """Return the score of a configuration, with much noise, so that good ones are pruned too."""
        noise = Random(f"{self._seed}/{sorted(spec.params.items())}/{spec.seed}/{chunk}").gauss(0.0, 0.2)  # noqa: S311
        return min(1.0, max(0.0, accuracy(spec.params, chunk) + noise))

    def judge(self) -> None:
        """Check the history and what is left on the disk."""
        outcome, bench = self.outcome, self.bench
        outcome.trials = sum(len(bench.trials(study)) for study in bench.studies)
        if not outcome.complaints:
            self._write_best()
        outcome.complaints += check(outcome.events, self._folder)
        if outcome.is_window_too_short or any(each.startswith(("crash", "stall")) for each in outcome.complaints):
            return
        for study in bench.studies:
            try:
                check_intact(bench, study)
            except AssertionError:
                outcome.complaints.append(f"intact: {study}: {traceback.format_exc()}")

    def _run_session(self, number: int) -> bool:
        """Run a session; return whether the sweep is done."""
        faults, bench = self.faults, self.bench
        self._ticks = 0
        self.disk.begin(faults)
        self.databases.begin(faults)
        bench.shutdown = ShutdownRequest()
        self._recorder.start(number)
        ended, is_done = "done", False
        try:
            bench.run()
        except Killed:
            ended = "killed"
        except _EXPECTED as error:
            ended = f"{type(error).__name__}: {error}"
            if number >= self._num_faulty:
                raise
        else:
            assert bench.controller is not None
            unopened = [run.record.name for run in bench.runs if run.cannot_open]
            is_done = not (bench.shutdown or bench.controller.forecast.is_paused or unopened)
            ended = bench.shutdown.reason or bench.controller.stop_reason or ended
        self.disk.begin(Faults())  # what follows is not the controller's
        self.outcome.faults.update(faults.counts)
        self.outcome.sessions.append(f"{ended}; faults: {faults.counts}")
        return is_done

    def _open_window(self) -> None:
        """Let time pass until the next session; sometimes it starts while the window is closed."""
        self.bench.timer.advance(self.draw.uniform(1.0, 3600.0))
        windows = parse_windows(self.bench.budget.window, "UTC")
        opening = windows.next_opening(self._clock())
        if opening is not None and self.draw.random() < 0.8:
            self._clock.set(opening + timedelta(seconds=self.draw.uniform(0.0, 30.0)))

    def _damage(self) -> None:
        """Sometimes damage or remove a checkpoint, as a broken disk does."""
        paths = sorted(self._folder.glob("studies/*/trials/*/checkpoint-*.safetensors"))
        if not paths or self.draw.random() < 0.8:
            return
        path = self.draw.choice(paths)
        chunk = int(path.stem.removeprefix("checkpoint-"))
        self._recorder.note("damage", study=path.parts[-4], trial=int(path.parts[-2]), chunk=chunk)
        self.outcome.faults["checkpoint damaged"] += 1
        match self.draw.choice(("gone", "torn", "changed")):
            case "gone":
                path.unlink()
            case "torn":
                path.write_bytes(b"damaged")
            case "changed":  # still a valid file, of other numbers
                content = path.read_bytes()
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def _write_best(self) -> None:
        if self._seed % 20 == 0:  # it takes as long as a sweep
            content = best_configurations(TrialStore(self._folder))
            (self._folder / "best.json").write_text(json.dumps(content))

    def _draw_faults(self) -> Faults:
        draw = self.draw
        share = draw.choice((0.02, 0.05, 0.1, 0.2))
        faults = Faults(
            lost=draw.choice((0.0, share)),
            hung=draw.choice((0.0, 0.0, share / 2)),
            failed=draw.choice((0.0, 0.0, share)),
            slow=draw.choice((0.0, share)),
            trial=draw.choice((0.0, share, 0.4)),
            jumps=draw.choice((0.0, 0.0, 0.01)),
        )
        match draw.choice(("kill", "kill", "kill", "disk", "stop", "database", "none")):
            case "kill":
                faults.kill_at = int(2 ** draw.uniform(0.0, 10.0))
            case "disk":
                faults.disk_at, faults.disk_for = int(2 ** draw.uniform(0.0, 10.0)), draw.choice((1, 3, 1000))
                faults.disk_error = draw.choice((errno.ENOSPC, errno.EIO))
            case "stop":
                faults.stop_at, faults.interrupts = int(2 ** draw.uniform(0.0, 6.0)), draw.random() < 0.3
            case "database":
                faults.database_at = draw.randint(0, 20)
        return faults

    def _make_bench(self) -> _Bench:
        draw = self._settings
        changes: dict[str, Any] = {"pruner": draw.choice(_PRUNERS), "reduction_factor": draw.choice((2, 2, 3))}
        if draw.random() < 0.2:
            changes |= {"cost": draw.choice(("parameters", "device_s")), "pruner": "halving"}
        name = draw.choice(_SEARCHES)
        if name == "cmaes":
            changes.pop("cost", None)
        search = replace(_preset(name), **changes)
        num_studies = draw.choice((1, 1, 1, 2, 3))
        hours = draw.choice((0.0, 0.0, 0.0, draw.uniform(0.002, 0.05)))
        references = {FIRST_REFERENCE_NUMBER: Recipe(name="peft_default", params=DEFAULT_PARAMS)}
        return _Bench(
            self._folder,
            num_trials=draw.randint(3, 12) if num_studies == 1 else draw.randint(2, 5),
            lanes=draw.randint(1, 4),
            in_flight=draw.choice((0, 0, 1, 3)),
            recipe_lanes=draw.choice((0, 0, 2)),
            max_retries=draw.choice((0, 1, 2, 5)),
            keep_adapters=draw.choice((0, 1, 3)),
            studies=tuple(f"study-{number}" for number in range(num_studies)),
            search=search,
            references=references if draw.random() < 0.3 else {},
            confirmation=self._make_confirmation() if draw.random() < 0.4 else None,
            budget=BudgetSettings(device_hours=hours, window=draw.choice(_WINDOWS), time_zone="UTC"),
            num_workers=draw.randint(1, 4),
            executor=ExecutorSettings(
                checkpoint_file_mb=16 if self.saving == "small" else 0,
                retry_s=draw.choice((0.0, 5.0)),
                abort_after_failures=draw.choice((0, 3, 8)),
                hang_timeout_factor=3.0,
                hang_timeout_min_s=10.0,
                startup_timeout_s=25.0,
            ),
        )

    def _make_confirmation(self) -> Any:
        settings = ConfirmSettings(max_share=self._settings.choice((0.5, 1.5)), seeds=2, max_seeds=3, max_candidates=3)
        needed = {"peft_default": self._settings.choice((2, 3))}

        def make(_store: TrialStore) -> Confirmation:
            return Confirmation(
                settings,
                seed=0,
                default="peft_default",
                probability_best=probability_best,
                compare=Comparison(**needed),
            )

        return make

    def _describe(self) -> dict[str, Any]:
        bench = self.bench
        names = ("num_trials", "lanes", "in_flight", "recipe_lanes", "max_retries", "keep_adapters", "num_workers")
        found = {name: getattr(bench, name) for name in names}
        search = {name: getattr(bench.search, name) for name in ("sampler", "pruner", "reduction_factor", "cost")}
        found |= {"studies": len(bench.studies), **search, "window": bench.budget.window}
        found |= {"device_hours": bench.budget.device_hours, "references": len(bench.references)}
        found |= {"checkpoints": self.saving}
        return found | {"confirms": bench.confirmation is not None, "doomed": self._doom_share}


def _one(seed: int) -> Outcome:
    memory = Path("/dev/shm")  # noqa: S108  no file of it is trusted
    with tempfile.TemporaryDirectory(prefix="sweeper-", dir=memory if memory.is_dir() else None) as folder:
        return simulate(seed, Path(folder) / "sweep")


def main() -> None:
    """Simulate one seed and print it, or many and record them; exit with code 1 if there was any complaint."""
    asked = _parse()
    logging.disable(logging.CRITICAL)
    if asked.seed is not None:
        outcome = _one(asked.seed)
        sys.stdout.write(_described(outcome))
        sys.exit(bool(outcome.complaints))
    began = time.monotonic()
    seeds = range(asked.first, asked.first + asked.seeds)
    with ProcessPoolExecutor(asked.jobs) as pool:
        rows = list(pool.map(_row, seeds, chunksize=20))
    bad = [row for row in rows if row["complaints"]]
    for row in bad[:_MOST_PRINTED]:
        sys.stdout.write(f"seed {row['seed']}:\n" + "".join(f"  {each}\n" for each in row["complaints"][:3]))
    summary = _summary(rows, time.monotonic() - began)
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    if asked.seeds >= _RECORDED:
        path = ROOT / "chaos" / "results" / "simulator.json"
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(bad))


def _row(seed: int) -> dict[str, Any]:
    """Return the counts of a seed, which a process can send."""
    logging.disable(logging.CRITICAL)
    outcome = _one(seed)
    return {
        "seed": seed,
        "sessions": len(outcome.sessions),
        "trials": outcome.trials,
        "is_window_too_short": outcome.is_window_too_short,
        "faults": dict(outcome.faults),
        "complaints": outcome.complaints,
    }


def _summary(rows: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    faults = sum((Counter(row["faults"]) for row in rows), Counter[str]())
    rules = Counter(complaint.split(":")[0] for row in rows for complaint in row["complaints"])
    trials = sum(row["trials"] for row in rows)
    bad = [row["seed"] for row in rows if row["complaints"]]
    found = {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": len(rows),
        "first_seed": rows[0]["seed"],
        "sessions": sum(row["sessions"] for row in rows),
        "trials": trials,
        "kills": sum(number for kind, number in faults.items() if kind.startswith("kill")),
        "windows_too_short": sum(row["is_window_too_short"] for row in rows),
        "faults": dict(sorted(faults.items())),
        "complaints": dict(rules),
        "seeds_with_complaints": bad,
        "minutes": round(seconds / 60, 1),
    }
    if not bad:
        found["upper_bound_95_of_the_share_of_seeds"] = upper_bound(len(rows))
        found["upper_bound_95_of_the_share_of_trials"] = upper_bound(trials)
    return found


def _described(outcome: Outcome) -> str:
    """Return what happened with one seed, to print."""
    settings = ", ".join(f"{name}={value}" for name, value in outcome.settings.items())
    sessions = [f"session {number}: {ended}" for number, ended in enumerate(outcome.sessions)]
    kinds = Counter(event["kind"] for event in outcome.events)
    history = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    lines = [f"seed {outcome.seed}: {settings}", *sessions, f"history: {history}; digest {digest(outcome.events)}"]
    return "\n".join([*lines, *outcome.complaints, f"{len(outcome.complaints)} complaints"]) + "\n"


def digest(events: Sequence[Event]) -> str:
    """Return a number for a history: equal seeds give equal ones."""
    return hashlib.sha256(json.dumps(events, default=str).encode()).hexdigest()[:16]


@cache
def _preset(name: str) -> SearchSettings:
    return preset(name)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulate small sweeps with faults, and judge their histories.")
    parser.add_argument("--seed", type=int, help="simulate and print only this seed")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds; from 10,000 on they are recorded")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    main()

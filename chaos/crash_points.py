"""Kills a small sweep at each operation on its disk, fails each write, cuts the power; then resumes it, and checks.

One undisturbed session lists the operations (`disk_shim`): every rename, flush, removal and commit, and for errors also
every write. Then each of them is disturbed once, in a session that starts from the beginning. After that, the same
command runs to its end, and the sweep must be the undisturbed one (`crash_checks`). The same is done with a repair.

`run` returns complaints; ``python -m chaos.crash_points`` records a table under chaos/results.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chaos.crash_checks import State, compare, not_durable, read_records, read_state
from chaos.crash_damage import damaged_contents
from chaos.crash_report import write_report
from chaos.crash_session import SCENARIOS, SWEEP, Bench, Ended, Mutant, Scenario, warm_up, write_inputs
from chaos.disk_shim import ERRORS, KILLABLE, Fault, Operation
from chaos.power_loss import IMAGES, build_image, write_image
from chaos.strace_points import count_calls, is_available, run_and_kill

__all__ = ["KINDS", "Point", "Result", "main", "run"]

KINDS = ("kill", "power", "error")
"""What is tried by default. ``strace`` kills at system calls (see `strace_points`)."""
_STRACE = "strace"
_RESULTS = Path(__file__).parent / "results"
_KILLED = "killed"
_SIGKILL = -9
_CLEAN = (4, 5)
"""Exit codes of a session that a failing disk or database ends."""
_VIEWS = ("sweep.log", "sessions", "summary.md", "health.json", "holder.json", "mlflow.db", "mlartifacts/", "/incoming")
"""What may fail to be written while the session goes on. A worker that cannot write a checkpoint sends its bytes, and
what is left of it only takes space."""
_SHOWN = 100
"""Complaints that are printed; all are in the results."""
_ATTEMPTS = 3
"""Threads run at their own pace, so an operation of theirs may not happen in every session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A disturbance to try.

    Attributes:
        scenario: Name of the scenario.
        fault: What happens, and where.
        states: What is resumed from after a kill: ``killed``, and the kinds of `IMAGES`.
        seed: Of the mixture.
    """

    scenario: str
    fault: Fault
    states: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The outcome of one disturbance.

    Attributes:
        what: ``killed``, the kind of an image after a power failure, or the name of an error.
        is_same: Whether it was not tried, since an earlier one leaves an identical disk.
        is_reached: Whether the operation happened in the disturbed session.
        code: Exit code of the disturbed session.
    """

    scenario: str
    fault: Fault
    what: str
    is_same: bool = False
    is_reached: bool = True
    code: int | None = None
    complaints: list[str] = field(default_factory=list)


def run(
    scenarios: Sequence[str] = tuple(SCENARIOS),
    *,
    kinds: Collection[str] = KINDS,
    every: int = 1,
    seed: int = 0,
    jobs: int = 1,
    mutant: Mutant | None = None,
    until: Collection[str] = (),
    folder: Path | None = None,
    results: list[Result] | None = None,
) -> list[str]:
    """Disturb sweeps at all operations, or at a seeded sample, and return complaints.

    Args:
        scenarios: Names of `SCENARIOS`.
        kinds: What to try, of `KINDS`.
        every: Try about one of so many points.
        seed: Of the sample, and of the mixtures after a power failure.
        jobs: Processes that try points.
        mutant: A planted bug, active in the sessions that are disturbed and in those that resume. A function of a
            module, since other processes import it.
        until: Names of complaints; after the first of them, no further point is tried.
        folder: Where to work; a temporary folder, in memory if possible, if None.
        results: Is filled with the outcome of each point.
    """
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    parent = memory if folder is None and os.access(memory, os.W_OK) else folder
    found: list[Result] = [] if results is None else results
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-points-", dir=parent)))
        workers = multiprocessing.get_context("spawn")
        make = partial(ProcessPoolExecutor, mp_context=workers, initializer=_start_worker)
        with make(1, initargs=(base, mutant)) as first:
            first.submit(_prepare).result()
            planned = [first.submit(_plan, name, seed, kinds, is_sample=every > 1).result() for name in scenarios]
            points = [point for points, _ in planned for each in points for point in _only(each, kinds)]
            found += [same for _, skipped in planned for same in skipped if _kind(same.what) in kinds]
            if every > 1:
                points = random.Random(seed).sample(points, -(-len(points) // every))  # noqa: S311  no secret
            points.sort(key=lambda point: point.scenario)
            pools = [first] if jobs == 1 else [first, stack.enter_context(make(jobs - 1, initargs=(base, mutant)))]
            futures = [pools[index % jobs > 0].submit(_try, point) for index, point in enumerate(points)]
            for number, future in enumerate(futures, 1):
                tried = future.result()
                found += tried
                _show(number, len(futures), found)
                if any(each.split(":")[0] in until for result in tried for each in result.complaints):
                    for pool in pools:
                        pool.shutdown(cancel_futures=True)
                    break
    return [f"{each} ({_describe(result)})" for result in found for each in result.complaints]


def _kind(what: str) -> str:
    return "error" if what in ERRORS else "power" if what in IMAGES else what if what == _STRACE else "kill"


def _only(point: Point, kinds: Collection[str]) -> Iterator[Point]:
    """Yield a point with only the wanted kinds of disturbances, if it has any."""
    if point.fault.what in (*ERRORS, _STRACE):
        yield from [point] if _kind(point.fault.what) in kinds else []
    elif states := tuple(state for state in point.states if _kind(state) in kinds):
        yield dataclasses.replace(point, states=states)


def _describe(result: Result) -> str:
    at = result.fault.at
    return f"{result.scenario}: {result.fault.what} {at.kind} {at.number} of {at.thread} on {at.path}, {result.what}"


def _show(number: int, total: int, found: Sequence[Result]) -> None:
    if sys.stderr.isatty() or number % 50 == 0 or number == total:
        bad = sum(bool(result.complaints) for result in found)
        print(f"\r{number} of {total} points, {bad} with complaints", end="\n" * (number == total), file=sys.stderr)


class _Trier:
    """Tries points of one scenario, in a folder of its own."""

    def __init__(self, folder: Path, inputs: Path, scenario: Scenario, mutant: Mutant | None) -> None:
        # The sweep to compare with has no planted bug.
        self.bench, self.scenario = Bench(folder, inputs, scenario), scenario
        self.bench.restore()
        ended = self.bench.run()
        assert ended.code == 0, ended.output
        self.operations = ended.operations
        self.undisturbed: State = self.bench.call(partial(read_state, self.bench.disk))
        assert not self.undisturbed.problems, self.undisturbed.problems
        self.bench.mutant = mutant
        self._damaged: dict[str, bytes] = {}
        if scenario.reconciles:
            self.bench.restore()
            self._damaged = damaged_contents(self.bench.outputs / SWEEP)

    def watch(self) -> list[tuple[Operation, str, dict[str, str]]]:
        """Return checksums of what each point would leave, from one more undisturbed session."""
        self.bench.restore()
        return self.bench.run(watches=True).states

    def kill(self, point: Point) -> Iterator[Result]:
        """Kill a session at a point, and resume from each state that it may have left."""
        is_traced = point.fault.what == _STRACE
        for _ in range(1 if is_traced else _ATTEMPTS):
            if is_traced:
                ended = run_and_kill(self.bench, point.fault.at.kind, point.fault.at.number)
            else:
                self.bench.restore()
                ended = self.bench.run(fault=point.fault)
            if ended.code == _SIGKILL:
                break
        else:
            found = [] if ended.code == 0 else [f"exit-code: {ended.code} without a fault: {_tail(ended)}"]
            yield self._result(point, point.states[0], ended, found, is_reached=False)
            return
        left = self.bench.folder / "left"
        shutil.rmtree(left, ignore_errors=True)
        self.bench.disk.rename(left)
        for state in point.states:
            if state == _KILLED or ended.flushed is None:
                self.bench.replace_disk(left)
            else:
                draw = random.Random(f"{point.seed} {point.fault}")  # noqa: S311  no secret
                image = build_image(state, ended.flushed, live=left, draw=draw)
                shutil.rmtree(self.bench.disk, ignore_errors=True)
                write_image(image, self.bench.disk)
            complaints = not_durable(self.bench.outputs, ended.reported)
            yield self._result(point, state, ended, complaints + self._resume())

    def fail(self, point: Point) -> Iterator[Result]:
        """Let a write fail; check how the session ends, and resume it on a disk that works."""
        for _ in range(_ATTEMPTS):
            self.bench.restore()
            ended = self.bench.run(fault=point.fault)
            if ended.failed:
                break
        found = list(_end_faults(ended)) if ended.failed else []
        found += not_durable(self.bench.outputs, ended.reported)
        resumed = [each for each in self._resume() if not (each.startswith("missing-file") and _is_view(each))]
        yield self._result(point, point.fault.what, ended, found + resumed, is_reached=bool(ended.failed))

    def _resume(self) -> list[str]:
        """Run the command again, and compare the sweep with the undisturbed one."""
        before = read_records(self.bench.outputs)
        ended = self.bench.run(shimmed=False)
        if ended.code != 0:
            return [f"exit-code: the next session ended with {ended.code}: {_tail(ended)}"]
        found = ["traceback: the next session printed one"] if "Traceback" in ended.output else []
        try:
            state: State = self.bench.call(partial(read_state, self.bench.disk))
        except RuntimeError as error:
            return [*found, f"unreadable: {str(error).strip().splitlines()[-1]}"]
        seen = {} if self.scenario.reconciles else before
        found += compare(state, self.undisturbed, seen=seen, lanes=self.scenario.lanes)
        return found + [f"destroyed: the damaged {name} is not kept" for name in self._destroyed()]

    def _destroyed(self) -> list[str]:
        files = (path for path in self.bench.outputs.rglob("*") if path.is_file())
        kept = {path.read_bytes() for path in files} if self._damaged else set()
        return [name for name, content in self._damaged.items() if content not in kept]

    def _result(
        self, point: Point, what: str, ended: Ended, complaints: list[str], *, is_reached: bool = True
    ) -> Result:
        return Result(
            scenario=point.scenario,
            fault=point.fault,
            what=what,
            is_reached=is_reached,
            code=ended.code,
            complaints=complaints,
        )


def _end_faults(ended: Ended) -> Iterator[str]:
    """Complain about how a session ended whose disk failed."""
    is_view = all(map(_is_view, ended.failed))
    if ended.code is None:
        yield "hangs: the session did not end"
    elif ended.code not in _CLEAN and not (ended.code == 0 and is_view):
        yield f"exit-code: {ended.code} after an error on {ended.failed[0]}: {_tail(ended)}"
    if "Traceback" in ended.output:
        yield f"traceback: after an error on {ended.failed[0]}: {_tail(ended)}"
    if ended.code in _CLEAN and sum(line.startswith("Error: ") for line in ended.output.splitlines()) != 1:
        yield f"message: not one paragraph after an error on {ended.failed[0]}"


def _is_view(path: str) -> bool:
    return any(view in path.replace("/.", "/") for view in _VIEWS)


def _tail(ended: Ended) -> str:
    lines = [line for line in ended.output.splitlines() if line.strip()]
    error = next((line for line in lines if line.startswith("Error: ")), "")
    return error or (lines[-1] if lines else "no output")


def _all_points(trier: _Trier, seed: int) -> tuple[list[Point], list[Result]]:
    """Return the points to try, and those that leave the same disk as an earlier one."""
    name = trier.scenario.name
    known = {kind: set() for kind in (_KILLED, *IMAGES)}  # type: dict[str, set[str]]
    points, same = [], []
    states = trier.watch()
    all_before = {digests[_KILLED] for _, when, digests in states if when == "before"}
    for operation, when, digests in states:
        fault = Fault(operation, when)
        is_commit = operation.kind == "commit"
        wanted = []
        kinds = (_KILLED, *IMAGES) if when == "before" else (_KILLED,)
        for kind in kinds:
            checksum = digests.get(kind, f"{digests['flushed']} {digests['names']} {digests[_KILLED]}")
            # What a kill after an operation leaves is tried before the next operation, unless something is written
            # in between. Databases are not in the checksum.
            is_new = checksum not in known[kind] and (when == "before" or checksum not in all_before)
            # A power failure that leaves what a kill leaves is no other case.
            is_kill = kind != _KILLED and len(set(digests.values())) == 1
            known[kind].add(checksum)
            if (is_new and not is_kill) or (is_commit and kind == _KILLED):
                wanted.append(kind)
            else:
                same.append(Result(scenario=name, fault=fault, what=kind, is_same=True))
        if wanted:
            points.append(Point(scenario=name, fault=fault, states=tuple(wanted), seed=seed))
    return [*points, *_errors(trier)], same


def _sampled_points(trier: _Trier, seed: int) -> list[Point]:
    """Return every point with one thing that may happen there, for a sample; it is not worth finding those alike."""
    cases = [("before", _KILLED), ("after", _KILLED), *(("before", kind) for kind in IMAGES)]
    points = [
        Point(scenario=trier.scenario.name, fault=Fault(operation, when), states=(state,), seed=seed)
        for operation in trier.operations
        if operation.kind in KILLABLE
        for when, state in cases
    ]
    return [*points, *_errors(trier)]


def _errors(trier: _Trier) -> list[Point]:
    name = trier.scenario.name
    return [
        Point(scenario=name, fault=Fault(operation, error))
        for operation in trier.operations
        for error, kinds in ERRORS.items()
        # What the main thread writes for packs, it also writes for single trials.
        if operation.kind in kinds and (name != "pack" or operation.thread != "MainThread")
    ]


# The processes of the pool. Each has imported everything, has no other thread, and forks the sessions.
_base = Path()
_mutant: Mutant | None = None
_triers: dict[str, _Trier] = {}


def _start_worker(base: Path, mutant: Mutant | None) -> None:
    global _base, _mutant
    _base, _mutant = base, mutant
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")


def _prepare() -> None:
    from chaos.crash_session import fork

    (_base / "inputs").mkdir()
    code = fork(partial(write_inputs, _base / "inputs"), _base / "log")
    assert code == 0, (_base / "log").read_text()


def _trier(name: str) -> _Trier:
    if name not in _triers:
        folder, inputs, scenario = _base / f"{os.getpid()}-{name}", _base / "inputs", SCENARIOS[name]
        if not _triers:
            warm_up(Bench(_base / f"{os.getpid()}-warm-up", inputs, SCENARIOS["pack"]))
        _triers[name] = _Trier(folder, inputs, scenario, _mutant)
    return _triers[name]


def _plan(name: str, seed: int, kinds: Collection[str], *, is_sample: bool) -> tuple[list[Point], list[Result]]:
    trier = _trier(name)
    points, same = (_sampled_points(trier, seed), []) if is_sample else _all_points(trier, seed)
    if _STRACE in kinds:
        for call, number in sorted(count_calls(trier.bench).items()):
            faults = (Fault(Operation("any thread", call, each, "any path"), _STRACE) for each in range(1, number + 1))
            points += [Point(scenario=name, fault=fault, states=(_KILLED,)) for fault in faults]
    return points, same


def _try(point: Point) -> list[Result]:
    trier = _trier(point.scenario)
    return list(trier.fail(point) if point.fault.what in ERRORS else trier.kill(point))


def main() -> None:
    """Run the suite, record the table, and exit with 1 if there are complaints."""
    parser = argparse.ArgumentParser(
        description="Kill a small sweep at each operation on its disk, and check the rest."
    )
    parser.add_argument("--every", type=int, default=1, help="try about one of so many points")
    parser.add_argument("--record", default="", help="name of the files in chaos/results; records nothing by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of mixtures")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--strace", action="store_true", help="kill at system calls instead")
    asked = parser.parse_args()
    if asked.strace:
        asked.kinds = [_STRACE]
        if not is_available():
            sys.exit("strace is not installed, or this process may not trace others")
    results: list[Result] = []
    started = time.monotonic()
    complaints = run(
        asked.scenarios, kinds=asked.kinds, every=asked.every, seed=asked.seed, jobs=asked.jobs, results=results
    )
    seconds = time.monotonic() - started
    print("\n".join(complaints[:_SHOWN]))
    command = f"make crash-points ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "make crash-points"
    print(write_report(_RESULTS / asked.record if asked.record else None, results, seconds=seconds, command=command))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()

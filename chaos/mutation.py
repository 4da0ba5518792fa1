"""Plants bugs, one at a time, and checks that the fault tests catch each of them by name.

    python chaos/mutation.py                   every bug, and every suite once without a bug; nine minutes on two cores
    python chaos/mutation.py --short           half of the bugs, as CI runs it; under three minutes
    python chaos/mutation.py worst_is_best no_flush     these, and their suites without a bug

Writes chaos/results/mutants.md and mutants.json if nothing is left out, or with --record; results of bugs that were not
planted stay, each with the commit that it was measured on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos import crash_points, simulator  # noqa: E402  after the path is set
from chaos.driver import Plan  # noqa: E402
from chaos.evidence import commit  # noqa: E402
from chaos.fork_server import ForkServer  # noqa: E402
from chaos.mutants import MUTANTS, plant  # noqa: E402
from chaos.one_sweep import disturb  # noqa: E402
from chaos.undisturbed import Undisturbed  # noqa: E402
from chaos.workload import Workload  # noqa: E402

_TRIALS = 8
_SEEDS, _SHORT_SEEDS = 400, 120
"""Seeds of the simulator per bug."""
_SHORT = (
    "no_flush",
    "worst_is_best",
    "no_curves",
    "lost_chunks_are_free",
    "a_finished_trial_trains_again",
    "a_retry_is_lost",
    "best_are_pruned",
    "one_trial_too_many",
    "record_before_checkpoint",
    "another_proposal_is_trained",
    "repair_resets_trials",
    "tracker_is_told_before_the_store",
    "rungs_are_not_saved",
    "a_checkpoint_in_use_is_removed",
    "a_checkpoint_is_not_verified",
    "a_loss_scale_is_not_saved",
    "smaller_passes_are_a_smaller_batch",
)
"""The bugs of the short form: some for each suite and each part of the product."""
_CRASHES = {
    "power_cuts": ("alone", "power", 8),
    "reconcile": ("reconcile", "kill", 20),
}
"""Scenario, kind of disturbance and share of the points of each suite of crash points."""
_EVENTS = ("kill_controller", "terminate", "edit_data", "start_a_second")
"""Events of the sweep without a bug."""
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Result:
    """What the suite of a planted bug said."""

    name: str
    suite: str
    complaints: Sequence[str]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether the bug was caught by name, or, without a bug, nothing was complained about."""
        return bool(self.caught_by) if self.name else not self.complaints

    @property
    def line(self) -> str:
        """The result as one line, with the complaints that should not be there."""
        shown = f"caught by {self.caught_by}" if self.caught_by else f"{len(self.complaints)} complaints"
        verdict = "ok" if self.is_good else "WRONG"
        others = [] if self.is_good else [f"    {complaint}" for complaint in self.complaints[:5]]
        return "\n".join([f"{verdict:5} {self.suite}, {self.name or 'no bug'}: {shown}, {self.seconds:.0f} s", *others])

    @property
    def caught_by(self) -> str:
        """The name of the complaint that counts; empty if the bug was not caught, or only by another complaint."""
        if not self.name:
            return ""
        names = [complaint.split(":")[0] for complaint in self.complaints]
        return next((rule for rule in MUTANTS[self.name].rules if rule in names), "")


class SweepSuite:
    """Real sweeps with real workers (`one_sweep`); a bug is planted in the controllers only, not in the checks.

    Args:
        folder: A folder for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inputs = Workload.write_inputs(folder / "inputs")
        self._undisturbed = Undisturbed()
        self._fork_server = ForkServer(ROOT)

    def run(self, name: str, events: Sequence[str]) -> list[str]:
        """Return the complaints about a sweep with these events and a planted bug (none if ``name`` is empty)."""
        folder = self._folder / (name or "none")
        workload = Workload(
            inputs=self._inputs, outputs=folder / "outputs", trials=_TRIALS, workers=1, seed=0, mutant=name
        )
        plan = Plan(seed=0, kills=10, kinds=events, is_short=True)
        row = disturb(workload, folder, plan, keep=False, undisturbed=self._undisturbed, fork_server=self._fork_server)
        problems: list[str] = row["problems"]
        return problems

    def __enter__(self) -> SweepSuite:
        return self

    def __exit__(self, *_: object) -> None:
        self._fork_server.close()


def in_a_fork(work: Callable[[], list[str]]) -> list[str]:
    """Return the complaints of a suite that runs in a forked process, so that a planted bug ends with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            signal.alarm(int(_TIMEOUT_S))
            try:
                complaints = work()
            except Exception:  # noqa: BLE001  a suite that ends with an error has found something, but not by name
                complaints = [traceback.format_exc()]
            with os.fdopen(writing, "w") as file:
                json.dump(complaints, file)
            code = 0
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        content = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    found: list[str] = json.loads(content) if content else [f"the suite ended with {code}"]
    return found


def _all_complaints(asked: argparse.Namespace, names: Sequence[str]) -> Iterator[Result]:
    """Yield what each suite says of each bug; first the suites in forks, since one with threads cannot fork safely."""
    seeds = range(_SHORT_SEEDS if asked.short else _SEEDS)
    forked: dict[str, Callable[[str], list[str]]] = {
        "simulator": lambda name: in_a_fork(partial(_simulate, name, seeds)),
        "tests": lambda name: in_a_fork(partial(_test, name)),
        **{suite: partial(_crash, suite, 3 if asked.short else 1) for suite in _CRASHES},
    }
    for suite, work in forked.items():
        without = () if asked.short else ("",)  # short runs of these suites without a bug are tests
        planted = [name for name in names if MUTANTS[name].suite == suite]
        for name in (*without, *planted) if planted else ():
            yield _timed(name, suite, partial(work, name))
    planted = [name for name in names if MUTANTS[name].suite == "sweep"]
    if not planted:
        return
    with tempfile.TemporaryDirectory(prefix="sweeper-mutants-") as folder, SweepSuite(Path(folder)) as sweeps:
        for name in ("", *planted):
            events = MUTANTS[name].events if name else _EVENTS
            yield _timed(name, "sweep", partial(sweeps.run, name, events))


def _simulate(name: str, seeds: Iterable[int]) -> list[str]:
    if name:
        plant(name)
    return simulator.run(seeds, until=_enough(name))


def _enough(name: str) -> Collection[str]:
    """Return the names of the complaints of which one ends the search for a bug; without a bug, nothing does."""
    return MUTANTS[name].rules if name else ()


class _Failures:
    """A plugin of pytest that notes which tests fail, and why."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails, or whose fixtures do."""
        if report.failed:
            test = report.nodeid.rpartition("::")[2].partition("[")[0]
            self.complaints.append(f"{test}: {report.longreprtext.strip().splitlines()[-1]}")


def _test(name: str) -> list[str]:
    """Run the test that must find a bug, or without a bug all such tests; return those that fail."""
    mutants = [MUTANTS[name]] if name else [mutant for mutant in MUTANTS.values() if mutant.suite == "tests"]
    if name:
        plant(name)
    os.chdir(ROOT)
    failures, nodes = _Failures(), [f"tests/{mutant.file}::{test}" for mutant in mutants for test in mutant.rules]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        # Much is imported already, and pytest would warn that it cannot rewrite the assertions there.
        code = pytest.main(["-q", "-p", "no:cacheprovider", "--assert=plain", *nodes], plugins=[failures])
    # Tests that were not found would leave no failure, and look like a bug that is not caught.
    return failures.complaints if code in (0, 1) else [f"pytest ended with {code!r}"]


def _crash(suite: str, share: int, name: str) -> list[str]:
    """Run a suite of crash points, in processes of its own."""
    scenario, kind, every = _CRASHES[suite]
    mutant = MUTANTS[name].plant if name else None
    return crash_points.run((scenario,), kinds=(kind,), every=every * share, jobs=2, mutant=mutant, until=_enough(name))


def _timed(name: str, suite: str, work: Callable[[], list[str]]) -> Result:
    started = time.monotonic()
    complaints = work()
    return Result(name, suite, complaints, time.monotonic() - started)


def main() -> None:
    """Plant the bugs; exit with code 1 if one is not caught, or if a suite complains without a bug."""
    parser = argparse.ArgumentParser(description="Plant bugs, and check that the fault tests catch each of them.")
    parser.add_argument("names", nargs="*", metavar="BUG", help="bugs to plant; all if none is given")
    parser.add_argument("--record", action="store_true", help="write the results although seeds or bugs are left out")
    parser.add_argument("--short", action="store_true", help="half of the bugs, and fewer seeds and points")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(MUTANTS)
    if unknown:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}. There are: {', '.join(MUTANTS)}")
    results = []
    for result in _all_complaints(asked, asked.names or (_SHORT if asked.short else list(MUTANTS))):
        results.append(result)
        sys.stdout.write(f"{result.line}\n")
        sys.stdout.flush()
    if asked.record or not (asked.names or asked.short):
        _write(results)
    missed = [result for result in results if not result.is_good]
    planted = sum(bool(result.name) for result in results)
    sys.stdout.write(f"{planted} bugs planted, {len(missed)} results that are wrong\n")
    sys.exit(1 if missed else 0)


def _write(results: Sequence[Result]) -> None:
    """Write the table and the raw results, with those of earlier runs that this one does not replace."""
    folder, now = ROOT / "chaos" / "results", datetime.now(UTC).isoformat(timespec="seconds")
    raw = folder / "mutants.json"
    made = [{"commit": commit(), "run": now, **asdict(result)} for result in results]
    rows = {
        (row["suite"], row["name"]): row
        for row in (*(json.loads(raw.read_text()) if raw.exists() else ()), *made)
        if not row["name"] or (row["name"] in MUTANTS and MUTANTS[row["name"]].suite == row["suite"])
    }
    raw.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    lines = [
        "# Planted bugs",
        "",
        "Made by `python chaos/mutation.py`, at the commit of each row. Each bug is planted alone. It counts as caught "
        "only if the suite names it by the right complaint. Without a bug, no suite may complain.",
        "",
        "| bug | suite | caught by | seconds | commit |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for row in rows.values():
        result = Result(row["name"], row["suite"], row["complaints"], row["seconds"])
        what = MUTANTS[result.name].description if result.name else "(none)"
        caught = f"`{result.caught_by}`" if result.name else ("no complaint" if result.is_good else "COMPLAINTS")
        lines.append(f"| {what} | {result.suite} | {caught} | {result.seconds:.0f} | {row['commit'][:8]} |")
    (folder / "mutants.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Plants bugs, one at a time, and checks that the fault tests catch each of them by name.

    python chaos/mutation.py                   every bug, and every suite once without a bug; six minutes on two cores
    python chaos/mutation.py --short           the same with fewer seeds and points, as CI runs it
    python chaos/mutation.py worst_is_best no_flush

Writes chaos/results/mutants.md and mutants.json, unless some bugs are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from chaos.driver import Plan  # noqa: E402  after the path is set
from chaos.fork_server import ForkServer  # noqa: E402
from chaos.mutants import MUTANTS  # noqa: E402
from chaos.one_sweep import disturb  # noqa: E402
from chaos.undisturbed import Undisturbed  # noqa: E402
from chaos.workload import Workload  # noqa: E402

_TRIALS = 8
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Result:
    """What the suite of a planted bug said."""

    name: str
    suite: str
    complaints: Sequence[str]
    seconds: float

    @property
    def caught_by(self) -> str:
        """The name of the complaint that counts; empty if the bug was not caught, or only by another complaint."""
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

    def close(self) -> None:
        """Stop the fork server."""
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

"""Runs one sweep under fault injection: the same command again and again, with events at seeded moments.

`run` calls it for one seed after the other. An event is drawn as (kind, phase, delay): it happens either at any moment
after the start, imports included, or soon after the first chunk of a session. So a seed always gives the same events;
what the sweep is doing when they happen depends on the speed of the machine.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.clock import Clock
from chaos.events import EVENTS, EXITS, KILLS, LETHAL
from chaos.fork_server import ForkServer
from chaos.session import ChaosError, Session, survivors
from chaos.workload import Workload
from sweeper.errors import StoreError
from sweeper.store.ledger import Ledger
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, TrialRecord

__all__ = ["Driver", "Plan"]

_START_S = 2.0
"""A forked controller takes about this long to reach its first chunk."""
_REAL_STARTS = 6
"""Every sixth session starts the controller as users do, without the fork server."""
_AT_ANY_MOMENT = 0.4
"""Share of events that do not wait for the first chunk."""
_TOO_EARLY = 0.3
"""Share of windows before which a session is started while the window is still closed."""
_STALL_S = 120.0
_TWIN_STARTS = 20
"""Most starts of the sweep beside this one, once nothing disturbs it any more."""
_WEIGHTS = {
    "kill_controller": 11,
    "kill_worker": 11,
    "terminate_and_kill": 3,
    "terminate": 1,
    "interrupt": 1,
    "pause_worker": 1,
    "take_mlflow_away": 1,
    "lock_optuna": 1,
    "lock_mlflow": 1,
    "fill_disk": 1,
    "hang_worker": 1,
    "close_window": 2,
    "jump_clock": 1,
    "edit_data": 1,
    "start_a_second": 1,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The events of one sweep."""

    seed: int
    kills: int
    """After this many kills there are no more events, and the sweep must finish."""
    kinds: Sequence[str]
    is_short: bool = False
    """Whether each kind of event happens exactly once."""

    def without(self, kind: str) -> Plan:
        """Return the plan without a kind of event."""
        return dataclasses.replace(self, kinds=[each for each in self.kinds if each != kind])


@dataclass
class Driver:
    """A sweep under fault injection.

    Attributes:
        seen: Each finished trial of each study as it was when it was first seen finished.
        events: How often each kind of event has happened.
    """

    workload: Workload
    plan: Plan
    folder: Path
    fork_server: ForkServer | None
    events: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    seen: dict[str, dict[int, TrialRecord]] = field(default_factory=dict)
    spent_s: float = 0.0
    sessions: int = 0
    cuts: int = 0
    """Sessions that the end of a window stopped before the budget was spent."""
    zombies: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.plan.seed)  # noqa: S311  no secret
        self.store = TrialStore(OutputsPaths(self.workload.outputs).sweep(self.workload.sweep))
        self._kinds = self._draw_kinds()
        self._next_kind = next(self._kinds, None)
        self._clock = Clock(self.folder)
        self._clock.to_opening()
        self._is_cut = False
        self._twin: Session | None = None

    @property
    def kills(self) -> int:
        """The number of SIGKILLs so far."""
        return sum(self.events[kind] for kind in KILLS)

    def run(self) -> None:
        """Start the command again and again until the sweep is done.

        Raises:
            ChaosError: It stalls, or exits with an error that no event explains.
        """
        while True:
            self._keep_twin()
            code = self._run_session(has_events=True)
            self._record_progress()
            if code == 0 and not self._has_trials_left():
                self._finish_twin()
                return
            if code == 0 and not self._is_cut:
                raise ChaosError(f"left-work: session {self.sessions} exited with 0, but trials are left")
            if self._is_cut:
                self._open_next_window()

    def reconcile(self) -> str:
        """Run ``sweeper reconcile``; return its output."""
        log = self.folder / "reconcile.log"
        command = ["reconcile", self.workload.sweep, "--outputs", str(self.workload.outputs)]
        assert self.fork_server is not None
        code = self.fork_server.start(command, log).wait(_STALL_S)
        if code:
            raise ChaosError(f"reconcile-failed: it exited with {code}: {log.read_text()}")
        return log.read_text()

    def _keep_twin(self) -> None:
        """Start the sweep that runs beside this one, or start it again if an event for both has ended it."""
        if self.workload.twin is not None and (self._twin is None or not self._twin.is_alive):
            folder = self.folder / "twin"  # its own, since a session's clock and history are beside its log
            folder.mkdir(exist_ok=True)
            self._twin = Session(self.workload.twin, log=folder / "session.log", fork_server=self.fork_server)

    def _finish_twin(self) -> None:
        """Run the sweep beside this one to its end."""
        code: int | None = None
        for _ in range(_TWIN_STARTS if self._twin is not None else 0):
            self._keep_twin()
            assert self._twin is not None
            if (code := self._twin.end(_STALL_S)) == 0:
                return
        if self._twin is not None:
            raise ChaosError(f"twin-failed: the sweep beside this one exited with {code}")

    def _run_session(self, *, has_events: bool) -> int:
        """Run one session; return the controller's exit code."""
        self.sessions += 1
        session = Session(
            self.workload,
            log=self.folder / "session.log",
            fork_server=None if self.sessions % _REAL_STARTS == 0 else self.fork_server,
        )
        happened = []
        try:
            while has_events and session.is_alive and self._next_kind and self.kills < self.plan.kills:
                kind = self._next_kind
                if self._inject(session, kind):
                    happened.append(kind)
                    self._next_kind = next(self._kinds, None)
                    if kind in LETHAL:
                        break
            code = session.end(_STALL_S)
        finally:
            session.end(0.0)
            self.zombies += survivors(session.pid, 10.0)
        self.exits[str(code)] += 1
        if code is None:
            raise ChaosError(f"no-exit: session {self.sessions} did not exit; events: {happened}")
        if code != 0 and not any(code in EXITS.get(kind, ()) for kind in happened):
            raise ChaosError(f"exit-code: session {self.sessions} exited with {code}; events: {happened}")
        return code

    def _inject(self, session: Session, kind: str) -> bool:
        """Wait for a random moment, then make an event happen; return whether it could."""
        if self._draw.random() < _AT_ANY_MOMENT:
            is_alive = session.wait(self._draw.uniform(0.0, _START_S))
        else:
            session.wait(_STALL_S, until_trained=True)
            is_alive = session.wait(self._draw.uniform(0.0, 1.0))
        if not is_alive:
            return False
        self._is_cut = self._is_cut or kind in ("close_window", "jump_clock")
        has_happened = EVENTS[kind](session, self._draw) is not False
        self.events[kind] += has_happened
        # An event for a worker that has not started yet can be repeated. One for a controller that has ended cannot.
        return has_happened or kind in LETHAL

    def _draw_kinds(self) -> Iterator[str]:
        if self.plan.is_short:
            yield from self._draw.sample(self.plan.kinds, len(self.plan.kinds))
            return
        while True:
            yield self._draw.choices(self.plan.kinds, [_WEIGHTS[kind] for kind in self.plan.kinds])[0]

    def _has_trials_left(self) -> bool:
        """Whether the budget is not spent yet, or the best configuration not confirmed."""
        return any(self._has_left(study) for study in self.workload.studies)

    def _has_left(self, study: str) -> bool:
        num_searched = sum(record.spec.phase is Phase.SEARCH for record in self.seen.get(study, {}).values())
        confirmation = self.store.read_confirmation(study)
        return num_searched < self.workload.trials or confirmation is None or not confirmation.state.is_over

    def _open_next_window(self) -> None:
        """Move the clock to the next window. Sometimes start a session before that, which must exit at once."""
        self.cuts += self._has_trials_left()
        if not self._clock.is_open and self._draw.random() < _TOO_EARLY:
            before_s = self.spent_s
            code = self._run_session(has_events=False)
            self._record_progress()
            if code or self.spent_s != before_s:
                raise ChaosError(
                    f"outside-window: session {self.sessions} started there, and exited with {code} or spent time"
                )
        self._clock.to_opening()
        self._is_cut = False

    def _record_progress(self) -> None:
        """Remember the finished trials, which must never change, and the ledger's cost, which must never shrink."""
        ledger = self.store.paths.ledger
        if ledger.exists():
            spent = Ledger(ledger).cost.device_s
            if spent < self.spent_s:
                raise ChaosError(f"ledger-shrank: it fell from {self.spent_s} to {spent} device seconds")
            self.spent_s = spent
        try:
            records = [record for study in self.workload.studies for record in self.store.trials(study)]
        except StoreError as error:
            raise ChaosError(f"unreadable: {error}") from error
        for record in records:
            if record.state.is_finished:
                self.seen.setdefault(record.spec.study, {}).setdefault(record.spec.number, record)

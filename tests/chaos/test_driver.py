"""Which exits the driver of the chaos suite treats as errors, with fake sessions that only have exit codes."""

from __future__ import annotations

import pytest

from chaos import driver as driver_module
from chaos.driver import Driver, Plan
from chaos.session import ChaosError
from chaos.workload import STUDY, SWEEP, Workload
from sweeper.config.settings import ConfirmSettings
from sweeper.figures.confirmation import ConfirmationRecord, ConfirmationState
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.builders import make_study, make_trial


class FakeSession:
    """Ends with the codes of `script`; finishes a trial whenever the code is 0."""

    script: list[int]
    pid = -1
    confirmation = ConfirmationState.COMPLETE

    def __init__(self, workload, *, log, **_more):
        self._store, self.clock = TrialStore(workload.outputs / SWEEP), driver_module.Clock(log.parent)
        self.is_alive = True

    def wait(self, _seconds, **_more):
        return True

    def end(self, patience_s):
        if not patience_s:
            return None
        code = self.script.pop(0)
        if code == 0 and self.clock.is_open:
            number = len(self._store.trials(STUDY))
            self._store.write_trial(make_trial(number, 0.5, study=make_study(name=STUDY)))
            record = ConfirmationRecord(state=self.confirmation, num_searched=1, settings=ConfirmSettings())
            self._store.write_confirmation(STUDY, record)
        return code


@pytest.fixture
def play(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module, "Session", FakeSession)
    monkeypatch.setattr(driver_module, "survivors", lambda _pid, _patience_s: [])

    def run(codes, *, trials, kinds=()):
        FakeSession.script = list(codes)
        outputs = tmp_path / "outputs"
        workload = Workload(inputs=tmp_path, outputs=outputs, trials=trials, workers=1, seed=0)
        played = Driver(workload, Plan(seed=0, kills=9, kinds=kinds, is_short=True), tmp_path, None)
        played.run()
        return played

    return run


def test_a_sweep_that_is_done_ends_it(play):
    assert play([0], trials=1).sessions == 1


def test_an_exit_with_trials_left_is_an_error(play):
    with pytest.raises(ChaosError, match="trials are left"):
        play([0], trials=2)


def test_an_exit_before_the_best_is_confirmed_is_an_error(play, monkeypatch):
    monkeypatch.setattr(FakeSession, "confirmation", ConfirmationState.RUNNING)
    with pytest.raises(ChaosError, match="trials are left"):
        play([0], trials=1)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 75, 143])
def test_an_exit_code_that_no_event_explains_is_an_error(play, code):
    with pytest.raises(ChaosError, match=f"exited with {code}"):
        play([code], trials=1)


def test_after_the_end_of_a_window_the_next_session_continues(play, monkeypatch):
    monkeypatch.setitem(driver_module.EVENTS, "close_window", lambda session, _draw: session.clock.to_end(30.0))
    monkeypatch.setattr(driver_module, "_TOO_EARLY", 1.0)
    played = play([0, 0, 0], trials=1, kinds=["close_window"])
    assert (played.cuts, played.sessions) == (1, 3)
    assert played.seen[STUDY][0].state is TrialState.COMPLETE


def test_a_session_outside_the_window_must_exit_with_0(play, monkeypatch):
    monkeypatch.setitem(driver_module.EVENTS, "close_window", lambda session, _draw: session.clock.to_end(30.0))
    monkeypatch.setattr(driver_module, "_TOO_EARLY", 1.0)
    with pytest.raises(ChaosError, match="exited with 2"):
        play([0, 2], trials=1, kinds=["close_window"])


def test_an_event_that_finds_nothing_to_disturb_is_not_counted_and_repeated(play, monkeypatch):
    found = iter([False, False, True])
    monkeypatch.setitem(driver_module.EVENTS, "kill_worker", lambda _session, _draw: next(found))
    played = play([0], trials=1, kinds=["kill_worker"])
    assert (played.events["kill_worker"], played.kills) == (1, 1)

"""A pruning decision that was recorded or acted on survives a kill at any write, and is never reversed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

import pytest

from sweeper.search.study import Search
from sweeper.search.study_database import StudyDatabase
from sweeper.types import Decision, TrialState
from tests.control.bench import RUNGS, Bench, Killed, check_intact
from tests.search.toy import preset

PRUNERS = {
    "median": {"pruner": "median"},
    "halving": {"pruner": "halving", "reduction_factor": 2},
    "hyperband": {"pruner": "hyperband", "reduction_factor": 2},
    "pareto": {"pruner": "halving", "reduction_factor": 2, "cost": "device_s"},
}
FIRST = RUNGS[0]


class NoDatabase:
    """A view that nobody sees, since decisions do not depend on it and opening it is most of a session's time."""

    num_trials = 0

    def discard_stale(self, trials):
        pass

    update = discard_stale

    def close(self):
        pass


def make_bench(folder, pruner):
    return Bench(folder, num_trials=10, search=preset("random", recipes=[], **PRUNERS[pruner]), speeds=(1, 2))


def run(bench, monkeypatch, *, kill_at=None, after=False):
    """Run a session, and kill it before or after a write becomes visible; return the number of writes."""
    writes, real = [], os.replace

    def write(source, target):
        writes.append(target)
        if len(writes) != kill_at:
            real(source, target)
            return
        if after:
            real(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", write)
        patch.setattr(os, "fsync", lambda _: None)  # nothing here loses power
        patch.setattr(StudyDatabase, "open", lambda *_, **__: NoDatabase())
        with suppress(Killed):
            bench.run()
    return len(writes)


def decisions(bench, chunks_before):
    """Return the decisions at the first rung that are recorded, or that the worker's chunks show."""
    found = {}
    for number, record in bench.trials().items():
        if record.state is TrialState.PRUNED:
            found[number] = Decision.STOP
        elif record.decided_chunk >= FIRST or record.chunks_done > FIRST:
            found[number] = Decision.CONTINUE
    packs = bench.chunks()
    for number in {number for pack in packs for number in pack}:
        trained = [index for index, pack in enumerate(packs) if number in pack]
        num_chunks = chunks_before.get(number, 0) + len(trained)
        if num_chunks > FIRST:
            found.setdefault(number, Decision.CONTINUE)
        elif num_chunks == FIRST and trained[-1] < len(packs) - 1:
            found.setdefault(number, Decision.STOP)  # another trial trained in its lane
    return found


def check_kills(tmp_path, monkeypatch, pruner, *, first=1, stride):
    num_writes = run(make_bench(tmp_path / "whole", pruner), monkeypatch)
    assert num_writes > 100
    seen = set()
    for kill_at in range(first, num_writes, stride):
        for after in (False, True):
            bench = make_bench(tmp_path / f"{kill_at}-{after}", pruner)
            known = {}
            for session in (kill_at, 1 + kill_at // 3, None):
                before = {number: record.chunks_done for number, record in bench.trials().items()}
                bench.events.clear()
                run(bench, monkeypatch, kill_at=session, after=after)
                made = decisions(bench, before)
                for number, decision in known.items():
                    assert made.get(number) is decision, f"trial {number}, killed at write {kill_at}, after={after}"
                known = made
            assert len(known) == bench.num_trials
            assert all(state.is_finished for state in bench.states())
            seen |= set(known.values())
    assert seen == {Decision.STOP, Decision.CONTINUE}


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_kill_reverses_no_decision(tmp_path, monkeypatch, pruner):
    check_kills(tmp_path, monkeypatch, pruner, stride=29)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_kill_at_any_write_reverses_no_decision(tmp_path, monkeypatch, pruner, first):
    check_kills(tmp_path, monkeypatch, pruner, first=first, stride=8)


def test_a_decided_rung_that_is_trained_again_is_scored_but_not_decided_again(tmp_path, monkeypatch):
    bench = Bench(tmp_path, search=preset("random", recipes=[]))
    with pytest.raises(Killed):
        bench.run(replies=4)  # after the rung at chunk 2
    decided = bench.trials()[1]
    assert (decided.decided_chunk, decided.state) == (FIRST, TrialState.RUNNING)
    for path in bench.store.paths.trial("toy", 1).folder.glob("checkpoint-*"):
        path.write_bytes(b"")
    real, reports = Search.report, []

    def report(self, number, *, chunk, value, loss, costs):
        decision = real(self, number, chunk=chunk, value=value, loss=loss, costs=costs)
        reports.append((number, chunk, chunk in self._mirror.trials[number].intermediate_values))
        return Decision.STOP if (number, chunk) == (1, FIRST) else decision

    monkeypatch.setattr(Search, "report", report)
    bench.store.write_trial(replace(decided, measurements=()))
    bench.run()
    assert (1, FIRST, True) in reports
    assert bench.trials()[1].state is TrialState.COMPLETE
    check_intact(bench)

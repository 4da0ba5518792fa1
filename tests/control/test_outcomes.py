"""Every scored rung of a record has its row outcomes on disk, whatever interrupts the session."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sweeper.store.damage import has_checksum
from sweeper.types import TrialState
from tests.control.bench import Bench, Killed, check_intact, no_pruning
from tests.control.test_exactly_once import kill_at_write
from tests.doubles import outcomes_of
from tests.search.toy import preset


def check_outcomes(bench):
    """Check that every scored rung has the outcomes from which its score follows."""
    for number, trial in bench.trials().items():
        assert len(bench.store.rung_outcomes(trial)) == sum(each.is_rung for each in trial.measurements)
        assert all(has_checksum(path, sha) for path, sha in bench.store.rung_outcomes(trial).items())
        for rung in (each for each in trial.measurements if each.is_rung):
            expected = outcomes_of(rung.metrics["validation/accuracy"]).to_bytes()
            assert bench.store.read_outcomes("toy", number, rung.chunk).to_bytes() == expected


def test_complete_and_pruned_trials_keep_the_outcomes_of_all_their_rungs(tmp_path):
    bench = Bench(tmp_path, num_trials=12, search=preset("random")).run()
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= set(bench.states())
    check_intact(bench)
    check_outcomes(bench)


@pytest.mark.parametrize("method", ["write_outcomes", "write_rung_adapter", "write_adapter", "write_trial"])
@pytest.mark.parametrize("number", [1, 3, 6, 20])
def test_a_kill_after_any_write_leaves_the_outcomes_of_every_rung(tmp_path, monkeypatch, method, number):
    bench = Bench(tmp_path, search=no_pruning())
    with monkeypatch.context() as patch:
        kill_at_write(patch, method, number)
        with suppress(Killed):
            bench.run()
    check_outcomes(bench)
    bench.run()
    check_intact(bench)
    check_outcomes(bench)


def test_a_trial_that_repeats_a_chunk_has_no_outcomes_of_the_future(tmp_path, monkeypatch):
    bench = Bench(tmp_path, search=no_pruning())
    with monkeypatch.context() as patch:
        kill_at_write(patch, "write_trial", 8)
        with pytest.raises(Killed):
            bench.run()
    rewound = next(number for number, trial in bench.trials().items() if trial.chunks_done == 2)
    bench.store.paths.trial("toy", rewound).checkpoint(2).unlink()
    seen = []
    bench.worker = {"before": lambda _numbers: seen.append(bench.store.read_outcomes("toy", rewound, 2))}
    bench.run()
    assert seen[0] is None
    check_outcomes(bench)

"""The adapter of a trial's best rung is kept beside that of its last, whatever interrupts the session."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from sweeper.analysis.trial_summary import trial_summary
from sweeper.figures.rungs import best_rung
from sweeper.store.retention import adapters_to_keep, rung_adapter_to_keep
from sweeper.types import Failure, FailureKind, TrialState
from tests.control.bench import Bench, Killed, check_intact, no_pruning, record
from tests.control.test_exactly_once import kill_at_write
from tests.doubles import FakeWorker, weights_of
from tests.search.toy import preset

RUNGS = (1, 2, 3, 4)
STUDY = record("toy")
SCORES = {"falling": (0.9, 0.8, 0.7, 0.6), "peak": (0.6, 0.9, 0.8, 0.7), "rising": (0.6, 0.7, 0.8, 0.9)}
BEST = {"falling": 1, "peak": 2, "rising": 4}
SHAPES = tuple(SCORES)


class ShapedWorker(FakeWorker):
    """Scores every chunk; the scores of a trial fall, rise, or have a peak, depending on its number."""

    def _measured(self, spec, chunk):
        measured = super()._measured(spec, chunk)
        # A hundredth of the number apart, so that trials are ranked.
        value = SCORES[shape_of(spec.number)][chunk - 1] - spec.number / 100
        return replace(measured, metrics={**measured.metrics, "validation/accuracy": value})


def shape_of(number):
    return SHAPES[number % len(SHAPES)]


class ShapedBench(Bench):
    def _make_worker(self, index):
        return ShapedWorker(rungs=RUNGS, num_chunks=RUNGS[-1], events=self.events, index=index, **self.worker)


@pytest.fixture
def bench(tmp_path):
    return ShapedBench(tmp_path, num_trials=3, search=no_pruning())


def rung_adapters(bench, number):
    """Return the content of the weights of the rungs' adapters on disk, by chunk."""
    folders = bench.store.paths.trial("toy", number).rung_adapters()
    return {
        int(folder.name.rpartition("-")[2]): (folder / "adapter_model.safetensors").read_bytes() for folder in folders
    }


def check_adapters(bench):
    """Check that the adapters on disk are those that the records call for, with the right content."""
    trials = bench.trials()
    keep = adapters_to_keep(STUDY, trials.values(), bench.keep_adapters)
    for number, trial in trials.items():
        chunk = rung_adapter_to_keep(STUDY, trial, keeps_adapter=number in keep)
        expected = {} if chunk is None else {chunk: weights_of(number, chunk)}
        assert rung_adapters(bench, number) == expected


def test_a_complete_trial_keeps_the_adapter_of_a_better_rung(bench):
    bench.run()
    check_intact(bench)
    for number in bench.trials():
        chunk = BEST[shape_of(number)]
        assert rung_adapters(bench, number) == ({} if chunk == 4 else {chunk: weights_of(number, chunk)})
        adapter = bench.store.adapter_dir("toy", number) / "adapter_model.safetensors"
        assert adapter.read_bytes() == weights_of(number, RUNGS[-1])


def test_the_objective_is_the_last_rung(bench):
    bench.run()
    assert bench.in_optuna()[0].value == pytest.approx(SCORES[shape_of(0)][-1])


def test_trials_that_lose_their_adapter_lose_that_of_the_rung_too(bench):
    bench.search, bench.num_trials, bench.keep_adapters = no_pruning(recipes=[]), 6, 2
    bench.run()
    assert bench.store.adapters("toy") == {2, 5}  # the rising ones; 0, 1 and 3 were among the best two before
    check_adapters(bench)


def test_fewer_adapters_at_the_next_start_are_fewer_of_rungs_too(bench):
    bench.search = no_pruning(recipes=[])
    bench.run()
    bench.keep_adapters = 1
    bench.run()
    assert bench.store.adapters("toy") == {2}
    check_adapters(bench)


def test_pruned_trials_keep_none(tmp_path):
    bench = ShapedBench(tmp_path, num_trials=12, search=preset("random")).run()
    pruned = [number for number, trial in bench.trials().items() if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(rung_adapters(bench, number) == {} for number in pruned)


@pytest.mark.parametrize(
    ("kind", "state"), [(FailureKind.NON_FINITE, TrialState.INFEASIBLE), (FailureKind.ERROR, TrialState.FAILED)]
)
def test_trials_that_end_by_a_failure_keep_none(bench, kind, state):
    bench.max_retries = 0
    bench.worker = {"fails": lambda _spec, chunk: Failure(kind=kind, message="no luck") if chunk == 3 else None}
    bench.run()
    assert set(bench.states()) == {state}
    assert all(rung_adapters(bench, number) == {} for number in bench.trials())


@pytest.mark.parametrize("method", ["write_rung_adapter", "write_trial", "drop_rung_adapters"])
@pytest.mark.parametrize("number", [4, 6, 12, 24])
def test_a_kill_after_any_write_leaves_an_adapter_for_the_best_rung_of_every_record(bench, monkeypatch, method, number):
    with monkeypatch.context() as patch:
        kill_at_write(patch, method, number)
        with suppress(Killed):
            bench.run()
    for trial_number, trial in bench.trials().items():
        rung = best_rung(STUDY, trial)
        if rung is not None and trial.state is TrialState.RUNNING:
            assert rung_adapters(bench, trial_number)[rung.chunk] == weights_of(trial_number, rung.chunk)
    bench.run()
    check_intact(bench)
    check_adapters(bench)


def test_a_trial_that_repeats_a_chunk_from_a_rewound_record_has_no_adapter_of_the_future(bench, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at_write(patch, "write_trial", 10)
        with pytest.raises(Killed):
            bench.run()
    rewound = next(n for n, trial in bench.trials().items() if best_rung(STUDY, trial).chunk == 2)
    bench.store.paths.trial("toy", rewound).checkpoint(2).unlink()
    seen = []
    bench.worker = {"before": lambda _numbers: seen.append(rung_adapters(bench, rewound))}
    bench.run()
    assert seen[0] == {}
    check_adapters(bench)


def test_the_summary_of_a_trial_names_the_adapter_of_its_best_rung(bench):
    bench.run()
    for number, trial in bench.trials().items():
        found = trial_summary(bench.store, STUDY, trial)["best_rung"]
        chunk = BEST[shape_of(number)]
        assert found["chunk"] == chunk
        assert found["adapter"].endswith("adapter" if chunk == 4 else f"adapter-chunk-{chunk}")

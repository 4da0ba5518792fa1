"""The adapter of the reported best trial is on disk, also where many trials have the same score."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.analysis.best import best_configurations
from tests.control.bench import RUNGS, Bench, no_pruning
from tests.doubles import FakeWorker

NUM_TRIALS = 21


class TiedWorker(FakeWorker):
    """Every trial has the same score, and fewer parameters than the one before it."""

    def _measured(self, spec, chunk):
        measured = super()._measured(spec, chunk)
        tied = {name: 0.9 for name in measured.metrics if name.startswith("validation/")}
        return replace(measured, metrics={**measured.metrics, **tied})

    def _report(self, fresh):
        report = super()._report(fresh)
        for number, details in report.details.items():
            details["num_parameters"] = 1000 - number
        return report


class TiedBench(Bench):
    def _make_worker(self, index):
        return TiedWorker(rungs=RUNGS, num_chunks=RUNGS[-1], events=self.events, index=index)


@pytest.mark.parametrize("keep_adapters", [1, 20])
def test_the_reported_best_of_tied_trials_has_its_adapter(tmp_path, keep_adapters):
    search = no_pruning(recipes=[])
    bench = TiedBench(tmp_path, num_trials=NUM_TRIALS, keep_adapters=keep_adapters, search=search).run()
    [study] = best_configurations(bench.store)["studies"]
    assert study["best"]["trial"] == NUM_TRIALS - 1
    assert study["best"]["adapter"] is not None
    assert bench.store.adapters("toy") == set(range(NUM_TRIALS - keep_adapters, NUM_TRIALS))

"""What the controller itself costs: work per trial does not grow with the number of trials, and nothing waits for SQL.

Counts of calls, not times, so that a busy machine changes nothing. `benchmarks/controller.py` measures times.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest

from sweeper.display.progress import study_progress
from sweeper.search.study_database import StudyDatabase
from sweeper.store.trials import TrialStore
from tests.control.bench import Bench, check_intact, no_pruning
from tests.search.toy import preset


class CallCounter:
    """Counts the calls of this thread, and notes the count after each of the given numbers of finished trials."""

    def __init__(self, bench, at):
        self.bench, self.at, self.counts, self.num_calls = bench, list(at), [], 0

    def __call__(self):
        (run,) = self.bench.runs
        study_progress(run.record, run.tally, budget=self.bench.num_trials, wall_s=run.tally.wall_s(), default="x")
        self.bench.controller.forecast.ends_at(1)
        while self.at and run.tally.num_finished >= self.at[0]:
            self.at.pop(0)
            self.counts.append(self.num_calls)

    def count(self, _frame, event, _argument):
        self.num_calls += event in ("call", "c_call")


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["successive_halving", "median", "hyperband"])
def test_the_work_per_trial_does_not_grow_with_the_number_of_trials(tmp_path, pruner):
    bench = Bench(tmp_path, num_trials=330, num_workers=2, lanes=8, keep_adapters=5)
    bench.search = replace(preset("random"), pruner=pruner)
    counter = CallCounter(bench, at=(60, 120, 240, 300))
    sys.setprofile(counter.count)
    try:
        bench.run(on_change=counter)
    finally:
        sys.setprofile(None)
    first, second, third, fourth = counter.counts
    assert (fourth - third) <= 1.2 * (second - first)


def test_every_chunk_is_written_once_with_the_decision_about_it(tmp_path, monkeypatch):
    writes, real = Counter(), TrialStore.write_trial

    def write(store, record, checkpoint=None):
        writes[record.spec.number] += 1
        real(store, record, checkpoint)

    monkeypatch.setattr(TrialStore, "write_trial", write)
    bench = Bench(tmp_path, num_trials=20, search=preset("random")).run()
    assert writes == {number: trial.chunks_done + 1 for number, trial in bench.trials().items()}


def test_no_decision_waits_for_the_database(tmp_path, monkeypatch):
    is_over, real, waited = threading.Event(), StudyDatabase._write, []

    def write(*arguments, **options):
        waited.append(is_over.wait(60.0))
        real(*arguments, **options)

    monkeypatch.setattr(StudyDatabase, "_write", write)
    bench = Bench(tmp_path, num_trials=8, search=no_pruning())

    def look():
        if bench.runs[0].tally.counts["complete"] == bench.num_trials:
            is_over.set()

    bench.run(on_change=look)
    assert waited
    assert all(waited)
    check_intact(bench)

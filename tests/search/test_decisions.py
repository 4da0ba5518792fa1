"""A decision that was acted on is never made differently: reported again, after the end, by another process."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from sweeper.types import Decision, TrialState
from tests.builders import make_measurement, make_spec, make_trial
from tests.search.toy import RUNGS, open_toy, preset, value_of

PRUNERS = {
    "median": {"pruner": "median"},
    "halving": {"pruner": "halving", "reduction_factor": 2},
    "hyperband": {"pruner": "hyperband", "reduction_factor": 2},
    "pareto": {"pruner": "halving", "reduction_factor": 2, "cost": "device_s"},
}
NUM_TRIALS = 24


@pytest.fixture(params=PRUNERS)
def settings(request):
    return preset("random", recipes=[], **PRUNERS[request.param])


class Study:
    """Trials in a random order, with the records that a store would have."""

    def __init__(self, search, seed):
        self.search, self.rng = search, random.Random(seed)  # noqa: S311 - no secret
        self.records, self.decisions = {}, {}
        for _ in range(NUM_TRIALS):
            proposal = search.ask()
            spec = make_spec(proposal.number, params=proposal.params, study="toy", origin=proposal.origin)
            self.records[proposal.number] = make_trial(spec=spec, state=TrialState.RUNNING, chunks=0)

    def advance(self, steps):
        for _ in range(steps):
            running = [n for n, record in self.records.items() if not record.state.is_finished]
            if running:
                self.step(self.rng.choice(running))

    def step(self, number):
        record = self.records[number]
        chunk = RUNGS[len(record.measurements)]
        value = math.nan if self.rng.random() < 0.05 else self.rng.random()
        measurement = make_measurement(chunk, value, elapsed_s=self.rng.choice([1.0, 2.0, 3.0]))
        record = replace(record, measurements=(*record.measurements, measurement))
        decision = self.report(self.search, record, chunk)
        self.decisions[number, chunk] = decision
        assert self.report(self.search, record, chunk) is decision
        if decision is Decision.STOP or chunk == RUNGS[-1]:
            state = TrialState.PRUNED if decision is Decision.STOP else TrialState.COMPLETE
            if state is TrialState.COMPLETE and math.isnan(value):
                state = TrialState.FAILED
            self.search.tell(number, state=state, value=None if math.isnan(value) else value)
            record = replace(record, state=state)
        else:
            record = replace(record, decided_chunk=chunk)
        self.records[number] = record

    @staticmethod
    def report(search, record, chunk):
        measurement = next(each for each in record.measurements if each.chunk == chunk)
        (value,) = (measurement.metrics[key] for key in measurement.metrics if key.endswith("accuracy"))
        costs = {"device_s": measurement.elapsed_s, "parameters": 0.0}
        return search.report(record.spec.number, chunk=chunk, value=value, costs=costs)

    def decide_again(self, search):
        return {(number, chunk): self.report(search, self.records[number], chunk) for number, chunk in self.decisions}


@pytest.mark.parametrize("seed", range(3))
def test_every_decision_is_the_same_when_it_is_requested_again(tmp_path, settings, seed):
    with open_toy(tmp_path, settings) as search:
        study = Study(search, seed)
        for _ in range(4):
            study.advance(12)
            assert study.decide_again(search) == study.decisions
    assert set(study.decisions.values()) == {Decision.CONTINUE, Decision.STOP}


@pytest.mark.parametrize("seed", range(3))
def test_another_process_gives_the_recorded_decisions_whatever_was_scored_meanwhile(tmp_path, settings, seed):
    with open_toy(tmp_path, settings) as search:
        study = Study(search, seed)
        study.advance(30)
    for _ in range(3):
        with open_toy(tmp_path, settings) as search:
            search.sync(list(study.records.values()), finite_value)
            study.search = search
            assert study.decide_again(search) == study.decisions
            study.advance(10)
            assert study.decide_again(search) == study.decisions


def finite_value(record):
    value = value_of(record)
    return None if value is None or math.isnan(value) else value


def test_a_trial_that_became_not_finite_continued_before(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        number = search.ask().number
        search.report(number, chunk=3, value=0.5)
        assert search.report(number, chunk=6, value=math.nan) is Decision.STOP
        search.tell(number, state=TrialState.PRUNED, value=0.5)
        assert search.report(number, chunk=3, value=0.5) is Decision.CONTINUE
        assert search.report(number, chunk=6, value=math.nan) is Decision.STOP


def test_a_rung_that_was_decided_before_is_scored_again_for_the_others(tmp_path):
    """A trial whose checkpoint is damaged trains again over a rung at which it had been decided."""
    settings = preset("random", recipes=[])
    with open_toy(tmp_path, settings) as search:
        params = [search.ask().params for _ in range(5)]
    rewound = [
        make_trial(spec=make_spec(n, params=p, study="toy", origin="random"), state=TrialState.RUNNING, chunks=0)
        for n, p in enumerate(params)
    ]
    rewound[0] = replace(rewound[0], decided_chunk=3)
    with open_toy(tmp_path, settings) as search:
        search.sync(rewound, value_of)
        for number, value in enumerate((0.9, 0.8, 0.7)):
            assert search.report(number, chunk=3, value=value) is Decision.CONTINUE
        assert search.report(3, chunk=3, value=0.6) is Decision.STOP

"""The faults of the chaos suite reach the trials that must have them, and no other."""

from __future__ import annotations

import pytest

import sweeper.train.worker
from chaos.faults import make_worker
from sweeper.types import ChunkRequest, FailureKind
from tests.train.test_worker import admit, disk, setup, study, trial  # noqa: F401  the fixture `disk`


@pytest.fixture
def faulty(disk, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sweeper.train.worker, "Pack", sweeper.train.worker.Pack)  # restored after `make_worker`
    worker = make_worker(setup(disk), 0)
    worker.start()
    worker.answer(study(disk))
    return worker


def test_only_the_trial_of_the_faulty_rank_runs_out_of_memory(faulty):
    report = faulty.answer(admit(trial(1), trial(2, **{"lora.r": 16}), trial(3)))
    assert {number: failure.kind for number, failure in report.failures.items()} == {2: FailureKind.OUT_OF_MEMORY}
    assert report.measurements.keys() == {1, 3}


def test_only_the_trial_of_the_faulty_ratio_diverges_in_its_second_chunk(faulty):
    assert faulty.answer(admit(trial(1), trial(2, **{"lora.alpha_ratio": 4.0}))).failures == {}
    report = faulty.answer(ChunkRequest())
    assert {number: failure.kind for number, failure in report.failures.items()} == {2: FailureKind.NON_FINITE}
    assert report.measurements.keys() == {1}

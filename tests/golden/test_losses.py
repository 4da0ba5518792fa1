"""The same seeds give the same trials and losses as on the day they were recorded (see `record`)."""

from __future__ import annotations

import json

import pytest

from tests.golden.sweeps import RECORDED, SWEEPS, run

GOLDEN = json.loads(RECORDED.read_text())
ROUNDING = {"rel": 1e-4, "abs": 1e-6}  # of float32, which differs between processors


def without_metrics(trial):
    chunks = [(measured["chunk"], measured["rows"], sorted(measured["metrics"])) for measured in trial["measurements"]]
    return {**trial, "measurements": chunks}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_the_recorded_trials_and_losses(name, tmp_path):
    found, recorded = run(name, tmp_path), GOLDEN[name]
    assert [without_metrics(trial) for trial in found] == [without_metrics(trial) for trial in recorded]
    for trial, golden in zip(found, recorded, strict=True):
        for measured, expected in zip(trial["measurements"], golden["measurements"], strict=True):
            assert measured["metrics"] == pytest.approx(expected["metrics"], **ROUNDING), (trial["number"], measured)


def test_every_sweep_is_recorded_with_trials_that_trained():
    assert GOLDEN.keys() == SWEEPS.keys()
    for trials in GOLDEN.values():
        assert sum(trial["state"] == "complete" for trial in trials) >= 3

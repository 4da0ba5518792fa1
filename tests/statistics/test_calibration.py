"""Verdicts are right as often as they say, in simulated confirmations; wrong error models are noticed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import calibration as c
from sweeper.statistics import comparison, crossed
from sweeper.statistics.crossed import Crossed, MaxStatistic

NOISE = c.Noise(name="test", accuracy=0.8, row=0.95, candidate_row=0.01, seed_row=0.0, seed_error=0.01)
NULL = c.Scenario(noise=NOISE, gains=(0.0,) * 5, num_rows=400, looks=(3,))
STUDIES = 200
SEEDS_VARY = dataclasses.replace(NOISE, candidate_row=0.0, seed_error=0.02)
ADAPTIVE = dataclasses.replace(NULL, noise=SEEDS_VARY, looks=(3, 6, 12))
MOST_WRONG = 0.07
"""5 % and one standard error of 200 studies. The simulation is seeded, so it does not fail by chance."""


def test_verdicts_are_rarely_wrong_without_a_true_gain():
    found = c.run(NULL, STUDIES)
    assert found["wrong"] <= MOST_WRONG
    assert found["wrong_best"] <= MOST_WRONG
    assert found["covered_score"] >= 0.9


def test_looks_at_more_and_more_seeds_do_not_make_more_verdicts_wrong():
    found = c.run(ADAPTIVE, STUDIES)
    assert found["wrong"] <= MOST_WRONG
    assert found["trials"] > 60


def test_intervals_cover_true_gains_and_large_ones_are_found():
    found = c.run(dataclasses.replace(NULL, gains=(0.0, 0.01, 0.05), looks=(3, 6)), STUDIES // 2)
    assert found["covered"] >= 0.9
    assert found["better"] >= 0.8


@pytest.fixture
def forget_seeds(monkeypatch):
    """Only rows vary: the error is that of the means over seeds."""

    def error(self, *_, **__):
        variance = self.row / self.num_rows + self.residual / (self.num_seeds * self.num_rows)
        return crossed.StandardError(error=np.sqrt(variance), degrees=self.num_rows - 1)

    monkeypatch.setattr(Crossed, "error", error)


@pytest.fixture
def forget_other_candidates(monkeypatch):
    monkeypatch.setattr(MaxStatistic, "level", lambda _, level: level)


@pytest.fixture
def forget_earlier_looks(monkeypatch):
    monkeypatch.setattr(comparison, "error_level", lambda settings, _: 1 - settings.confidence)


@pytest.fixture
def forget_that_rows_are_shared(monkeypatch):
    """Binomial errors of two independent samples."""

    def error(self, *_, **__):
        return crossed.StandardError(error=np.sqrt(2 * 0.8 * 0.2 / self.num_rows), degrees=1e6)

    monkeypatch.setattr(Crossed, "error", error)


@pytest.mark.usefixtures("forget_seeds")
def test_the_simulation_notices_if_seeds_are_forgotten():
    assert c.run(NULL, STUDIES)["wrong"] > MOST_WRONG


@pytest.mark.usefixtures("forget_other_candidates")
def test_the_simulation_notices_if_intervals_are_not_simultaneous():
    assert c.run(NULL, STUDIES)["wrong"] > MOST_WRONG


@pytest.mark.usefixtures("forget_earlier_looks")
def test_the_simulation_notices_if_every_look_has_the_whole_error_level():
    assert c.run(ADAPTIVE, STUDIES)["wrong"] > MOST_WRONG


@pytest.mark.usefixtures("forget_that_rows_are_shared")
def test_the_simulation_notices_if_rows_are_not_paired():
    assert c.run(dataclasses.replace(NULL, gains=(0.0, 0.01, 0.05), looks=(3, 6)), STUDIES // 2)["better"] < 0.8


def test_a_pigeonhole_bootstrap_counts_the_residual_three_times():
    random = np.random.default_rng(0)
    right_CSN = random.standard_normal((2, 12, 400))
    wanted = 1.96 * np.sqrt(3 * 2 / (12 * 400))
    assert c.pigeonhole(right_CSN) == pytest.approx([wanted], rel=0.15)


def test_simulated_candidates_have_their_true_accuracy():
    noise = dataclasses.replace(NOISE, seed_error=0.0)
    scenario = c.Scenario(noise=noise, gains=(0.05, -0.1), num_rows=20_000, looks=(3,))
    found = c.simulate(scenario, np.random.default_rng(0))
    accuracies = [(one.predicted_SN == one.target_N).mean() for one in found]
    assert accuracies == pytest.approx([0.8, 0.85, 0.7], abs=0.01)


def test_the_script_writes_rows_and_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["calibration", "--studies", "4", "--results", str(tmp_path)])
    c.main()
    rows = [json.loads(line) for line in (tmp_path / "calibration.jsonl").read_text().splitlines()]
    assert {row["table"] for row in rows} == {"model", "null", "mixed", "power"}
    text = (tmp_path / "calibration.md").read_text()
    assert "| 400 | " in text
    assert text.count("## Power") == 2

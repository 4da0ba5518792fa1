"""Verdicts about published rules on searches whose truth is known.

benchmarks/calibration_effects.py counts them over many searches.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.synthetic_sweeps import NUM_ROWS, SPACE, additive_surface, null_surface, ridge_surface, simulate
from sweeper.statistics import folklore
from sweeper.statistics.folklore import Claim, claim_json, combine, study_claims
from sweeper.statistics.observations import ScoredTrial
from sweeper.statistics.results import Interval
from sweeper.statistics.surrogate import fit_surrogate

EXPONENTS = ("alpha = c r", "alpha grows with sqrt(r)", "constant alpha")


def claims_of(surface, *, num_trials=100, seed=1, num_train_rows=1000):
    surrogate = fit_surrogate(SPACE, simulate(surface, num_trials=num_trials, seed=seed), num_rows=NUM_ROWS)
    return {claim.name: claim for claim in study_claims(surrogate, num_train_rows=num_train_rows)}


def interval(estimate, half):
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


@pytest.mark.parametrize(("exponent", "true"), [(0.0, EXPONENTS[0]), (-0.5, EXPONENTS[1]), (-1.0, EXPONENTS[2])])
def test_the_exponent_of_a_ridge_is_found(exponent, true):
    claims = claims_of(ridge_surface(exponent))
    found = claims[true].estimate
    assert found.low <= exponent <= found.high
    assert claims[true].verdict != "refuted"
    assert [claims[name].verdict for name in EXPONENTS if name != true].count("refuted") >= 1


def test_a_surface_without_a_ridge_has_no_exponent():
    claims = claims_of(additive_surface)
    assert {claims[name].verdict for name in EXPONENTS} == {"undecided"}


def test_a_rank_that_matters_refutes_low_ranks():
    def steep(params):
        return 0.7 + 0.2 * math.log2(params["lora.r"]) / 6

    claims = claims_of(steep)
    assert claims["low rank suffices"].verdict == "refuted"
    assert claims["r = 8, alpha = 16"].verdict != "supported"
    assert 0.05 < claims["low rank suffices"].estimate.estimate < 0.15


def test_noise_decides_nothing():
    for seed in range(6):
        assert {claim.verdict for claim in claims_of(null_surface, num_trials=24, seed=seed).values()} == {"undecided"}


def test_a_gap_that_grows_with_alpha_is_found_on_small_data_only():
    trials = [
        ScoredTrial(
            number=trial.number,
            params=trial.params,
            shares=trial.shares,
            values=trial.values,
            train_losses=(0.2,) * len(trial.values),
            validation_losses=tuple(
                0.5 + 0.1 * math.log2(trial.params["lora.alpha_ratio"]) + 0.002 * (trial.number % 5)
                for _ in trial.values
            ),
        )
        for trial in simulate(additive_surface, num_trials=60, seed=1)
    ]
    surrogate = fit_surrogate(SPACE, trials, num_rows=NUM_ROWS)
    small, large = (
        {claim.name: claim for claim in study_claims(surrogate, num_train_rows=rows)} for rows in (250, 4000)
    )
    name = "high alpha overfits small data"
    assert small[name].verdict == "supported"
    assert small[name].estimate.estimate == pytest.approx(0.1, abs=0.03)
    assert large[name].estimate is None
    assert "Not small" in large[name].detail


@pytest.mark.parametrize(
    ("name", "found", "verdict"),
    [
        ("dropout does not matter", interval(0.004, 0.005), "supported"),
        ("dropout does not matter", interval(0.004, 0.008), "undecided"),
        ("dropout does not matter", interval(0.03, 0.015), "refuted"),
        ("constant alpha", interval(-1.0, 0.2), "supported"),
        ("constant alpha", interval(-0.6, 0.3), "refuted"),
        ("constant alpha", interval(-0.6, 0.5), "undecided"),
        ("constant alpha", None, "undecided"),
    ],
)
def test_verdicts_follow_from_the_interval(name, found, verdict):
    claim = folklore._claim(name, found, "")
    assert claim.verdict == verdict
    assert claim_json(claim)["verdict"] == verdict


def test_the_largest_of_many_equal_gains_is_not_taken_for_a_gain():
    """Each gain is 0 with an error; the simultaneous band of the largest contains 0 in most repetitions."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        estimates = rng.normal(0, 0.01, 12)
        draws = estimates + rng.normal(0, 0.01, (400, 12))
        wrong += folklore._largest(draws, maximize=True).low > 0
    assert wrong <= 10


def test_studies_are_combined_with_the_doubt_of_their_differences():
    def over(*found):
        claims = [[folklore._claim("low rank suffices", one, "")] for one in found]
        return combine(claims)[0]

    alike = over(*(interval(0.004, 0.01) for _ in range(8)))
    assert alike.estimate.estimate == pytest.approx(0.004)
    assert alike.estimate.high - alike.estimate.low == pytest.approx(2 * 0.01 / 1.96 * 2.365 / math.sqrt(8), rel=0.01)
    assert alike.verdict == "supported"
    apart = over(*(interval(value, 0.002) for value in (0.0, 0.0, 0.05, 0.05)))
    assert apart.estimate.high - apart.estimate.low > 0.05
    assert over(None, interval(0.03, 0.01)).estimate == interval(0.03, 0.01)
    assert over(None, None).estimate is None
    assert "From 1 of 2 studies" in over(None, interval(0.03, 0.01)).detail


def test_studies_without_a_ridge_do_not_count_in_a_common_exponent():
    flat = Interval(estimate=0.0, low=-2.0, high=1.0)
    found = combine([[folklore._claim("constant alpha", one, "")] for one in (flat, flat, flat, interval(-1.0, 0.2))])
    assert found[0].estimate == interval(-1.0, 0.2)


def test_every_study_has_the_same_claims():
    names = [claim.name for claim in study_claims(fit_surrogate(SPACE, []), num_train_rows=100)]
    assert names == list(claims_of(additive_surface, num_trials=24))
    assert all(isinstance(claim, Claim) for claim in study_claims(fit_surrogate(SPACE, []), num_train_rows=100))

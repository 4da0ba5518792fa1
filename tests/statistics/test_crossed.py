"""The error model of seeds and rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeper.statistics.crossed import Crossed, MaxStatistic, SeedVariance, StandardError


def simulated(seed_error, row_error, residual_error, *, seeds=40, rows=400):
    random = np.random.default_rng(0)
    return (
        seed_error * random.standard_normal((seeds, 1))
        + row_error * random.standard_normal(rows)
        + residual_error * random.standard_normal((seeds, rows))
    )


def test_components_of_a_small_table_agree_with_those_by_hand():
    # Seed means 2 and 4, row means 2, 3, 4; the residuals are 0 but for -1, 1, 0 and 1, -1, 0.
    found = Crossed.of(np.array([[0.0, 3.0, 3.0], [4.0, 3.0, 5.0]]))
    between_seeds, between_rows, residual = 3 * 2 / 1, 2 * 2 / 2, 4 / 2
    assert found.mean == 3
    assert found.residual == pytest.approx(residual)
    assert found.seed == pytest.approx((between_seeds - residual) / 3)
    assert found.row == pytest.approx((between_rows - residual) / 2)


def test_components_are_found_again():
    found = Crossed.of(simulated(0.5, 1.0, 2.0))
    assert [found.seed, found.row, found.residual] == pytest.approx([0.25, 1.0, 4.0], rel=0.3)


def test_the_error_of_the_mean_is_that_of_many_simulated_means():
    random = np.random.default_rng(1)
    means = [
        (0.1 * random.standard_normal((3, 1)) + random.standard_normal(50) + random.standard_normal((3, 50))).mean()
        for _ in range(4000)
    ]
    found = Crossed(mean=0.0, num_seeds=3, num_rows=50, seed=0.01, row=1.0, residual=1.0)
    error = found.error(SeedVariance(variance=0.01, degrees=10)).error
    assert error == pytest.approx(np.std(means), rel=0.05)


def test_more_seeds_leave_the_error_of_the_rows():
    found = Crossed(mean=0.0, num_seeds=3, num_rows=100, seed=0.01, row=1.0, residual=1.0)
    seeds = SeedVariance(variance=0.01, degrees=2)
    assert found.error(seeds, num_seeds=10**6).error == pytest.approx(math.sqrt(1.0 / 100), rel=1e-3)
    assert found.error(seeds, num_rows=10**8).error == pytest.approx(math.sqrt(0.01 / 3), rel=1e-3)


def test_degrees_of_freedom_follow_the_larger_part_of_the_error():
    rows = Crossed(mean=0.0, num_seeds=3, num_rows=400, seed=0.0, row=1.0, residual=0.0)
    seeds = SeedVariance(variance=1.0, degrees=2)
    assert rows.error(SeedVariance(variance=0.0, degrees=2)).degrees == pytest.approx(399)
    assert rows.error(seeds).degrees == pytest.approx(2, rel=0.02)
    assert rows.error(seeds, num_seeds=5).degrees == pytest.approx(4, rel=0.04)


def test_rows_that_all_agree_still_leave_an_error():
    found = Crossed.of(np.zeros((3, 400)), step=1.0)
    assert found.error(SeedVariance(variance=0.0, degrees=2)).error == pytest.approx(1 / 400)


def test_continuous_values_that_all_agree_have_no_error():
    found = Crossed.of(np.zeros((3, 400)))
    assert found.error(SeedVariance(variance=0.0, degrees=2)).half_width(0.05) == 0


def test_half_a_t_interval():
    assert StandardError(error=2.0, degrees=2).half_width(0.05) == pytest.approx(2 * 4.303, rel=1e-3)


def test_pooled_seed_variance_weighs_by_seeds_and_is_not_negative():
    few, many = (
        Crossed(mean=0.0, num_seeds=s, num_rows=9, seed=v, row=0.0, residual=1.0) for s, v in [(3, 0.4), (7, -0.1)]
    )
    assert SeedVariance.pooled([few, many], 8).variance == pytest.approx((2 * 0.4 - 6 * 0.1) / 8)
    assert SeedVariance.pooled([many], 6).variance == 0


def test_simultaneous_level_lies_between_that_of_one_quantity_and_bonferroni():
    values = np.random.default_rng(0).standard_normal((5, 1000))
    assert MaxStatistic(values, 0).level(0.05) == pytest.approx(1 - 0.95 ** (1 / 5), rel=0.1)
    assert MaxStatistic(np.stack([values[0]] * 5), 0).level(0.05) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("values", [np.ones((1, 9)), np.zeros((3, 9)), np.arange(9.0)[None]])
def test_fewer_than_two_varying_quantities_need_no_correction(values):
    assert MaxStatistic(values, 0).level(0.05) == 0.05

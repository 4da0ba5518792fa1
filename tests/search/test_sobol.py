"""Our Sobol points are SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

from sweeper.config.keys import searchable_keys
from sweeper.search.sobol import MAX_DIMENSIONS, unit_point


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("num_dimensions", [1, 4, MAX_DIMENSIONS])
def test_points_are_those_of_scipy(num_dimensions, seed):
    expected = qmc.Sobol(d=num_dimensions, scramble=True, rng=np.random.default_rng(seed)).random(64)
    found = [unit_point(num_dimensions, seed, index) for index in range(64)]
    assert found == [tuple(point) for point in expected]


def test_a_late_point_is_that_of_scipy():
    engine = qmc.Sobol(d=3, scramble=True, rng=np.random.default_rng(7))
    engine.fast_forward(9_999)
    assert unit_point(3, 7, 9_999) == tuple(engine.random(1)[0])


def test_every_space_has_few_enough_dimensions():
    assert len(searchable_keys()) <= MAX_DIMENSIONS

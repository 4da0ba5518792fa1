"""Dimensions map the unit interval to values and back: properties of every kind of dimension."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.keys import find_key, searchable_keys
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.errors import SpaceError
from sweeper.search.distributions import from_drawn, to_drawn
from sweeper.statistics.observations import Encoder

UNITS = st.floats(min_value=0, max_value=1, exclude_max=True)


def interval(key, low, high, scale=Scale.LINEAR):
    return Dimension(key=key, scale=scale, low=low, high=high, text=f"{scale}({low},{high})")


def choice(key, *values, scale=Scale.ORDERED):
    return Dimension(key=key, scale=scale, choices=values, text=f"choice{values}")


def pairs(least, most):
    floats = st.floats(least, most, allow_subnormal=False)
    return st.tuples(floats, floats).filter(lambda pair: pair[0] * 1.001 < pair[1]).map(sorted)


LINEAR = pairs(0, 0.9).map(lambda pair: interval("lora.dropout", *pair))
LOG = pairs(1e-8, 1).map(lambda pair: interval("train.learning_rate", *pair, Scale.LOG))
INTEGER = (
    st.tuples(st.integers(1, 1024), st.integers(1, 1024))
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: interval("lora.r", *pair))
)
INTEGER_LOG = INTEGER.map(lambda d: interval("lora.r", d.low, d.high, Scale.LOG))
LOG2 = (
    st.tuples(st.integers(0, 10), st.integers(0, 10))
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: interval("lora.r", 2 ** pair[0], 2 ** pair[1], Scale.LOG2))
)
ORDERED = st.lists(st.integers(1, 1024), min_size=1, max_size=8, unique=True).map(
    lambda values: choice("lora.r", *sorted(values))
)
CATEGORICAL = st.lists(st.sampled_from(["linear", "cosine", "constant"]), min_size=1, unique=True).map(
    lambda values: choice("train.lr_schedule", *values, scale=Scale.CATEGORICAL)
)
DIMENSIONS = st.one_of(LINEAR, LOG, INTEGER, INTEGER_LOG, LOG2, ORDERED, CATEGORICAL)


@given(DIMENSIONS, UNITS)
def test_every_unit_is_a_value_of_the_dimension(dimension, unit):
    assert dimension.contains(dimension.at(unit))


@given(st.one_of(LINEAR, LOG, INTEGER, INTEGER_LOG, LOG2, ORDERED), UNITS, UNITS)
def test_values_grow_with_the_unit(dimension, one, other):
    low, high = sorted([one, other])
    assert dimension.at(low) <= dimension.at(high)


@given(st.one_of(LINEAR, LOG), UNITS)
def test_a_continuous_value_leads_back_to_its_unit(dimension, unit):
    assert dimension.unit(dimension.at(unit)) == pytest.approx(unit, abs=1e-6)


@given(DIMENSIONS, UNITS)
def test_the_position_of_a_value_leads_to_it(dimension, unit):
    value = dimension.at(unit)
    position = dimension.position(value)
    assert 0 <= position < 1
    found = dimension.at(position)
    assert found == (pytest.approx(value) if isinstance(value, float) and not dimension.choices else value)


@given(DIMENSIONS, UNITS)
def test_the_place_of_a_value_is_within_the_unit_interval(dimension, unit):
    assert -1e-9 <= dimension.unit(dimension.at(unit)) <= 1 + 1e-9


@given(st.one_of(LINEAR, LOG, INTEGER, INTEGER_LOG, LOG2))
def test_the_bounds_lie_at_0_and_1(dimension):
    assert dimension.unit(dimension.low) == pytest.approx(0, abs=1e-9)
    assert dimension.unit(dimension.high) == pytest.approx(1, abs=1e-9)


@given(st.one_of(LINEAR, LOG, INTEGER, INTEGER_LOG, LOG2))
def test_nothing_beyond_the_bounds_is_contained(dimension):
    assert not dimension.contains(dimension.low / 2 - 1e-12)
    assert not dimension.contains(dimension.high * 2)


@given(st.one_of(INTEGER, LOG2, ORDERED, CATEGORICAL))
def test_num_values_counts_the_values(dimension):
    if dimension.num_values <= 64:
        seen = {dimension.at((i + 0.5) / 4096) for i in range(4096)}
        assert len(seen) == dimension.num_values


@given(st.one_of(INTEGER, LOG2, ORDERED, CATEGORICAL))
def test_every_discrete_value_has_an_equal_share(dimension):
    if dimension.num_values <= 16:
        num_draws = 1000 * dimension.num_values
        shares = Counter(dimension.at((i + 0.5) / num_draws) for i in range(num_draws))
        assert set(shares.values()) <= {999, 1000, 1001}


def test_a_continuous_dimension_has_no_number_of_values():
    assert interval("lora.dropout", 0, 0.2).num_values is None


def test_ranks_of_a_log2_dimension_are_powers_of_two():
    dimension = interval("lora.r", 1, 64, Scale.LOG2)
    assert [dimension.at((i + 0.5) / 7) for i in range(7)] == [1, 2, 4, 8, 16, 32, 64]
    assert not dimension.contains(12)


def test_the_middle_of_a_log_dimension_is_the_geometric_mean():
    assert interval("train.learning_rate", 1e-4, 1e-2, Scale.LOG).at(0.5) == pytest.approx(1e-3)


def test_integers_stay_integers():
    value = interval("lora.r", 1, 100).at(0.3337)
    assert isinstance(value, int)
    assert not interval("lora.r", 1, 100).contains(3.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: choice("lora.alpha", 1),
        lambda: choice("lora.r", 4, 4),
        lambda: choice("lora.r", 0),
        lambda: choice("lora.r", 2.5),
        lambda: choice("train.lr_schedule", "cubic", scale=Scale.CATEGORICAL),
        lambda: choice("lora.use_rslora", 2),
        lambda: interval("lora.r", 8, 8),
        lambda: interval("lora.r", 8, 4),
        lambda: interval("lora.r", 1.5, 4),
        lambda: interval("lora.r", 1, 3, Scale.LOG2),
        lambda: interval("lora.dropout", 0, 0.2, Scale.LOG),
        lambda: interval("lora.dropout", 0, float("nan")),
        lambda: interval("lora.use_rslora", 0, 1),
        lambda: interval("lora.alpha_ratio", 0.5, float("inf")),
        lambda: interval("train.epochs", 0, 4),
        lambda: interval("train.epochs", 1, 2.5),
        lambda: choice("train.epochs", 0, 1),
        lambda: choice("train.epochs", 1.5, 2),
        lambda: choice("train.epochs", "one", scale=Scale.CATEGORICAL),
    ],
)
def test_an_invalid_dimension_is_rejected(make):
    with pytest.raises(SpaceError):
        make()


def test_the_full_range_of_every_searchable_number_is_a_valid_dimension():
    for key in map(find_key, searchable_keys()):
        if key.is_number:
            interval(key.name, key.as_dimension.at_least, key.at_most)


def test_zero_epochs_are_no_value_to_search_but_a_setting():
    with pytest.raises(SpaceError) as caught:
        interval("train.epochs", 0, 4)
    assert str(caught.value).startswith("train.epochs=linear(0,4): must be a whole number from 1 to 10000, not 0")
    assert "A dimension starts at 1" in str(caught.value)
    assert find_key("train.epochs").allows(0)


@pytest.mark.parametrize("dimension", [interval("train.epochs", 1, 4), choice("train.epochs", 1, 2, 4)])
def test_models_see_equal_ratios_of_epochs_as_equal_steps(dimension):
    assert [dimension.unit(epochs) for epochs in (1, 2, 4)] == pytest.approx([0, 0.5, 1])
    space = SearchSpace((dimension,))
    encoder = Encoder(space)
    points = encoder.encode([{"train.epochs": epochs} for epochs in (1, 2, 4)])
    assert points[:, 0].tolist() == pytest.approx([0, 0.5, 1])
    assert encoder.number_of(0, points[:, 0]).tolist() == pytest.approx([1, 2, 4])
    drawn = [space.point((unit,)) for unit in (0.01, 0.5, 0.99)]
    assert encoder.encode_units(np.array([[0.01], [0.5], [0.99]])) == pytest.approx(encoder.encode(drawn))


def test_epochs_are_drawn_as_the_dimension_says_however_models_see_them():
    dimension = interval("train.epochs", 1, 4)
    assert [dimension.at(unit) for unit in (0.1, 0.3, 0.6, 0.9)] == [1, 2, 3, 4]


# Whole spaces.

SPACE = SearchSpace((interval("lora.r", 1, 64, Scale.LOG2), interval("lora.dropout", 0, 0.2)))


def test_a_space_needs_a_dimension():
    with pytest.raises(SpaceError, match="there is no dimension"):
        SearchSpace(())


def test_a_point_of_the_unit_cube_is_a_configuration():
    assert SPACE.point((0.999, 0.5)) == {"lora.r": 64, "lora.dropout": pytest.approx(0.1)}


@pytest.mark.parametrize(
    ("params", "is_inside"),
    [
        ({"lora.r": 8, "lora.dropout": 0.1}, True),
        ({"lora.r": 8}, False),
        ({"lora.r": 8, "lora.dropout": 0.3}, False),
        ({"lora.r": 12, "lora.dropout": 0.1}, False),
        ({"lora.r": 8, "lora.dropout": 0.1, "lora.alpha_ratio": 1}, False),
    ],
)
def test_a_space_contains_configurations_of_just_its_keys_and_values(params, is_inside):
    assert SPACE.contains(params) is is_inside


def test_values_at_the_bounds_are_reported():
    assert SPACE.at_bounds({"lora.r": 64, "lora.dropout": 0.001}) == {"lora.r": "high", "lora.dropout": "low"}
    assert SPACE.at_bounds({"lora.r": 8, "lora.dropout": 0.1}) == {}


def test_a_category_lies_at_no_bound():
    space = SearchSpace((choice("train.lr_schedule", "linear", "cosine", scale=Scale.CATEGORICAL),))
    assert space.at_bounds({"train.lr_schedule": "linear"}) == {}


def test_powers_of_two_of_a_fractional_key_are_fractions():
    dimension = interval("lora.alpha_ratio", 0.25, 8, Scale.LOG2)
    values = [dimension.at((index + 0.5) / 6) for index in range(6)]
    assert values == [0.25, 0.5, 1, 2, 4, 8]
    space = SearchSpace((dimension,))
    assert [from_drawn(space, to_drawn(space, {"lora.alpha_ratio": v}))["lora.alpha_ratio"] for v in values] == values

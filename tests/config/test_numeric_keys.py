"""Every numeric key has bounds: no value of it makes a sweep fail late, exhaust the memory or score on nonsense."""

from __future__ import annotations

import pytest

from sweeper.config.compose import compose
from sweeper.config.keys import all_keys
from sweeper.errors import ConfigError

NUMERIC = [name for name, key in all_keys().items() if key.is_number]
CHOSEN = ["dataset=files", "dataset.files.path=my.jsonl", "dataset.files.name=mine"]
NOT_NUMBERS = ("nan", "inf", "-inf")
HUGE = {"int": "1000000000000000000000", "float": "1e300"}
ZERO_STANDS_FOR = ("0 for", "0 uses", "0 chooses", "0 makes", "0 starts", "0 skips", "0 keeps", "0 never", "0 is", "0:")
"""How the documentation of a key says what its 0 means."""
ZERO_IS_ZERO = {
    "lora.dropout",
    "train.weight_decay",
    "train.warmup_ratio",
    "train.adam_beta1",
    "train.adam_beta2",
    "search.num_startup_trials",
    "executor.max_retries",
    "executor.retry_s",
    "executor.hang_timeout_min_s",
    "executor.shutdown_grace_s",
    "confirm.margin",
    "seed",
    "dataset.<name>.seed",
    "dataset.<name>.confirm_rows",
}
"""Keys whose 0 is a number like others: none of it, no time, or a seed."""


def error_of(name, value):
    """Return the error of a value, or None if it is accepted."""
    typed = name.replace("<name>", "files")
    try:
        compose([*CHOSEN, f"{typed}={value}"])
    except ConfigError as caught:
        error = caught
    else:
        return None
    assert (error.key, bool(error.rule), bool(error.remedy)) == (typed, True, True)
    assert str(error.value) != ""
    return error


@pytest.mark.parametrize("name", NUMERIC)
def test_a_value_that_makes_no_sense_is_an_error_with_key_value_rule_and_remedy(name):
    assert error_of(name, "-1").rule == f"must be {all_keys()[name].rule}"
    assert not any(all_keys()[name].allows(float(value)) for value in NOT_NUMBERS)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, ".nan"])
@pytest.mark.parametrize("name", ["lora.r", "train.learning_rate", "budget.device_hours", "dataset.<name>.train_rows"])
def test_what_is_no_number_is_an_error(name, value):
    assert error_of(name, value) is not None


@pytest.mark.parametrize("name", NUMERIC)
def test_a_huge_value_is_an_error(name):
    assert error_of(name, HUGE[all_keys()[name].kind]) is not None


@pytest.mark.parametrize("name", NUMERIC)
def test_zero_is_an_error_or_its_meaning_is_documented(name):
    key = all_keys()[name]
    if error_of(name, 0) is None:
        assert any(phrase in key.doc for phrase in ZERO_STANDS_FOR) or name in ZERO_IS_ZERO


@pytest.mark.parametrize("name", NUMERIC)
def test_every_bound_is_in_the_help_and_allowed_itself(name):
    key = all_keys()[name]
    assert f"Must be {key.rule}." in key.help
    bounds = [bound for bound in (key.at_least, key.at_most) if bound is not None]
    assert all(key.allows(bound) for bound in bounds)


@pytest.mark.parametrize("value", [0, -1, 100_000, "many", "1.5"])
def test_lanes_have_bounds_as_well(value):
    assert error_of("executor.lanes", value) is not None


@pytest.mark.parametrize("value", [1, 1024, "auto"])
def test_lanes_are_a_number_or_auto(value):
    assert compose([*CHOSEN, f"executor.lanes={value}"]).settings.executor.lanes == value


def test_a_bound_is_shown_in_full():
    assert "from 0 to 4294967295" in error_of("seed", -1).rule

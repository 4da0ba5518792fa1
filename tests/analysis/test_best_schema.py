"""best.json is what its schema documents, with and without the blocks of confirmation, effects and folklore."""

import json
from pathlib import Path

import jsonschema
import pytest

from sweeper.analysis.best import best_configurations
from sweeper.store.serialization import SCHEMA_VERSION
from tests.builders import make_default, make_study, make_sweep, make_trial
from tests.report_sweeps import make_trials, with_blocks

SCHEMA = json.loads((Path(__file__).parents[2] / "analysis" / "best.schema.json").read_text(encoding="utf-8"))


def check(best):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(json.loads(json.dumps(best, allow_nan=False)))


@pytest.fixture
def best(tmp_path):
    study = make_study()
    return best_configurations(make_sweep(tmp_path / "mine", [(study, make_trials(12, study=study))]))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_has_the_version_of_the_file():
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def test_a_searched_sweep_follows_the_schema(best):
    check(best)


@pytest.mark.parametrize("trials", [[], [make_default(0.8)], [make_trial(1, 0.9)]], ids=["none", "default", "trial"])
def test_a_small_sweep_follows_the_schema(tmp_path, trials):
    check(best_configurations(make_sweep(tmp_path / "mine", [(make_study(), trials)])))


def test_a_confirmed_sweep_follows_the_schema(best):
    check(with_blocks(best))


def test_an_undocumented_key_is_found(best):
    best["studies"][0]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        check(best)


def test_a_verdict_that_does_not_exist_is_found(best):
    with_blocks(best)["studies"][0]["confirmation"]["candidates"][0]["against_default"]["verdict"] = "great"
    with pytest.raises(jsonschema.ValidationError, match="great"):
        check(best)

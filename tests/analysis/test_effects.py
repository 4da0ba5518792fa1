"""Effects and folklore of a study, from its records."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks.synthetic_sweeps import SPACE, additive_surface, simulate
from sweeper.analysis.effects import analyse_study, folklore_over_studies
from sweeper.config.dimensions import parse_space
from sweeper.config.trial_length import trial_rungs
from sweeper.search.proposals import sobol_point
from tests.builders import make_measurement, make_study, make_trial

STUDY = make_study(space=SPACE.texts, rungs=(2, 4, 8, 12))


def record(trial):
    measurements = tuple(
        make_measurement(round(share * STUDY.num_chunks), value)
        for share, value in zip(trial.shares, trial.values, strict=True)
    )
    return make_trial(trial.number, params=dict(trial.params), measurements=measurements)


@pytest.fixture(scope="module")
def records():
    return [record(trial) for trial in simulate(additive_surface, num_trials=24, seed=1)]


@pytest.fixture(scope="module")
def analysis(records):
    complete = [trial for trial in records if trial.chunks_done == STUDY.num_chunks]
    return analyse_study(STUDY, records, SPACE, default=records[0], best=complete[-1])


def test_a_study_has_effects_with_rungs_named_by_their_chunks(analysis):
    effects = analysis.effects
    assert effects["quality"]["is_sufficient"]
    assert [entry["chunk"] for entry in effects["rung_correlation"]] == [2, 4, 8]
    assert effects["path"][0]["params"]["lora.r"] == 8
    assert json.loads(json.dumps(effects)) == effects


def test_with_few_trials_there_are_no_effects_and_no_verdicts(records):
    found = analyse_study(STUDY, records[:8], SPACE)
    assert found.effects is None
    assert {claim["verdict"] for claim in found.folklore} == {"undecided"}
    assert analyse_study(STUDY, [], SPACE).effects is None


def test_folklore_is_combined_over_studies(analysis, records):
    other = analyse_study(replace(STUDY, name="other"), records[:8], SPACE)
    found = folklore_over_studies([analysis, other])
    assert [claim["claim"] for claim in found] == [claim["claim"] for claim in analysis.folklore]
    assert folklore_over_studies([]) == []


def test_epochs_have_effects_like_any_other_dimension():
    """Trials of 4, 8 and 16 chunks, of which the longer score higher at their own ends."""
    rate, rank = {"train.learning_rate": "tag(log,interval(1e-4,1e-2))"}, {"lora.r": "choice(4,8)"}
    space = parse_space({**rate, "train.epochs": "choice(1,2,4)", **rank})
    study = make_study(space=space.texts, num_chunks=16, epochs=4, chunks_per_epoch=4, rungs=(2, 4, 8, 16))
    trials = []
    for number in range(24):
        params = sobol_point(space, 0, number)
        rungs = trial_rungs(study.rungs, 4 * params["train.epochs"])
        distance = abs(math.log(params["train.learning_rate"] / 1e-3))
        final = 0.6 + 0.1 * math.log2(params["train.epochs"]) - 0.02 * distance
        scores = [make_measurement(rung, final * (0.8 + 0.2 * rung / rungs[-1])) for rung in rungs]
        trials.append(make_trial(number, params=params, measurements=tuple(scores)))
    effects = analyse_study(study, trials, space).effects
    profile = next(each for each in effects["profiles"] if each["key"] == "train.epochs")
    assert (profile["x"], profile["scale"]) == ([1, 2, 4], "log")
    assert profile["best"] == sorted(profile["best"])
    assert profile["best"][-1] - profile["best"][0] > 0.1
    assert effects["importance"][0]["key"] == "train.epochs"
    assert {entry["chunk"] for entry in effects["rung_correlation"]} <= {2, 4, 8}
    assert all(point[2] for point in profile["points"])

"""Effects and folklore of a study, from its records."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.synthetic_sweeps import SPACE, additive_surface, simulate
from sweeper.analysis.effects import analyse_study, folklore_over_studies
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

"""Whether trials fit a record of their study that was planned again."""

from __future__ import annotations

import pytest

from sweeper.recovery.study_fault import study_fault
from sweeper.types import TrialState, TrialTemplate
from tests.builders import DEFAULTS, PARAMS, SPACE, make_measurement, make_study, make_trial

STUDY = make_study(space={**SPACE, "train.epochs": "choice(1,2,3)"})
TEMPLATE = TrialTemplate(STUDY.name, DEFAULTS, 7)


def fault(*chunks, epochs, state=TrialState.COMPLETE):
    """Return what is wrong with a trial that was scored after these chunks."""
    measurements = tuple(make_measurement(chunk, 0.5) for chunk in chunks)
    params = {**PARAMS, "train.epochs": epochs}
    trial = make_trial(3, params=params, seed=7, state=state, measurements=measurements)
    return study_fault(STUDY, [trial], template=TEMPLATE)


@pytest.mark.parametrize(("chunks", "epochs"), [((3, 4), 1), ((3, 6, 8), 2), ((3, 6, 12), 3)])
def test_a_complete_trial_has_the_chunks_and_rungs_of_its_own_epochs(chunks, epochs):
    assert fault(*chunks, epochs=epochs) == ""


def test_a_trial_of_another_length_does_not_fit():
    assert fault(3, 4, epochs=2) == "trial 3 has 4 chunks, and a full trial 8"
    assert fault(3, 6, epochs=1) == "trial 3 has 6 chunks, and a full trial 4"
    assert fault(3, 6, epochs=3, state=TrialState.PRUNED) == ""


def test_the_end_of_a_shorter_trial_is_no_rung_of_a_longer_one():
    assert fault(3, 4, 6, 12, epochs=3) == "trial 3 was scored after chunk 4, which is no rung"

"""Why an infeasible trial is stored with a violated constraint: samplers ignore FAIL."""

from __future__ import annotations

import pytest

from sweeper.search.proposals import trial_seed
from sweeper.types import TrialState
from tests.search.toy import open_toy, preset, value_at


def _num_infeasible(folder, sampler: str, state: TrialState) -> int:
    """Return how many of 40 trials after the first 10 are in the infeasible half, which has the best learning rates."""
    count = 0
    with open_toy(folder, preset(sampler, recipes=[], pruner="none"), seed=trial_seed(0, 1)) as search:
        for number in range(50):
            proposal = search.ask()
            is_infeasible = proposal.params["train.learning_rate"] > 1e-3
            count += is_infeasible and number >= 10
            if is_infeasible:
                search.tell(proposal.number, state=state)
            else:
                value = value_at(proposal.params, 12)
                search.report(proposal.number, chunk=12, value=value)
                search.tell(proposal.number, state=TrialState.COMPLETE, value=value)
    return count


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_constraint_steers_the_sampler_away_and_fail_does_not(tmp_path, sampler):
    infeasible = _num_infeasible(tmp_path / "infeasible", sampler, TrialState.INFEASIBLE)
    failed = _num_infeasible(tmp_path / "failed", sampler, TrialState.FAILED)
    assert infeasible <= 20
    assert failed >= infeasible + 10

import pytest

from sweeper.config.settings import ConfirmSettings
from sweeper.display.progress import FollowUpProgress, progress_from_disk, study_progress
from sweeper.display.tables import counts_text
from sweeper.figures.confirmation import Candidate, ConfirmationRecord, ConfirmationState
from sweeper.figures.tally import TrialTally
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_infeasible, make_study, make_sweep, make_trial

RUNNING, PRUNED = TrialState.RUNNING, TrialState.PRUNED


def progress_of(trials, *, study=None, budget=10, wall_s=100.0, num_references_to_start=0):
    study = study or make_study()
    return study_progress(
        study,
        TrialTally(study, trials),
        budget=budget,
        wall_s=wall_s,
        default="peft_default",
        follow_up=FollowUpProgress(num_references_to_start=num_references_to_start),
    )


def test_trials_are_counted_by_state():
    trials = [make_trial(0, 0.9), make_trial(1, 0.5, state=PRUNED), make_infeasible(2), make_trial(3, state=RUNNING)]
    found = progress_of(trials)
    assert [found.counts[state] for state in TrialState] == [1, 1, 1, 1, 0]
    assert found.num_done == 3


def test_references_are_outside_the_budget():
    trials = [make_trial(0, 0.9), make_default(0.95, 1, phase=Phase.REFERENCE)]
    found = progress_of(trials, budget=1)
    assert (found.num_done, found.best.spec.number, found.is_done) == (1, 1, True)


def test_a_study_is_not_done_while_a_reference_runs():
    trials = [make_trial(0, 0.9), make_default(None, 1, phase=Phase.REFERENCE, state=RUNNING)]
    assert not progress_of(trials, budget=1).is_done


def test_a_study_is_not_done_before_its_references_have_started():
    trials = [make_trial(0, 0.9), make_default(0.95, 1, phase=Phase.REFERENCE)]
    found = progress_of(trials, budget=1, num_references_to_start=1)
    assert not found.is_done
    assert found.left_s == pytest.approx(100 * 12 / 24)
    assert progress_of(trials, budget=1).is_done


def test_the_best_running_trial_is_known_before_one_is_complete():
    trials = [make_trial(n, score, state=RUNNING, chunks=3) for n, score in enumerate([0.5, 0.7, None])]
    found = progress_of([*trials, make_trial(3, 0.9, state=PRUNED)])
    assert (found.best, found.best_running.spec.number) == (None, 1)
    loss = make_study(metric="validation/loss", direction="minimize")
    losses = [make_trial(n, value, study=loss, state=RUNNING, chunks=3) for n, value in enumerate([0.5, 0.7])]
    assert progress_of(losses, study=loss).best_running.spec.number == 0


def test_progress_has_best_default_and_probe():
    found = progress_of([make_default(0.8), make_trial(1, 0.9)])
    assert (found.best_value, found.default_value) == (0.9, 0.8)
    assert (found.baseline.kind.name, found.baseline.value) == ("frozen_probe", 0.82)
    assert found.gain.gain == pytest.approx(0.1)


def test_best_is_the_lowest_when_the_metric_is_minimised():
    study = make_study(metric="validation/loss", direction="minimize")
    found = progress_of([make_trial(0, 0.2, study=study), make_trial(1, 0.9, study=study)], study=study)
    assert found.best_value == 0.2


def test_a_default_that_was_pruned_is_not_compared():
    found = progress_of([make_default(0.8, state=PRUNED), make_trial(1, 0.9)])
    assert (found.default_value, found.gain) == (0.8, None)


def test_rates_are_over_the_wall_time():
    found = progress_of([make_trial(0, 0.9), make_trial(1, state=RUNNING, chunks=4)], wall_s=100)
    assert found.trials_per_hour == 36
    assert found.tokens_per_s == 3250 * 16 / 100
    assert found.cost.rows == 250 * 16


def test_there_is_no_rate_before_any_time_has_passed():
    found = progress_of([], wall_s=0)
    assert (found.trials_per_hour, found.tokens_per_s, found.left_s) == (None, None, None)


def test_time_left_follows_the_pace_of_the_chunks():
    # 12 + 4 chunks and half of another took 100 s; finished trials took 12.
    # One trial needs 7.5 more, and two new ones 12 each.
    found = progress_of([make_trial(0, 0.9), make_trial(1, state=RUNNING, chunks=4)], budget=4, wall_s=100)
    assert found.left_s == pytest.approx(100 * (7.5 + 24) / 16.5)


def test_the_first_estimate_counts_the_chunks_that_are_being_trained():
    # Four lanes have trained for 100 s. The first to report does not mean that a chunk takes 100 s of the whole study.
    trials = [make_trial(0, state=RUNNING, chunks=1)] + [make_trial(n, state=RUNNING, chunks=0) for n in (1, 2, 3)]
    assert progress_of(trials, budget=4, wall_s=100).left_s == pytest.approx(100 * (47 - 2) / 3)


def test_time_left_expects_other_trials_to_be_pruned_too():
    # Trials took 12 and 4 chunks, so 8 are expected of the next one.
    trials = [make_trial(0, 0.9), make_trial(1, 0.5, state=PRUNED, chunks=4)]
    assert progress_of(trials, budget=3, wall_s=160).left_s == pytest.approx(80)


def test_a_trial_beyond_the_mean_is_expected_to_complete():
    trials = [make_trial(0, 0.5, state=PRUNED, chunks=4), make_trial(1, 0.9, state=RUNNING, chunks=6)]
    assert progress_of(trials, budget=2, wall_s=100).left_s == pytest.approx(100 * 5.5 / 10.5)


def test_no_time_is_left_of_a_spent_budget():
    found = progress_of([make_trial(0, 0.9)], budget=1)
    assert (found.left_s, found.is_done) == (0.0, True)


def test_time_left_is_unknown_before_the_first_chunk():
    assert progress_of([make_trial(0, state=RUNNING, chunks=0)]).left_s is None


@pytest.fixture
def confirmed_sweep(tmp_path):
    """A sweep of one trial whose best configuration is confirmed."""
    store = make_sweep(tmp_path / "sweep", [(make_study(), [make_trial(0, 0.9)])])
    record = ConfirmationRecord(state=ConfirmationState.COMPLETE, num_searched=1, settings=ConfirmSettings())
    store.write_confirmation(make_study().name, record)
    return store


def is_done(store, *, budget=1, **confirm):
    (progress,) = progress_from_disk(store, budget=budget, confirm=ConfirmSettings(**confirm))
    return progress.is_done


def test_a_study_is_done_when_its_best_is_confirmed(confirmed_sweep):
    assert is_done(confirmed_sweep)
    confirmed_sweep.paths.confirmation(make_study().name).unlink()
    assert not is_done(confirmed_sweep)
    assert is_done(confirmed_sweep, max_share=0.0)


def test_other_settings_and_further_trials_are_to_be_confirmed_again(confirmed_sweep):
    assert not is_done(confirmed_sweep, margin=0.01)
    confirmed_sweep.write_trial(make_trial(1, 0.95))
    assert not is_done(confirmed_sweep, budget=2)


def test_a_damaged_record_of_the_confirmation_counts_as_none(confirmed_sweep):
    confirmed_sweep.paths.confirmation(make_study().name).write_text("{")
    assert not is_done(confirmed_sweep)


def test_the_progress_shows_what_is_being_confirmed():
    candidates = tuple(Candidate(name=f"trial {n}", trial=n, probability=0.1) for n in range(5))
    record = ConfirmationRecord(
        state=ConfirmationState.RUNNING,
        num_searched=1,
        settings=ConfirmSettings(),
        candidates=candidates,
        seed=2,
        num_seeds=3,
    )
    study, trials = make_study(), [make_trial(0, 0.9)]
    follow_up = FollowUpProgress(confirmation=record, is_confirmed=False, num_confirmations_to_start=2)
    found = study_progress(
        study, TrialTally(study, trials), budget=1, wall_s=12.0, default="peft_default", follow_up=follow_up
    )
    assert not found.is_done
    assert found.left_s == pytest.approx(24.0)
    assert counts_text(found) == "1/1 trials, confirming 5 candidates, seed 2 of 3"

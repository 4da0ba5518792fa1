"""One study: what is proposed, what is pruned, how trials end, and what survives a kill."""

from __future__ import annotations

import math
from dataclasses import replace

import optuna
import pytest

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.errors import ConfigError, StoreError, SweeperError, SweepMismatch
from sweeper.types import Decision, TrialState
from tests.builders import make_measurement, make_spec, make_trial
from tests.search.toy import METRIC, SPACE, Driver, open_toy, preset, stored_trials, value_of


def _frozen(folder, number):
    return stored_trials(folder)[number]


def test_recipes_come_first_then_sobol_then_the_sampler(tmp_path):
    driver = Driver(lanes=1)
    with open_toy(tmp_path, preset("tpe")) as search:
        driver.run(search, 8)
    origins = [origin for _, origin, _ in driver.proposals]
    assert origins == ["recipe:peft_default", "recipe:alpha_2r", *["sobol"] * 4, "tpe", "tpe"]


def test_sobol_continues_until_there_is_enough_to_fit_a_model(tmp_path):
    with open_toy(tmp_path, preset("tpe")) as search:
        origins = [search.ask().origin for _ in range(9)]
    assert origins[2:] == ["sobol"] * 7


def test_the_default_recipe_is_never_pruned(tmp_path):
    with open_toy(tmp_path, preset("tpe")) as search:
        numbers = [search.ask().number for _ in range(9)]
        for number in numbers[1:]:
            search.report(number, chunk=3, value=0.9)
        assert search.report(numbers[0], chunk=3, value=0.1) is Decision.CONTINUE


def test_a_rung_prunes_only_when_enough_trials_were_scored_there(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        numbers = [search.ask().number for _ in range(8)]
        falling = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
        decisions = [search.report(n, chunk=3, value=v) for n, v in zip(numbers, falling, strict=False)]
        good = search.report(numbers[6], chunk=3, value=0.85)
    assert decisions == [Decision.CONTINUE] * 3 + [Decision.STOP] * 3
    assert good is Decision.CONTINUE


def test_of_equal_scores_the_lower_loss_continues_also_after_a_resume(tmp_path):
    """Trials that always predict the commonest label have the same score, whatever they have learnt."""
    settings, losses = preset("random", recipes=[]), (0.5, 0.4, 0.3, 0.2, 0.1)
    with open_toy(tmp_path, settings) as search:
        params = [search.ask().params for _ in range(6)]
        for number, loss in enumerate(losses):
            search.report(number, chunk=3, value=0.8775, loss=loss)
        assert search.report(5, chunk=3, value=0.8775, loss=0.25) is Decision.CONTINUE
    records = [
        make_trial(
            spec=make_spec(number, params=params[number], study="toy", origin="random"),
            state=TrialState.RUNNING,
            measurements=(scored_with_loss(3, 0.8775, loss),) if loss else (),
            chunks=0,
        )
        for number, loss in enumerate((*losses, None))
    ]
    for loss, decision in ((0.25, Decision.CONTINUE), (0.45, Decision.STOP)):
        with open_toy(tmp_path, settings) as search:
            search.sync(records, value_of)
            assert search.report(5, chunk=3, value=0.8775, loss=loss) is decision


def scored_with_loss(chunk, value, loss):
    return replace(make_measurement(chunk), metrics={METRIC: value, "validation/loss": loss})


def test_a_trial_at_the_majority_has_no_free_pass(tmp_path):
    decisions = {}
    for majority in ((), (0.5, 0.5, 0.5)):
        with open_toy(tmp_path, preset("random", recipes=[]), majority=majority) as search:
            for value in (0.6, 0.5):
                decisions[majority] = search.report(search.ask().number, chunk=3, value=value)
    assert list(decisions.values()) == [Decision.CONTINUE, Decision.STOP]


def test_nothing_is_pruned_at_the_last_rung(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        for value in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
            assert search.report(search.ask().number, chunk=12, value=value) is Decision.CONTINUE


def test_without_a_pruner_nothing_is_pruned(tmp_path):
    with open_toy(tmp_path, preset("random", pruner="none", recipes=[])) as search:
        for value in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
            assert search.report(search.ask().number, chunk=3, value=value) is Decision.CONTINUE


def test_a_trial_whose_value_is_not_finite_is_pruned(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        assert search.report(search.ask().number, chunk=3, value=math.nan) is Decision.STOP


@pytest.mark.parametrize(("direction", "expected"), [("maximize", 0.5), ("minimize", 0.9)])
def test_an_infeasible_trial_is_stored_with_a_constraint_and_the_worst_value(tmp_path, direction, expected):
    with open_toy(tmp_path, preset("random", recipes=[]), direction=direction) as search:
        for value in (0.5, 0.9):
            search.tell(search.ask().number, state=TrialState.COMPLETE, value=value)
        number = search.ask().number
        search.tell(number, state=TrialState.INFEASIBLE)
    trial = _frozen(tmp_path, number)
    assert trial.state is optuna.trial.TrialState.COMPLETE
    assert trial.value == expected
    assert trial.constraints == {"0": 1.0}
    assert trial.user_attrs["state"] == "infeasible"


def test_states_are_stored_as_optunas_states(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        for state, value in ((TrialState.COMPLETE, 0.5), (TrialState.PRUNED, 0.4), (TrialState.FAILED, None)):
            number = search.ask().number
            search.report(number, chunk=3, value=0.4)
            search.tell(number, state=state, value=value)
    found = [(_frozen(tmp_path, number).state.name, _frozen(tmp_path, number).value) for number in range(3)]
    assert found == [("COMPLETE", 0.5), ("PRUNED", 0.4), ("FAIL", None)]


def test_a_second_tell_changes_nothing(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        number = search.ask().number
        search.tell(number, state=TrialState.COMPLETE, value=0.5)
        search.tell(number, state=TrialState.FAILED)
    assert (_frozen(tmp_path, number).state.name, _frozen(tmp_path, number).value) == ("COMPLETE", 0.5)


def test_a_complete_trial_needs_a_finite_value(tmp_path):
    with open_toy(tmp_path, preset("random")) as search, pytest.raises(ValueError, match="needs a finite value"):
        search.tell(search.ask().number, state=TrialState.COMPLETE, value=math.nan)


def test_running_is_not_a_final_state(tmp_path):
    with (
        open_toy(tmp_path, preset("random")) as search,
        pytest.raises(ValueError, match="state=running is not a final"),
    ):
        search.tell(search.ask().number, state=TrialState.RUNNING)


def test_the_same_rung_reported_twice_gets_the_same_answer(tmp_path):
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        numbers = [search.ask().number for _ in range(12)]
        for number, value in zip(numbers[:6], (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True):
            search.report(number, chunk=3, value=value)
        assert search.report(numbers[6], chunk=3, value=0.55) is Decision.CONTINUE
        for number in numbers[7:]:
            search.report(number, chunk=3, value=0.9)
        assert search.report(numbers[6], chunk=3, value=0.55) is Decision.CONTINUE
    assert _frozen(tmp_path, numbers[6]).intermediate_values == {3: 0.55}


def test_a_proposal_that_never_reached_the_store_is_made_again(tmp_path):
    settings, driver = preset("tpe"), Driver()
    with open_toy(tmp_path, settings) as search:
        driver.run(search, 20, until=12)
        search.publish()
        lost = search.ask()
        search.close()  # as if killed: not published
    with open_toy(tmp_path, settings) as search:
        search.sync(list(driver.records.values()), value_of)
        assert search.ask() == lost


def test_nothing_reaches_the_database_before_it_is_published(tmp_path):
    search = open_toy(tmp_path, preset("random"))
    search.ask()
    search.publish()
    search.report(search.ask().number, chunk=3, value=0.5)
    search.close()
    assert [trial.intermediate_values for trial in stored_trials(tmp_path)] == [{}]


def test_a_database_that_is_behind_the_store_is_brought_up_to_date(tmp_path):
    settings, driver = preset("tpe"), Driver()
    search = open_toy(tmp_path / "behind", settings)
    driver.run(search, 20, until=9)
    search.publish()
    search.close()
    with open_toy(tmp_path / "whole", settings) as search:
        whole = Driver()
        whole.run(search, 20)
    with open_toy(tmp_path / "behind", settings) as search:
        search.sync(list(whole.records.values()), value_of)

    def content(folder):
        return [
            (t.number, t.state, t.params, t.intermediate_values, t.user_attrs, None if t.constraints else t.value)
            for t in stored_trials(folder)
        ]

    assert content(tmp_path / "behind") == content(tmp_path / "whole")


@pytest.mark.parametrize("state", ["RUNNING", "WAITING", "COMPLETE"])
def test_a_trial_that_only_the_database_knows_uses_up_its_number(tmp_path, state, caplog):
    driver = Driver()
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        driver.run(search, 3)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    value = 0.5 if state == "COMPLETE" else None
    extra = optuna.trial.create_trial(state=optuna.trial.TrialState[state], value=value)
    optuna.load_study(study_name="sweep/toy", storage=storage).add_trial(extra)
    storage.engine.dispose()
    with open_toy(tmp_path, preset("random", recipes=[])) as search:
        search.sync(list(driver.records.values()), value_of)
        assert search.ask().number == 4
    assert "trial 3 has no record" in caplog.text
    assert stored_trials(tmp_path)[3].state.name == ("COMPLETE" if state == "COMPLETE" else "FAIL")


def test_sync_reports_the_rungs_that_optuna_missed(tmp_path):
    driver = Driver(lanes=1)
    with open_toy(tmp_path, preset("random")) as search:
        driver.admit(search.ask())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "report", lambda *_, **__: Decision.CONTINUE)
            driver.advance(search, 0)
            driver.advance(search, 0)
    with open_toy(tmp_path, preset("random")) as search:
        search.sync(list(driver.records.values()), value_of)
    expected = {m.chunk: m.metrics[METRIC] for m in driver.records[0].measurements}
    assert _frozen(tmp_path, 0).intermediate_values == expected


def test_a_database_of_another_sweep_is_an_error(tmp_path):
    driver = Driver()
    with open_toy(tmp_path / "one", preset("random", recipes=[])) as search:
        driver.run(search, 3)
    with open_toy(tmp_path / "two", preset("random", recipes=[]), seed=2) as search:
        search.ask()
    search = open_toy(tmp_path / "two", preset("random", recipes=[]), seed=2)
    with pytest.raises(StoreError, match="Move the database away"):
        search.sync(list(driver.records.values()), value_of)
    search.close()


def test_another_space_is_an_error_that_names_the_dimension_and_the_remedy(tmp_path):
    wider = Dimension(
        key="train.learning_rate", scale=Scale.LOG, low=1e-5, high=1e-2, text="tag(log,interval(1e-5,1e-2))"
    )
    open_toy(tmp_path, preset("random")).close()
    with pytest.raises(SweepMismatch, match=r"train.learning_rate=tag\(log,interval\(1e-5,1e-2\)\).*new sweep name"):
        open_toy(tmp_path, preset("random"), space=SearchSpace((*SPACE.dimensions[:2], wider)))


def test_another_direction_is_an_error(tmp_path):
    open_toy(tmp_path, preset("random")).close()
    with pytest.raises(SweepMismatch, match=r"direction=minimize: .* was started with direction=maximize"):
        open_toy(tmp_path, preset("random"), direction="minimize")


def test_asking_an_exhausted_grid_is_an_error(tmp_path):
    rank = Dimension(key="lora.r", scale=Scale.ORDERED, choices=(4, 8), text="choice(4,8)")
    with open_toy(tmp_path, preset("grid"), space=SearchSpace((rank,))) as search:
        assert {search.ask().params["lora.r"], search.ask().params["lora.r"]} == {4, 8}
        assert search.is_exhausted
        with pytest.raises(SweeperError, match="all 2 configurations of the grid were proposed"):
            search.ask()


def test_cmaes_needs_numeric_dimensions(tmp_path):
    schedule = Dimension(
        key="train.lr_schedule", scale=Scale.CATEGORICAL, choices=("linear", "cosine"), text="choice(linear,cosine)"
    )
    with pytest.raises(ConfigError, match=r"train\.lr_schedule is categorical.*Fix train\.lr_schedule"):
        open_toy(tmp_path, preset("cmaes"), space=SearchSpace((*SPACE.dimensions, schedule)))


def test_auto_uses_the_gaussian_process_in_a_space_with_a_categorical_dimension(tmp_path):
    schedule = Dimension(
        key="train.lr_schedule", scale=Scale.CATEGORICAL, choices=("linear", "cosine"), text="choice(linear,cosine)"
    )
    driver = Driver(lanes=1)
    with open_toy(tmp_path, preset("auto"), space=SearchSpace((*SPACE.dimensions, schedule))) as search:
        driver.run(search, 12)
    assert driver.proposals[-1][1] == "gp"

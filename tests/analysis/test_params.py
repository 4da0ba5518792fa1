import pytest

from sweeper.analysis.params import alpha, number_text, params_text, shown_params
from tests.builders import make_spec, make_study, make_trial


def test_alpha_is_rank_times_ratio():
    assert alpha({"lora.r": 8, "lora.alpha_ratio": 2.0}) == 16
    assert alpha({"lora.r": 3, "lora.alpha_ratio": 0.5}) == 1.5


def test_alpha_is_unknown_without_its_ratio():
    assert alpha({"lora.r": 8}) is None


def test_fixed_settings_are_shown_only_if_they_matter():
    shown = shown_params(make_study(space={"train.batch_size": "choice(8,16)"}), make_trial(0))
    assert list(shown) == [
        "lora.r", "lora.alpha", "lora.alpha_ratio", "lora.dropout", "train.learning_rate", "train.batch_size"
    ]  # fmt: skip


def test_a_fixed_rank_is_shown_too():
    spec = make_spec(params={"lora.dropout": 0.1}, fixed={"lora.r": 4, "lora.alpha_ratio": 2.0})
    trial = make_trial(spec=spec)
    study = make_study(space={"lora.dropout": "interval(0,0.2)"})
    assert shown_params(study, trial) == {"lora.r": 4, "lora.alpha": 8, "lora.dropout": 0.1}


def test_text_names_alpha_and_not_its_ratio():
    assert params_text(shown_params(make_study(), make_trial(0))) == "r=16 alpha=32 dropout=0.05 lr=0.00123"


@pytest.mark.parametrize(
    ("value", "text"), [(8, "8"), (0.05, "0.05"), (1.23456e-4, "0.000123"), (True, "True"), (1024.0, "1024.0")]
)
def test_numbers_are_short(value, text):
    assert number_text(value) == text

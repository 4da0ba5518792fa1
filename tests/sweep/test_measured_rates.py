"""How fast trials trained is recorded at the end of a session, and found by the next one."""

from __future__ import annotations

import pytest

from sweeper.config.compose import compose
from sweeper.control.lane_limits import LaneLimits
from sweeper.execute.devices import Devices
from sweeper.store.trials import TrialStore
from sweeper.sweep.measured_rates import keep_rates, known_rate
from sweeper.types import Cost, Phase, TrialState
from tests.builders import make_study, make_trial

DEVICES, LIMITS = Devices("cpu", 2), LaneLimits(lanes=4)


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture
def settings(tmp_path):
    return compose(["dataset=trec", f"cache={tmp_path / 'cache'}"]).settings


def test_the_next_sweep_knows_the_rate_of_the_last(tmp_path, model_dir, settings):
    store, record = TrialStore(tmp_path / "sweep"), make_study()
    store.write_study(record)
    cost = Cost(rows=3000, tokens=39_000, device_s=15.0)
    store.write_trial(make_trial(0, 0.9, cost=cost))
    store.write_trial(make_trial(1, 0.8, state=TrialState.PRUNED, chunks=3, cost=cost))
    store.write_trial(make_trial(2_000_000, 0.9, phase=Phase.CONFIRMATION, cost=cost))
    assert known_rate(settings, DEVICES, LIMITS, model_dir) is None
    keep_rates(store, settings, DEVICES, LIMITS, model_dir)
    found = known_rate(settings, DEVICES, LIMITS, model_dir)
    assert found.tokens_per_s == pytest.approx(2600)
    assert found.trained_share == pytest.approx((12 + 3) / 24)  # of the search: the confirmation prunes nothing
    (model_dir / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 12}')
    assert known_rate(settings, DEVICES, LIMITS, model_dir) is None


@pytest.mark.parametrize(
    "changed",
    [
        "model.gradient_checkpointing=always",
        "model.quantization=nf4",
        "model.dtype=float32",
        "model.attention=eager",
        "model.dropout=0.1",
        "model.target_modules=[query]",
    ],
)
def test_a_rate_is_that_of_its_settings(tmp_path, model_dir, settings, changed):
    store = trained_store(tmp_path)
    keep_rates(store, settings, DEVICES, LIMITS, model_dir)
    other = compose(["dataset=trec", changed, f"cache={tmp_path / 'cache'}"]).settings
    assert known_rate(other, DEVICES, LIMITS, model_dir) is None
    keep_rates(store, other, DEVICES, LIMITS, model_dir)
    assert known_rate(other, DEVICES, LIMITS, model_dir) is not None


def test_auto_is_the_same_as_never_on_a_cpu_only(tmp_path, model_dir, settings, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.measured_rates.device_name", lambda kind: kind)
    never = compose(["dataset=trec", "model.gradient_checkpointing=never", f"cache={tmp_path / 'cache'}"]).settings
    for devices, is_same in ((DEVICES, True), (Devices("cuda", 2), False)):
        keep_rates(trained_store(tmp_path), settings, devices, LIMITS, model_dir)
        assert (known_rate(never, devices, LIMITS, model_dir) is not None) == is_same


def trained_store(tmp_path):
    store = TrialStore(tmp_path / "sweep")
    store.write_study(make_study())
    store.write_trial(make_trial(0, 0.9, cost=Cost(rows=3000, tokens=39_000, device_s=45.0)))
    return store


def test_a_sweep_without_chunks_records_nothing(tmp_path, model_dir, settings):
    store = TrialStore(tmp_path / "sweep")
    store.write_study(make_study())
    keep_rates(store, settings, DEVICES, LIMITS, model_dir)
    assert known_rate(settings, DEVICES, LIMITS, model_dir) is None

"""What a plan computes: corners, lanes that fit, what is refused, time, window and price."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sweeper.config.compose import compose
from sweeper.errors import ConfigError
from sweeper.figures.memory import PackLoad, memory_need
from sweeper.plan.command import forecast_sweep
from sweeper.plan.inputs import read_model_shapes
from sweeper.plan.prediction import end_of_work, ranks_of
from sweeper.store.rates import LEAST_DEVICE_S, Rate, RateKey, config_digest, find_rate, record_rates

FOLDER = Path(__file__).parents[1] / "models"
LLAMA = ["task=causal_lm", "model=hub", f"model.id={FOLDER / 'llama3_8b'}", "model.name=llama3", "dataset=trec"]
QWEN = ["task=causal_lm", "model=hub", f"model.id={FOLDER / 'qwen3_0_6b'}", "model.name=qwen3", "dataset=trec"]
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday


@pytest.fixture
def forecast(tmp_path, monkeypatch):
    """Return the plan of some overrides, with an empty cache unless it is filled before."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides, clock=lambda: NOON):
        return forecast_sweep(compose([*overrides, f"cache={tmp_path / 'cache'}"]), clock=clock)

    return call


def shapes(overrides, num_labels=0):
    settings = compose(overrides).settings
    return read_model_shapes(settings, Path(settings.model.id), num_labels)


def test_corners_are_the_ranks_of_the_space():
    config = compose([*LLAMA, "lora.r=choice(8,16,128)"])
    assert ranks_of(config.settings, config.space) == [8, 16, 128]
    config = compose([*LLAMA, "lora.r=tag(log2,interval(2,16))"])
    assert ranks_of(config.settings, config.space) == [2, 4, 8, 16]
    config = compose([*LLAMA, "lora.r=interval(3,20)"])
    assert ranks_of(config.settings, config.space) == [3, 4, 8, 16, 20]
    config = compose([*LLAMA, "lora.r=32"])
    assert ranks_of(config.settings, config.space) == [32]


def test_llama_3_8b_on_a_gpu_of_80_gb(forecast):
    found = forecast(*LLAMA, "lora.r=choice(8,16)", "train.batch_size=4", "model.max_length=1024", "plan.gpu_gb=80")
    assert found.device.dtype == "bfloat16"
    assert found.device.attention == "sweeper_sdpa"
    (study,) = found.studies
    assert [corner.parameters for corner in study.corners] == [20_971_520, 41_943_040]
    worst = study.worst
    assert worst.adapter_bytes == 4 * 41_943_040
    assert worst.checkpoint_bytes == 12 * 41_943_040
    assert worst.need.base == 2 * 8_030_261_248
    # A model of this size is checkpointed: the inputs of 32 blocks, and one block.
    assert worst.need.activations / worst.pass_tokens == pytest.approx(32 * 2 * 4096 + 174_000, rel=0.01)
    assert worst.lanes == found.device.lanes == 8
    assert worst.pass_tokens == 8 * 4 * 1024
    assert 20 < worst.lanes_that_fit < 64
    assert worst.need.total <= found.device.usable_bytes
    assert found.base_by_type["nf4"] < 6e9


def test_without_checkpointing_a_pass_has_one_row_of_each_lane(forecast):
    often = ["lora.r=16", "lora.dropout=0", "train.batch_size=4", "model.max_length=1024", "plan.gpu_gb=80"]
    found = forecast(*LLAMA, *often, "model.gradient_checkpointing=never")
    worst = found.studies[0].worst
    # 5 MB a token are saved at this size, with fused gates and rotary embeddings.
    assert 4.9e6 < worst.need.activations / worst.pass_tokens < 5.2e6
    assert worst.pass_tokens == worst.lanes * 1024
    assert worst.lanes_that_fit < 16
    assert worst.need.total <= found.device.usable_bytes


def test_nf4_fits_two_lanes_of_4k_tokens_into_24_gb(forecast):
    found = forecast(*LLAMA, "lora.r=16", "plan.gpu_gb=24", "model.quantization=nf4", "executor.lanes=2")
    worst = found.studies[0].worst
    assert worst.lanes == 2
    assert worst.pass_tokens >= 4096
    assert worst.need.total <= found.device.usable_bytes


def test_passes_grow_to_what_fits_and_keep_to_the_budget(forecast):
    uses = [*LLAMA, "lora.r=16", "model.max_length=1024", "plan.gpu_gb=40", "executor.lanes=8", "train.batch_size=16"]
    (study,) = forecast(*uses).studies
    worst, limit = study.worst, forecast(*uses).device.usable_bytes
    assert 8 * 1024 < worst.pass_tokens < 8 * 16 * 1024
    more = dataclasses.replace(study.load, tokens_per_pass=2 * worst.pass_tokens)
    assert memory_need(shapes(LLAMA), study.load).total <= limit < memory_need(shapes(LLAMA), more).total
    assert forecast(*uses, "executor.tokens_per_pass=4096").studies[0].worst.pass_tokens == 4096
    assert forecast(*uses, "executor.tokens_per_pass=4096").studies[0].worst.lanes == 4


def test_the_lanes_that_fit_are_the_most_that_do(forecast):
    found = forecast(*QWEN, "plan.gpu_gb=24", "model.max_length=256", "lora.r=16", "executor.lanes=3")
    (study,) = found.studies
    fitting, load = study.worst.lanes_that_fit, study.load
    sizes = shapes(QWEN)
    assert 8 < fitting < 1024

    def total(lanes):  # a row of each
        return memory_need(sizes, dataclasses.replace(load, ranks=(16,) * lanes, tokens_per_pass=256 * lanes)).total

    assert total(fitting) <= found.device.usable_bytes < total(fitting + 1)


def test_lanes_that_do_not_fit_are_named_with_the_key_to_set(forecast):
    found = forecast(*QWEN, "plan.gpu_gb=24", "model.max_length=256", "lora.r=16", "executor.lanes=512")
    fitting = found.studies[0].worst.lanes_that_fit
    assert fitting < 512
    assert any(f"Set executor.lanes={fitting}" in note for note in found.notes)
    assert found.studies[0].worst.lanes == fitting


def test_a_rank_that_cannot_fit_is_refused_with_the_largest_that_does(forecast):
    with pytest.raises(
        ConfigError, match=r"^lora\.r=.*rank 1024 needs .* GB.*Set 'lora\.r=tag\(log2,interval\(2,"
    ) as error:
        forecast(*LLAMA, "lora.r=tag(log2,interval(2,1024))", "plan.gpu_gb=40", "model.max_length=128")
    remedy = error.value.remedy.removeprefix("Set '").partition("'")[0]
    forecast(*LLAMA, remedy, "plan.gpu_gb=40", "model.max_length=128")  # the remedy is accepted


def test_a_base_that_cannot_fit_is_refused_with_the_type_that_would(forecast):
    with pytest.raises(
        ConfigError, match=r"^model\.id=.*llama3 alone needs 32\.1 GB in float32.*model\.dtype=bfloat16"
    ):
        forecast(*LLAMA, "model.dtype=float32", "plan.gpu_gb=24")
    with pytest.raises(ConfigError, match=r"alone needs 16\.1 GB in bfloat16.*model\.quantization=int8"):
        forecast(*LLAMA, "plan.gpu_gb=12")


def test_a_quantised_base_is_planned_with_its_own_size(forecast):
    pack = ("lora.r=16", "train.batch_size=4", "model.max_length=256", "plan.gpu_gb=80")
    plain, held = forecast(*LLAMA, *pack), forecast(*LLAMA, *pack, "model.quantization=nf4")
    assert held.device.quantization == "nf4"
    sizes = held.base_by_type
    once = 2 * 3 * 4096 * 14_336  # gate and up, and one of them again, in bfloat16
    assert held.studies[0].worst.need.base == sizes["nf4"] + once
    assert plain.studies[0].worst.need.base == sizes["bfloat16"]
    forecast(*LLAMA, "model.quantization=int8", "lora.r=2", "plan.gpu_gb=12", "model.max_length=64")  # the remedy


def test_rows_that_cannot_fit_are_refused_with_the_longest_that_do(forecast):
    uses = [*LLAMA, "lora.r=8", "plan.gpu_gb=24", "model.gradient_checkpointing=never"]
    with pytest.raises(ConfigError, match=r"^model\.max_length=8192: .*Set model\.max_length=\d+") as error:
        forecast(*uses, "model.max_length=8192")
    length = int(error.value.remedy.removeprefix("Set model.max_length=").partition(",")[0])
    assert 128 < length < 8192
    forecast(*uses, f"model.max_length={length}")
    assert ", or model.gradient_checkpointing=always" in error.value.remedy
    forecast(*uses, "model.max_length=8192", "model.gradient_checkpointing=always")
    assert "model.quantization=int8" not in error.value.remedy  # with which it would not fit either
    assert "Note that the dataset has not been fetched: rows are taken to be 8,192 tokens" in error.value.remedy


def test_a_quantisation_with_which_a_rank_would_fit_is_named(forecast):
    with pytest.raises(ConfigError, match=r"^lora\.r=256: one trial of rank 256") as error:
        forecast(*LLAMA, "lora.r=256", "plan.gpu_gb=32", "model.max_length=128")
    assert error.value.remedy.startswith("Set 'lora.r=")
    assert ", or model.quantization=int8, or model.quantization=nf4." in error.value.remedy
    forecast(*LLAMA, "lora.r=256", "plan.gpu_gb=32", "model.max_length=128", "model.quantization=int8")


def test_rows_that_are_not_at_hand_are_assumed_and_the_plan_says_so(forecast):
    (study,) = forecast(*QWEN, "plan.gpu_gb=24", "model.max_length=64").studies
    assert "has not been fetched" in study.assumed
    assert study.tokens_per_row == 64


@pytest.mark.parametrize(("model", "positions", "longest"), [(LLAMA, 8192, 2048), (QWEN, 1024, 1024)])
def test_without_rows_auto_is_the_longest_that_it_may_choose(forecast, tmp_path, model, positions, longest):
    content = json.loads((Path(model[2].removeprefix("model.id=")) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "max_position_embeddings": positions}))
    (study,) = forecast(*model, f"model.id={tmp_path}", "plan.gpu_gb=80").studies
    assert study.tokens_per_row == longest
    assert f"{longest:,} tokens long, the most that model.max_length=auto chooses" in study.assumed


def test_space_and_recipes_follow_from_the_model(forecast):
    found = forecast(*LLAMA, "plan.gpu_gb=80")
    assert [corner.rank for corner in found.studies[0].corners] == [8, 16, 32, 64, 128]
    assert found.kind.startswith("language_model; space language_model: lora.r=")
    assert forecast(*QWEN, "plan.gpu_gb=80").kind.startswith("small_language_model")
    assert forecast(*LLAMA, "task=text_classification", "plan.gpu_gb=80").kind.startswith("language_model")


def test_an_unknown_number_of_rows_has_no_tokens_and_the_fewest_epochs(forecast):
    (study,) = forecast(*QWEN, "dataset.trec.train_rows=0", "plan.gpu_gb=24", "model.max_length=64").studies
    assert (study.num_train, study.trial_tokens, study.epochs) == (0, 0, 2)
    assert "without dataset.trec.train_rows" in study.assumed


def test_large_checkpoints_are_counted_at_the_rungs_only(forecast):
    uses = [*LLAMA, "lora.r=16", "plan.gpu_gb=80", "budget.trials=10", "confirm=none", "search.references=[]"]
    found = forecast(*uses, "search.recipes=[]")
    size, (study,) = 12 * 41_943_040, found.studies
    assert len(study.rungs) < study.num_chunks
    per_trial = found.disk.written / size
    assert found.disk.every_s == 300
    every = forecast(*uses, "search.recipes=[]", "store.checkpoint_every_s=0").disk
    assert every.every_s == 0
    assert every.written / size / per_trial == pytest.approx((study.num_chunks - 1) / (len(study.rungs) - 1))
    halved = forecast(*uses, "store.checkpoint_moments=bfloat16").studies[0]
    assert halved.worst.checkpoint_bytes == 8 * 41_943_040


def test_the_larger_of_two_peaks_counts():
    sizes = shapes(QWEN)
    load = PackLoad(device="cuda", dtype="bfloat16", attention="sdpa", ranks=(8,) * 2, passes=((8, 512),))
    assert memory_need(sizes, load).stage == "training"
    scored = dataclasses.replace(load, passes=((1, 8),), evaluated=((256, 512),))
    assert memory_need(sizes, scored).stage == "evaluation"


def test_checkpointing_saves_one_tensor_a_block():
    sizes = shapes(QWEN)
    load = PackLoad(device="cuda", dtype="bfloat16", attention="sdpa", ranks=(8,), passes=((8, 512),))
    whole, thin = memory_need(sizes, load), memory_need(sizes, dataclasses.replace(load, checkpointing=True))
    tokens = 8 * 512
    assert thin.activations < 0.15 * whole.activations
    assert thin.activations > tokens * sizes.num_layers * sizes.width * 2


def rate(
    model_dir,
    *,
    lanes,
    device="a GPU of 80 GB",
    tokens_per_s=1000.0,
    share=0.5,
    seconds=100.0,
    task="causal_lm",
    datasets="trec",
):
    key = RateKey(
        model=config_digest(model_dir),
        task=task,
        device=device,
        dtype="auto",
        datasets=datasets,
        lanes=lanes,
        workers=1,
        threads=1,
    )
    return Rate(
        key=key,
        model_name="llama3",
        tokens=round(tokens_per_s * seconds),
        device_s=seconds,
        trained_share=share,
        at="2026-03-01T10:00:00+00:00",
    )


PLAN = [
    *LLAMA,
    "lora.r=16",
    "train.batch_size=4",
    "model.max_length=100",
    "plan.gpu_gb=80",
    "budget.trials=24",
    "dataset.trec.train_rows=1200",
    "train.epochs=2",
    "search.references=[]",
    "search.recipes=[]",  # the default recipe has another rank, so it would be trained beside the search
]


def test_without_a_measurement_there_is_no_time(forecast):
    assert forecast(*PLAN).time is None
    assert forecast(*PLAN, "plan.price_per_hour=2").price == 0


def test_time_end_and_price_follow_from_the_measured_rate(forecast, tmp_path):
    record_rates(tmp_path / "cache", [rate(FOLDER / "llama3_8b", lanes=8)])
    found = forecast(*PLAN, "confirm=none", "plan.price_per_hour=3")
    (study,) = found.studies
    assert study.trial_tokens == 2 * 1200 * 100
    assert found.time.trial_s == pytest.approx(240)
    assert found.time.most_s == pytest.approx(24 * 240)
    assert found.time.likely_s == pytest.approx(24 * 240 * 0.5)
    assert found.time.ends_at == NOON + timedelta(seconds=24 * 120)
    assert found.price == pytest.approx(24 * 120 / 3600 * 3)
    assert found.time.trials_that_fit == 24
    assert found.time.differs == ""


def test_a_confirmation_takes_its_share(forecast, tmp_path):
    record_rates(tmp_path / "cache", [rate(FOLDER / "llama3_8b", lanes=8)])
    found = forecast(*PLAN, "confirm.max_share=1.5")
    assert found.time.most_s == pytest.approx(24 * 240 * 2.5)


def test_budget_and_window_limit_the_trials(forecast, tmp_path):
    record_rates(tmp_path / "cache", [rate(FOLDER / "llama3_8b", lanes=8)])
    assert forecast(*PLAN, "budget.device_hours=0.2").time.trials_that_fit == 6  # of 120 s each
    window = forecast(*PLAN, "confirm=none", "budget.window=12:00-12:20", "budget.time_zone=UTC").time
    assert window.trials_that_fit == 10
    assert window.ends_at == datetime(2026, 3, 4, 12, 8, tzinfo=UTC)  # 48 minutes in windows of 20


def test_work_ends_within_the_windows():
    budget = compose(["budget.window=22:00-23:00", "budget.time_zone=UTC"]).settings.budget
    assert end_of_work(1800, budget, NOON) == datetime(2026, 3, 2, 22, 30, tzinfo=UTC)
    assert end_of_work(3 * 3600, budget, NOON) == datetime(2026, 3, 4, 23, 0, tzinfo=UTC)
    always = compose([]).settings.budget
    assert end_of_work(7200, always, NOON) == NOON + timedelta(hours=2)


def test_of_several_rates_the_one_with_the_nearest_lanes_is_taken(tmp_path):
    folder = FOLDER / "llama3_8b"
    rates = [rate(folder, lanes=2, tokens_per_s=700), rate(folder, lanes=8), rate(FOLDER / "qwen3_0_6b", lanes=4)]
    record_rates(tmp_path, rates)
    key = dataclasses.replace(rates[0].key, lanes=3)
    found, differs = find_rate(tmp_path, key)
    assert found.tokens_per_s == pytest.approx(700)
    assert differs == "lanes=2"
    assert find_rate(tmp_path, dataclasses.replace(key, device="another")) is None
    assert find_rate(tmp_path, dataclasses.replace(key, dtype="float32")) is None


def test_a_rate_of_the_same_rows_is_nearer_than_one_of_the_same_lanes(tmp_path):
    folder = FOLDER / "llama3_8b"
    rates = [rate(folder, lanes=8, datasets="chats"), rate(folder, lanes=2, tokens_per_s=700)]
    record_rates(tmp_path, rates)
    found, differs = find_rate(tmp_path, dataclasses.replace(rates[1].key, lanes=8))
    assert (found.key.datasets, differs) == ("trec", "lanes=2")
    found, differs = find_rate(tmp_path, dataclasses.replace(rates[1].key, datasets="mine", lanes=8))
    assert (found.key.lanes, differs) == (8, "datasets=chats")


def test_a_rate_of_an_earlier_version_is_read(tmp_path):
    known = rate(FOLDER / "llama3_8b", lanes=2)
    record_rates(tmp_path, [known])
    (content,) = json.loads((tmp_path / "rates.json").read_text())
    for name in ("checkpointing", "attention", "base_dropout", "target_modules", "datasets"):
        del content["key"][name]
    (tmp_path / "rates.json").write_text(json.dumps([content]))
    found, differs = find_rate(tmp_path, known.key)
    assert found.tokens_per_s == pytest.approx(1000)
    assert differs == "datasets=unknown"


def test_a_newer_rate_replaces_an_older_one_and_a_short_session_none(tmp_path):
    folder = FOLDER / "llama3_8b"
    record_rates(tmp_path, [rate(folder, lanes=2, tokens_per_s=700)])
    record_rates(tmp_path, [rate(folder, lanes=2, tokens_per_s=900, seconds=LEAST_DEVICE_S - 1)])
    assert find_rate(tmp_path, rate(folder, lanes=2).key)[0].tokens_per_s == pytest.approx(700)
    record_rates(tmp_path, [rate(folder, lanes=2, tokens_per_s=900)])
    assert find_rate(tmp_path, rate(folder, lanes=2).key)[0].tokens_per_s == pytest.approx(900)


def test_a_cache_that_cannot_be_written_ends_no_session(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, where the folder should be")
    record_rates(tmp_path / "cache", [rate(FOLDER / "llama3_8b", lanes=2)])
    assert "was not recorded" in caplog.text


def test_a_damaged_file_of_rates_is_like_none(tmp_path):
    record_rates(tmp_path, [rate(FOLDER / "llama3_8b", lanes=2)])
    (tmp_path / "rates.json").write_text("[{")
    assert find_rate(tmp_path, rate(FOLDER / "llama3_8b", lanes=2).key) is None


def test_searched_epochs_take_the_time_of_their_mean_and_at_most_that_of_the_longest(forecast, tmp_path):
    record_rates(tmp_path / "cache", [rate(FOLDER / "llama3_8b", lanes=8)])
    searched = [override for override in PLAN if not override.startswith("train.epochs")]
    found = forecast(*searched, "train.epochs=choice(1,2)", "confirm=none")
    (study,) = found.studies
    assert (study.epochs, study.trial_tokens, study.mean_length) == (2, 2 * 1200 * 100, 0.75)
    assert found.time.trial_s == pytest.approx(180)
    assert found.time.most_s == pytest.approx(24 * 240)
    assert found.time.likely_s == pytest.approx(24 * 180 * 0.5)

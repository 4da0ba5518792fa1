"""The worker through its own interface, with a tiny model, tokenizer and dataset on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

import sweeper.train.worker
from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.data import open_rows, prepare, prepare_splits
from sweeper.errors import ContentChanged, ModelError, WorkerError
from sweeper.execute.base import CheckpointPolicy, SaveTrials, ScoreAdapters, WorkerSetup
from sweeper.figures.memory import memory_need
from sweeper.models import read_model
from sweeper.models.load import load_model
from sweeper.store.outcomes import RowOutcomes
from sweeper.tasks import make_task
from sweeper.train import make_worker
from sweeper.train.lane import Lane
from sweeper.train.lane_choice import LaneChoice
from sweeper.train.worker import _training_examples
from sweeper.types import Admission, CheckpointFile, ChunkRequest, FailureKind, Phase
from tests.builders import make_opening
from tests.data.test_rows import flip
from tests.train.tiny import SIZES, no_peft_deprecation, spec

WORDS = {
    "sport": ["ball", "goal", "match", "team", "coach"],
    "money": ["bank", "share", "price", "trade", "loan"],
    "sky": ["star", "moon", "comet", "orbit", "planet"],
}
CHUNKS, RUNGS = 4, (2, 4)
CHOICE = LaneChoice(2, 0, {}, "", "")
METRICS = {"train/loss", "validation/accuracy", "validation/macro_f1", "validation/mcc", "validation/loss"}


def texts():
    """Write rows of one to eight words, no two the same."""
    generator = torch.Generator().manual_seed(0)
    seen = set()
    while len(seen) < 150:
        label = sorted(WORDS)[len(seen) % 3]
        count = int(torch.randint(1, 9, (), generator=generator))
        picked = torch.randint(0, 5, (count,), generator=generator).tolist()
        seen.add((" ".join([WORDS[label][i] for i in picked] + [str(len(seen))]), label))
    return [{"text": text, "label": label} for text, label in sorted(seen)]


def save_tokenizer(folder):
    words = [word for topic in WORDS.values() for word in topic]
    digits = [f"{start}{digit}" for start in ("", "##") for digit in range(10)]
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *digits])}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder with a model, a dataset and a cache."""
    folder = tmp_path_factory.mktemp("worker")
    rows = texts()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = save_tokenizer(folder / "model")
    config = AutoConfig.for_model("bert", vocab_size=size, max_position_embeddings=32, initializer_range=0.2, **SIZES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder / "model")
    return folder


def setup(disk, **model):
    return WorkerSetup(
        model=ModelSettings(name="tiny", **{"dtype": "float32", **model}),
        model_dir=disk / "model",
        cache=disk / "cache",
        device="cpu",
        threads=1,
    )


def started(disk, **model):
    worker = make_worker(setup(disk, **model), 0)
    worker.start()
    return worker


def dataset_of(disk, **changes):
    path = str(disk / "rows.jsonl")
    return replace(DatasetSettings(name="topics", path=path, train_rows=96, validation_rows=30, test_rows=0), **changes)


def study(disk, *, dataset=None, **changes):
    """Plan a study as the controller does, and return the request that opens it."""
    where, model = {"cache": disk / "cache"}, ModelSettings(name="tiny", id=str(disk / "model"), max_length=16)
    values = {
        "rows": prepare(dataset or dataset_of(disk), model, model_dir=disk / "model", **where).ref,
        "model": read_model(model, disk / "model", **where),
        "micro_batch": 8,
        "chunks_per_epoch": 2,
        "epochs": 2,
        "rungs": RUNGS,
    }
    return make_opening("topics-tiny-lora", **{**values, **changes})


@pytest.fixture
def worker(disk):
    found = started(disk)
    assert found.answer(study(disk)).references == {}
    return found


def trial(number, *, seed=None, **settings):
    settings = {"train.batch_size": 8, "train.learning_rate": 2e-2, "lora.r": 4, **settings}
    return spec(number, seed=number if seed is None else seed, **settings)


def admit(*trials):
    return ChunkRequest(admit=tuple(Admission(spec=each) for each in trials))


def test_it_reports_what_it_chose_for_the_device(disk):
    notes = make_worker(setup(disk), 3).start().notes
    assert notes[0] == "base weights: float32, set by model.dtype"
    assert notes[1].startswith("attention: eager")


def test_it_measures_how_many_lanes_and_tokens_fit(disk, monkeypatch):
    worker = started(disk)
    sizes = {"typical": trial(0), "largest": trial(0, **{"lora.r": 16})}
    opened = worker.answer(study(disk, lane_limit=2, **sizes))
    assert opened.lanes in (1, 2)
    assert "and r=4, memory on" in opened.notes[-1]
    assert opened.notes[-1].endswith("and r=16")
    little = dataclasses.replace(CHOICE, lanes=1, tokens_per_pass=12)
    monkeypatch.setattr(sweeper.train.worker, "choose_lanes", lambda *_, **__: little)
    worker.answer(study(disk, lane_limit=2, **sizes))
    assert worker._study.fallback.tokens_per_pass() == 12


def test_a_budget_of_tokens_changes_no_score(disk):
    found = []
    for tokens in (0, 9):
        worker = make_worker(replace(setup(disk), tokens_per_pass=tokens), 0)
        worker.start()
        worker.answer(study(disk, rungs=(1, 4)))
        assert worker._study.train.largest_pass(2, tokens) <= max(tokens, 2 * 16) or not tokens
        report = worker.answer(admit(trial(0, **{"lora.dropout": 0.1}), trial(1)))
        found.append([report.measurements[number].metrics for number in (0, 1)])
    for whole, divided in zip(*found, strict=True):
        assert divided == pytest.approx(whole, rel=1e-4)


def test_a_chunk_without_a_study_is_an_error(disk):
    with pytest.raises(WorkerError, match="before the one that opens a study"):
        started(disk).answer(ChunkRequest())


def test_trials_are_trained_scored_at_rungs_and_finish_with_adapters(worker):
    trials = [trial(1), trial(2, **{"lora.r": 12, "lora.dropout": 0.1})]
    reports = [worker.answer(admit(*trials))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    for chunk, report in enumerate(reports, start=1):
        assert report.failures == {}
        assert report.measurements.keys() == {1, 2}
        for measured in report.measurements.values():
            assert (measured.chunk, measured.rows) == (chunk, chunk * 48)
            assert measured.metrics.keys() == (METRICS if chunk in RUNGS else {"train/loss"})
        is_last = chunk == CHUNKS
        assert report.adapters.keys() == ({1, 2} if is_last else set())
        assert report.checkpoints.keys() == (set() if is_last else {1, 2})
        assert report.rung_adapters.keys() == ({1, 2} if chunk in RUNGS and not is_last else set())
        assert report.outcomes.keys() == ({1, 2} if chunk in RUNGS else set())
    assert worker.answer(ChunkRequest()).measurements == {}


def test_a_trial_continues_from_a_file_as_from_bytes(disk, worker, tmp_path):
    by_file = make_worker(replace(setup(disk), checkpoints=CheckpointPolicy(file_bytes=0)), 0)
    by_file.start()
    by_file.answer(study(disk, incoming=tmp_path / "incoming"))
    whole, first = worker.answer(admit(trial(1))), by_file.answer(admit(trial(1)))
    saved = first.checkpoints[1]
    assert saved.path.read_bytes() == whole.checkpoints[1]
    kept = saved.path.rename(tmp_path / "kept")  # as the controller does
    by_file.answer(study(disk, incoming=tmp_path / "incoming"))
    admission = Admission(spec=trial(1), chunks_done=1, checkpoint=replace(saved, path=kept))
    again = by_file.answer(ChunkRequest(admit=(admission,)))
    expected = worker.answer(ChunkRequest())
    assert again.measurements == expected.measurements
    wrong = replace(admission, checkpoint=replace(saved, path=kept, sha256="0" * 64))
    assert by_file.answer(ChunkRequest(admit=(wrong,), evict=(1,))).failures[1].kind is FailureKind.CHECKPOINT


def test_large_checkpoints_are_sent_at_rungs_and_on_request(disk, worker, tmp_path):
    policy = CheckpointPolicy(file_bytes=0, every_s=3600)
    sparse = make_worker(replace(setup(disk), checkpoints=policy), 0)
    sparse.start()
    sparse.answer(study(disk, incoming=tmp_path / "incoming"))
    first, second = sparse.answer(admit(trial(1), trial(2))), sparse.answer(ChunkRequest())
    assert (first.checkpoints.keys(), second.checkpoints.keys()) == (set(), {1, 2})
    third = sparse.answer(ChunkRequest(evict=(2,)))
    assert third.checkpoints == {}
    saved = sparse.answer(SaveTrials(numbers=(1,)))
    assert saved.checkpoints.keys() == {1}
    last = sparse.answer(ChunkRequest()).measurements  # it goes on as if nothing had happened
    again = worker.answer(
        ChunkRequest(admit=(Admission(spec=trial(1), chunks_done=3, checkpoint=saved.checkpoints[1]),))
    )
    assert again.measurements == last


def test_large_adapters_are_files_that_it_scores_too(disk, worker, tmp_path):
    expected = [worker.answer(admit(trial(1))), *(worker.answer(ChunkRequest()) for _ in range(3))]
    writing = make_worker(replace(setup(disk), checkpoints=CheckpointPolicy(file_bytes=0)), 0)
    writing.start()
    writing.answer(study(disk, incoming=tmp_path / "incoming"))
    reports = [writing.answer(admit(trial(1))), *(writing.answer(ChunkRequest()) for _ in range(3))]
    for name in ("adapters", "rung_adapters"):
        found = [getattr(report, name) for report in reports]
        assert [each.keys() for each in found] == [getattr(report, name).keys() for report in expected]
        for files, same in ((now[1], getattr(then, name)[1]) for now, then in zip(found, expected, strict=True) if now):
            assert isinstance(sent := files["adapter_model.safetensors"], CheckpointFile)
            assert sent.path.parent == tmp_path / "incoming"
            assert sent.path.read_bytes() == same["adapter_model.safetensors"]
            assert files["adapter_config.json"] == same["adapter_config.json"]
    files = reports[-1].adapters[1]
    assert set(reports[-1].sent) == {*files.values()}

    def scored():
        return writing.answer(ScoreAdapters(split="validation", adapters={1: (trial(1), files)}))

    assert scored().outcomes == reports[-1].outcomes
    with files["adapter_model.safetensors"].path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0" * 4)  # still a file that could be read
    assert scored().failures[1].kind is FailureKind.CHECKPOINT


def test_a_trial_of_a_confirmation_is_scored_at_its_end_only(worker):
    confirming = replace(trial(2), phase=Phase.CONFIRMATION)
    reports = [worker.answer(admit(trial(1), confirming))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    rungs = {number: [r.measurements[number].chunk for r in reports if number in r.outcomes] for number in (1, 2)}
    assert rungs == {1: list(RUNGS), 2: [CHUNKS]}


def test_a_confirmation_is_scored_on_rows_that_are_new_to_all_trials(disk):
    dataset = dataset_of(disk, train_rows=80, validation_rows=30, confirm_rows=25)
    found = started(disk)
    assert found.answer(study(disk, dataset=dataset)).references == {}
    confirming = replace(trial(2), phase=Phase.CONFIRMATION)
    reports = [found.answer(admit(trial(1), confirming))] + [found.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    last = reports[-1]
    assert [last.measurements[number].scored_rows for number in (1, 2)] == [30, 25]
    files = {2: (confirming, last.adapters[2])}
    again = found.answer(ScoreAdapters(split="confirmation", adapters=files))
    assert again.outcomes[2] == last.outcomes[2]


def test_row_outcomes_are_those_of_the_scores(worker):
    reports = [worker.answer(admit(trial(1), trial(2)))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    for report in (report for report in reports if report.outcomes):
        for number, content in report.outcomes.items():
            rows, metrics = RowOutcomes.from_bytes(content), report.measurements[number].metrics
            assert rows.num_rows == 30
            assert (rows.predicted_N == rows.target_N).mean() == metrics["validation/accuracy"]
            assert rows.loss_N.astype(float).mean() == pytest.approx(metrics["validation/loss"], rel=1e-3)


def test_the_adapter_of_a_rung_has_the_format_of_the_last_and_the_weights_of_its_chunk(worker):
    reports = [worker.answer(admit(trial(1)))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    last = reports[-1].adapters[1]
    at_rungs = [report.rung_adapters[1] for report in reports if report.rung_adapters]
    assert len(at_rungs) == len(RUNGS) - 1
    for found in at_rungs:
        assert found["adapter_config.json"] == last["adapter_config.json"]
        weights, final = load(found["adapter_model.safetensors"]), load(last["adapter_model.safetensors"])
        assert weights.keys() == final.keys()
        assert any(not torch.equal(weights[name], final[name]) for name in final)


def validation_of(measurement):
    return {name: value for name, value in measurement.metrics.items() if name.startswith("validation/")}


def test_adapters_score_on_the_validation_rows_exactly_as_at_their_last_rung(worker, disk):
    trials = [trial(1), trial(2, **{"lora.r": 12, "lora.use_rslora": True}), trial(3, **{"lora.dropout": 0.1})]
    last = [worker.answer(admit(*trials))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    fresh = started(disk)
    fresh.answer(study(disk))
    adapters = {each.number: (each, last[-1].adapters[each.number]) for each in trials}
    reply = fresh.answer(ScoreAdapters(split="validation", adapters=adapters))
    assert reply.metrics == {number: validation_of(found) for number, found in last[-1].measurements.items()}
    assert reply.outcomes == last[-1].outcomes
    assert reply.failures == {}
    assert reply.elapsed_s > 0


def test_early_rungs_score_the_first_half_of_the_rows_whoever_else_is_scored(disk, monkeypatch):
    def reports(worker):
        worker.answer(study(disk))
        first = [worker.answer(admit(trial(1))), worker.answer(ChunkRequest())]
        return [*first, worker.answer(admit(trial(2))), worker.answer(ChunkRequest())]

    whole = reports(started(disk))
    monkeypatch.setattr("sweeper.figures.rungs._LEAST_ROWS", 15)
    half = reports(started(disk))
    for report, number, num_rows in ((1, 1, 15), (3, 1, 30), (3, 2, 15)):
        assert half[report].measurements[number].scored_rows == num_rows
        assert whole[report].measurements[number].scored_rows == 30
        found, expected = (RowOutcomes.from_bytes(each[report].outcomes[number]) for each in (half, whole))
        assert found.num_rows == num_rows
        assert found.predicted_N.tolist() == expected.predicted_N[:num_rows].tolist()
        accuracy = (expected.predicted_N == expected.target_N)[:num_rows].mean()
        assert half[report].measurements[number].metrics["validation/accuracy"] == pytest.approx(accuracy)
    assert half[0].measurements[1].scored_rows == 0
    assert whole[1].rung_adapters.keys() == {1}
    assert half[1].rung_adapters == {}


def test_scoring_adapters_leaves_the_pack_as_it_is(worker):
    first = worker.answer(admit(trial(1, **{"lora.dropout": 0.1})))
    second = worker.answer(ChunkRequest())
    back = Admission(spec=trial(1, **{"lora.dropout": 0.1}), chunks_done=1, checkpoint=first.checkpoints[1])
    worker.answer(ChunkRequest(evict=(1,)))
    worker._lanes[1] = Lane.admit(back, worker._study.pack.shape, worker._device)
    other = trial(2)
    worker.answer(ScoreAdapters(split="validation", adapters={2: (other, second.rung_adapters[1])}))
    assert worker.answer(ChunkRequest()).measurements == second.measurements


def test_test_rows_are_scored_in_groups_and_other_adapters_fail_alone(disk, monkeypatch):
    monkeypatch.setattr("sweeper.train.worker._ADAPTERS_AT_ONCE", 2)
    dataset = dataset_of(disk, train_rows=80, validation_rows=30, test_rows=20)
    worker = started(disk)
    worker.answer(study(disk, dataset=dataset, epochs=1, chunks_per_epoch=1, rungs=(1,)))
    trials = [trial(number) for number in (1, 2, 3)]
    adapters = worker.answer(admit(*trials)).adapters
    asked = {each.number: (each, adapters[each.number]) for each in trials}
    asked[4] = (trial(4, **{"lora.r": 8}), adapters[1])
    asked[5] = (trial(5), {**adapters[1], "adapter_model.safetensors": b"x"})
    reply = worker.answer(ScoreAdapters(split="test", adapters=asked))
    assert reply.metrics.keys() == reply.outcomes.keys() == {1, 2, 3}
    for number, content in reply.outcomes.items():
        rows, metrics = RowOutcomes.from_bytes(content), reply.metrics[number]
        assert metrics.keys() == {name.replace("validation", "test") for name in METRICS - {"train/loss"}}
        assert (rows.num_rows, (rows.predicted_N == rows.target_N).mean()) == (20, metrics["test/accuracy"])
    assert "another model or rank" in reply.failures[4].message
    assert "cannot be read" in reply.failures[5].message


def test_a_split_without_rows_is_an_error_that_names_the_setting(worker):
    with pytest.raises(WorkerError, match=r"topics has no test rows: set its key test_rows"):
        worker.answer(ScoreAdapters(split="test", adapters={}))


def test_adapters_are_scored_one_by_one_where_memory_lacks(worker, monkeypatch):
    trials = [trial(1), trial(2)]
    last = [worker.answer(admit(*trials))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    real, sizes = worker._study.pack.predict, []

    def predict(lanes, *arguments, **options):
        sizes.append(len(lanes))
        if len(lanes) > 1:
            raise torch.OutOfMemoryError("no memory")
        return real(lanes, *arguments, **options)

    monkeypatch.setattr(worker._study.pack, "predict", predict)
    adapters = {each.number: (each, last[-1].adapters[each.number]) for each in trials}
    reply = worker.answer(ScoreAdapters(split="validation", adapters=adapters))
    assert sizes == [2, 1, 1]
    for number, found in last[-1].measurements.items():
        assert reply.metrics[number] == pytest.approx(validation_of(found), rel=1e-4)


def test_a_trial_learns(disk):
    worker = started(disk)
    worker.answer(study(disk, epochs=8, rungs=(16,)))
    reports = [worker.answer(admit(trial(1)))] + [worker.answer(ChunkRequest()) for _ in range(15)]
    assert reports[-1].measurements[1].metrics["validation/accuracy"] > 0.8
    losses = [report.measurements[1].metrics["train/loss"] for report in reports]
    assert losses[-1] < 0.7 * losses[0]


def test_costs_are_counted_by_trial(worker):
    report = worker.answer(admit(trial(1), trial(2, seed=1)))
    one, two = report.costs[1], report.costs[2]
    assert one == two
    assert one.rows == 48
    assert 48 * 4 < one.tokens < 48 * 16
    assert one.device_s == pytest.approx(report.elapsed_s / 2)


def test_a_new_trial_is_described_once(worker):
    report = worker.answer(admit(trial(1)))
    adapters = 4 * 2 * (3 * 32 + 32 + 40 + 40)  # rank x layers x (query, key, value; output; both of the feed-forward)
    assert report.details[1]["num_parameters"] == adapters + 16 * 3 + 3
    assert worker.answer(ChunkRequest()).details == {}


def test_the_initial_hash_depends_on_the_seed_alone(worker, disk):
    fresh = started(disk)
    fresh.answer(study(disk))
    report = worker.answer(admit(trial(1, seed=5), trial(2, seed=6)))
    other = fresh.answer(admit(trial(9, seed=5, **{"train.learning_rate": 1e-4})))
    assert other.details[9]["initial_hash"] == report.details[1]["initial_hash"]
    assert report.details[1]["initial_hash"] != report.details[2]["initial_hash"]


def test_an_evicted_trial_is_gone_and_its_place_refilled(worker):
    worker.answer(admit(trial(1), trial(2)))
    request = ChunkRequest(admit=(Admission(spec=trial(3)),), evict=(1, 77))
    report = worker.answer(request)
    assert {number: measured.chunk for number, measured in report.measurements.items()} == {2: 2, 3: 1}
    assert report.checkpoints.keys() == report.costs.keys() == {2, 3}


def test_a_trial_that_diverges_fails_alone(worker):
    report = worker.answer(admit(trial(1), trial(2, **{"train.learning_rate": 1e30, "train.warmup_ratio": 0.0})))
    assert report.failures.keys() == {2}
    assert report.failures[2].kind is FailureKind.NON_FINITE
    assert "nan" in report.failures[2].message or "inf" in report.failures[2].message
    assert report.measurements.keys() == report.checkpoints.keys() == {1}
    assert math.isfinite(report.measurements[1].metrics["train/loss"])
    assert 2 in report.costs
    assert worker.answer(ChunkRequest()).measurements.keys() == {1}


def test_a_finite_loss_above_the_limit_ends_its_trial(worker):
    wild = trial(2, **{"train.learning_rate": 30.0, "train.warmup_ratio": 0.0, "train.max_grad_norm": 0.0})
    report = worker.answer(admit(trial(1), wild))
    assert report.failures[2].kind is FailureKind.EXPLODED
    assert "5 times the loss of uniform guesses" in report.failures[2].message
    assert report.measurements.keys() == {1}


def test_the_time_of_failing_lanes_is_charged_to_them(worker):
    bad = trial(2, **{"train.learning_rate": "fast"})
    report = worker.answer(admit(trial(1), bad))
    assert report.costs[2].rows == 0
    assert report.costs[1].device_s == report.costs[2].device_s == pytest.approx(report.elapsed_s / 2)


def test_a_chunk_in_which_all_lanes_fail_is_charged_in_full(worker):
    bad = trial(2, **{"train.learning_rate": "fast"})
    report = worker.answer(admit(bad))
    assert report.costs[2].device_s == pytest.approx(report.elapsed_s) != 0


def test_an_error_ends_its_own_trial_only(worker):
    """Lane 2's learning rate is not a number: an error, but not for lack of memory."""
    bad = trial(2, **{"train.learning_rate": "fast"})
    report = worker.answer(admit(trial(1), bad))
    assert report.failures.keys() == {2}
    assert report.failures[2].kind is FailureKind.ERROR
    assert "TypeError" in report.failures[2].message
    assert report.measurements.keys() == {1}
    assert worker.answer(ChunkRequest()).measurements.keys() == {1}


def test_a_trial_continues_in_a_new_worker_from_the_checkpoint_of_a_report(worker, disk):
    one = trial(1, **{"lora.dropout": 0.1})
    first = worker.answer(admit(one, trial(2)))
    rest = [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]

    fresh = started(disk)
    fresh.answer(study(disk))
    back = Admission(spec=one, chunks_done=1, checkpoint=first.checkpoints[1])
    again = [fresh.answer(ChunkRequest(admit=(back,)))] + [fresh.answer(ChunkRequest()) for _ in range(CHUNKS - 2)]
    for expected, found in zip(rest, again, strict=True):
        assert found.measurements[1].chunk == expected.measurements[1].chunk
        assert found.measurements[1].metrics == pytest.approx(expected.measurements[1].metrics, rel=1e-4)
    assert again[0].details == {}
    assert again[-1].adapters.keys() == {1}


@pytest.fixture(scope="module")
def through(disk):
    """The reports of two trials, one with dropout, that were never interrupted."""
    worker = started(disk)
    worker.answer(study(disk))
    return [worker.answer(admit(*dropping()))] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]


def dropping():
    return trial(1, **{"lora.dropout": 0.1}), trial(2, **{"lora.r": 12, "train.lr_schedule": "cosine"})


def resumed(disk, through, chunks, *, numbers=(1, 2)):
    """Continue in a new worker from the checkpoints after some chunks; return the remaining reports."""
    worker = started(disk)
    worker.answer(study(disk))
    back = tuple(
        Admission(spec=each, chunks_done=chunks, checkpoint=through[chunks - 1].checkpoints[each.number])
        for each in dropping()
        if each.number in numbers
    )
    first = worker.answer(ChunkRequest(admit=back))
    return [first] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - chunks - 1)]


@pytest.mark.parametrize("chunks", range(1, CHUNKS))
def test_a_trial_interrupted_after_any_chunk_continues_bit_for_bit(disk, through, chunks):
    reports = resumed(disk, through, chunks)
    for found, expected in zip(reports, through[chunks:], strict=True):
        assert found.checkpoints == expected.checkpoints
        for number in (1, 2):
            assert found.measurements[number] == expected.measurements[number]
    assert reports[-1].adapters == through[-1].adapters


@pytest.mark.parametrize("chunks", range(1, CHUNKS))
def test_a_trial_interrupted_after_any_chunk_continues_alone_within_rounding(disk, through, chunks):
    reports = resumed(disk, through, chunks, numbers=(1,))
    for found, expected in zip(reports, through[chunks:], strict=True):
        assert found.measurements[1].metrics == pytest.approx(expected.measurements[1].metrics, rel=1e-4)


def test_a_damaged_checkpoint_fails_its_trial_only(worker):
    damaged = Admission(spec=trial(1), chunks_done=1, checkpoint=b"torn")
    report = worker.answer(ChunkRequest(admit=(damaged, Admission(spec=trial(2)))))
    assert report.failures[1].kind is FailureKind.CHECKPOINT
    assert report.measurements.keys() == {2}


def test_a_new_study_forgets_the_old_ones_trials(worker, disk):
    worker.answer(admit(trial(1)))
    worker.answer(study(disk))
    assert worker.answer(ChunkRequest()).measurements == {}


def test_probes_are_given_as_references(disk):
    opened = started(disk).answer(study(disk, probe=True))
    assert opened.references.keys() == {"frozen_probe", "frozen_probe_head"}
    for scores in opened.references.values():
        assert scores.keys() == {"validation/accuracy", "validation/macro_f1", "validation/mcc"}
        assert 0.6 < scores["validation/accuracy"] <= 1


def test_a_head_from_a_probe_is_the_same_in_every_worker_and_fitted_once(worker, disk, monkeypatch):
    probed, other_seed = trial(1, **{"train.head_init": "probe"}), trial(2, seed=7, **{"train.head_init": "probe"})
    random = trial(0, seed=1, **{"train.head_init": "random"})
    details = worker.answer(admit(random, probed, other_seed)).details
    assert details[0]["initial_hash"] != details[1]["initial_hash"]
    heads = [worker._initial_head(worker._study, each) for each in (probed, other_seed)]
    assert torch.equal(*heads)
    monkeypatch.setattr("sweeper.train.worker.fit_probe", None)  # a second fit would fail
    fresh = started(disk)
    fresh.answer(study(disk))
    assert fresh.answer(admit(probed)).details[1]["initial_hash"] == details[1]["initial_hash"]


def test_a_head_from_a_probe_knows_something_at_the_start(disk):
    worker = started(disk)
    worker.answer(study(disk, rungs=(1, 2, 3, 4)))
    still = {"train.learning_rate": 1e-8}
    report = worker.answer(
        admit(trial(0, **{"train.head_init": "random", **still}), trial(1, **{"train.head_init": "probe", **still}))
    )
    scores = [report.measurements[number].metrics["validation/accuracy"] for number in (0, 1)]
    assert scores[1] >= scores[0] + 0.1


def test_target_modules_of_the_user_are_used(disk):
    worker = started(disk, target_modules=["query"])
    worker.answer(study(disk))
    assert worker.answer(admit(trial(1))).details[1]["num_parameters"] == 4 * 2 * 32 + 16 * 3 + 3


def test_target_modules_that_match_nothing_are_an_error(disk):
    with pytest.raises(ModelError, match=r"q_proj.*model\.target_modules"):
        started(disk, target_modules=["q_proj"]).answer(study(disk))


@pytest.mark.parametrize("head_init", ["random", "probe"])
def test_the_finished_adapter_scores_in_peft_as_reported(worker, disk, tmp_path, head_init):
    from peft import PeftModel

    from sweeper.models.load import load_model
    from sweeper.tasks import make_task

    first = admit(trial(1, **{"train.head_init": head_init}))
    reports = [worker.answer(first)] + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]
    for name, content in reports[-1].adapters[1].items():
        (tmp_path / name).write_bytes(content)
    assert sum(t.numel() for t in load((tmp_path / "adapter_model.safetensors").read_bytes()).values()) > 0
    base = load_model(
        disk / "model", kind="sequence_classification", num_labels=3, dtype=torch.float32, attention="eager"
    )
    with no_peft_deprecation():
        model = PeftModel.from_pretrained(base, tmp_path).eval()
    validation = prepare_splits(dataset_of(disk), cache=disk / "cache").validation
    tokenizer = PreTrainedTokenizerFast.from_pretrained(disk / "model")
    with torch.no_grad():
        logits = torch.cat(
            [model(input_ids=torch.tensor([tokenizer(text)["input_ids"][:16]])).logits for text in validation["text"]]
        )
    scores = make_task("text_classification").score(logits, torch.tensor(list(validation["label"])))
    reported = reports[-1].measurements[1].metrics
    assert {f"validation/{name}": value for name, value in scores.items()} == pytest.approx(
        {name: value for name, value in reported.items() if name != "train/loss"}, rel=1e-4
    )


@pytest.mark.parametrize(("setting", "saved"), [("", None), ("5f6a7b8", "5f6a7b8")])
def test_the_adapter_names_the_revision_of_its_base(disk, setting, saved):
    worker = started(disk, id="some/base", revision=setting)
    worker.answer(study(disk, epochs=1, chunks_per_epoch=1, rungs=(1,)))
    config = json.loads(worker.answer(admit(trial(1))).adapters[1]["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/base", saved)


def test_weights_that_change_while_they_are_loaded_are_refused(disk, tmp_path, monkeypatch):
    shutil.copytree(disk, tmp_path, dirs_exist_ok=True)
    load_model, weights = sweeper.train.worker.load_model, tmp_path / "model" / "model.safetensors"

    def load_and_change(*arguments, **options):
        found = load_model(*arguments, **options)
        flip(weights)
        return found

    monkeypatch.setattr("sweeper.train.worker.load_model", load_and_change)
    worker = started(tmp_path)
    with pytest.raises(ContentChanged, match=r"model\.safetensors has the SHA-256"):
        worker.answer(study(tmp_path))
    with pytest.raises(WorkerError, match="before the one that opens a study"):
        worker.answer(ChunkRequest())


def test_the_requests_reach_a_worker_that_has_no_source(disk, tmp_path):
    """Cache and model, at other paths, are all that a worker on another machine needs."""
    request = pickle.loads(pickle.dumps(study(disk)))  # noqa: S301  our own
    for name in ("cache", "model"):
        shutil.copytree(disk / name, tmp_path / name)
    expected = started(disk)
    expected.answer(study(disk))
    worker = started(tmp_path)
    worker.answer(request)
    assert worker.answer(admit(trial(1))).measurements == expected.answer(admit(trial(1))).measurements


def test_an_opened_study_says_what_its_largest_pack_and_a_trial_need(disk, monkeypatch):
    found = started(disk)
    reply = found.answer(study(disk, lanes=2, largest=trial(1)))
    opened = found._study
    frozen = sum(p.nbytes for n, p in opened.pack._model.named_parameters() if not n.startswith("classifier"))
    assert reply.need.base == 4 * opened.shapes.parameters >= frozen > 0
    rank, load_two = trial(1).lora.r, reply.need.lanes
    assert load_two >= 2 * 12 * opened.pack.shape.with_rank(rank).size
    assert reply.trial_tokens == 2 * sum(len(ids) for ids in opened.tokens.train["input_ids"])  # two epochs
    # The peak is that since the libraries were loaded. What a tiny model needs may have been free before.
    assert 0 <= found.answer(admit(trial(1))).peak_bytes < 2_000_000_000
    monkeypatch.setattr("sweeper.train.worker.peak_resident_bytes", lambda: found._resident_bytes + 5000)
    assert found.answer(ChunkRequest()).peak_bytes == 5000


def test_measured_memory_begins_where_the_first_model_is_loaded(disk, monkeypatch):
    found, seen = started(disk), []

    def load(*arguments, **options):
        seen.append(found._resident_bytes)
        return load_model(*arguments, **options)

    monkeypatch.setattr("sweeper.train.worker.load_model", load)
    for _ in range(2):
        found.answer(study(disk))
    assert seen[0] == seen[1] > 0


def test_the_prediction_knows_how_many_products_the_worker_caches(disk, monkeypatch):
    loads = []

    def need(shapes, load):
        loads.append(load)
        return memory_need(shapes, load)

    monkeypatch.setattr("sweeper.train.worker.memory_need", need)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "77")
    started(disk).answer(study(disk, lanes=2, largest=trial(1)))
    assert [load.cached_products for load in loads] == [77]


def test_without_the_largest_trial_nothing_is_predicted(disk):
    assert started(disk).answer(study(disk)).need is None


def test_validation_rows_are_trained_on_if_they_are_asked_for(disk):
    both = started(disk)
    both.answer(study(disk, train_splits=("train", "validation"), rungs=()))
    report = both.answer(admit(trial(1)))
    alone = started(disk)
    alone.answer(study(disk))
    # 126 rows instead of 96: 7 micro-batches of 8 in a chunk of half an epoch instead of 6.
    assert (report.costs[1].rows, alone.answer(admit(trial(1))).costs[1].rows) == (56, 48)
    assert set(report.measurements[1].metrics) == {"train/loss"}


def test_rows_with_a_label_that_the_head_lacks_are_not_trained_on(disk):
    request = study(disk, train_splits=("train", "validation"), rungs=())
    task = make_task("text_classification")
    tokens = open_rows(request.rows, cache=disk / "cache", model_dir=disk / "model", trust_remote_code=False)
    unknown = replace(tokens, validation=tokens.validation.map(lambda row: {"label": row["label"] + 1}))
    found = _training_examples(task, unknown, request)
    num_labels = request.rows.num_labels
    assert len(found.ids) == 96 + sum(label < num_labels for label in unknown.validation["label"]) < 126
    assert max(found.targets) == num_labels - 1


def trained(worker, *trials, num_chunks):
    """Return the measurements of each trial over so many chunks, and its adapter."""
    reports = [worker.answer(admit(*trials))] + [worker.answer(ChunkRequest()) for _ in range(num_chunks - 1)]
    numbers = [each.number for each in trials]
    found = {n: [r.measurements[n] for r in reports if n in r.measurements] for n in numbers}
    return found, {n: files for r in reports for n, files in r.adapters.items()}


def test_a_trial_of_fewer_epochs_is_the_same_as_in_a_study_of_so_few(disk, worker):
    """Its schedule ends with it, it is scored at its own end, and its neighbour goes on."""
    short, long = trial(1, **{"train.epochs": 1}), trial(2, **{"train.epochs": 2})
    found, adapters = trained(worker, short, long, num_chunks=CHUNKS)
    assert {n: len(measured) for n, measured in found.items()} == {1: 2, 2: 4}
    assert {n: [m.chunk for m in measured if m.is_rung] for n, measured in found.items()} == {1: [2], 2: [2, 4]}
    alone = started(disk)
    alone.answer(study(disk, epochs=1, rungs=(2,)))
    expected, files = trained(alone, short, num_chunks=2)
    assert [m.metrics for m in found[1]] == [m.metrics for m in expected[1]]
    assert adapters[1] == files[1]
    assert adapters.keys() == {1, 2}


def test_a_short_trial_scores_all_rows_in_the_second_half_of_its_own_training(disk, monkeypatch):
    monkeypatch.setattr("sweeper.figures.rungs._LEAST_ROWS", 10)
    found = started(disk)
    found.answer(study(disk, rungs=(1, 2, 4)))
    measured, _ = trained(found, trial(1, **{"train.epochs": 1}), trial(2), num_chunks=CHUNKS)
    assert [m.scored_rows for m in measured[1]] == [15, 30]
    assert [m.scored_rows for m in measured[2]] == [15, 15, 0, 30]


def test_a_confirmation_of_a_short_trial_is_scored_at_its_own_end(worker):
    confirming = replace(trial(2, **{"train.epochs": 1}), phase=Phase.CONFIRMATION)
    measured, _ = trained(worker, confirming, num_chunks=2)
    assert [m.is_rung for m in measured[2]] == [False, True]

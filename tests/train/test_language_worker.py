"""The worker with a tiny language model, a tokenizer with a chat template and prompts on disk."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sweeper.config.settings import DatasetSettings, ModelSettings, TaskSettings
from sweeper.data import prepare, prepare_splits
from sweeper.errors import ModelError
from sweeper.execute.base import ScoreAdapters, WorkerSetup
from sweeper.models import read_model
from sweeper.train import make_worker
from sweeper.types import Admission, ChunkRequest
from tests.builders import make_opening
from tests.data.builders import write_jsonl
from tests.data.test_prompt_tokens import TEMPLATE, make_tokenizer, with_template
from tests.tasks.languages import language_model, nll_alone
from tests.train.tiny import no_peft_deprecation, spec

CHUNKS = 12
CLOSED = {"train/loss", "validation/accuracy", "validation/loss", "validation/perplexity"}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def disk(tmp_path_factory, request):
    """A folder with a model, prompts of both kinds, chats and a cache."""
    folder = tmp_path_factory.mktemp("languages")
    closed = [{"prompt": f"row {n} {m}", "completion": f" {m + 40}"} for n in range(36) for m in range(4)]
    write_jsonl(folder / "closed.jsonl", closed)
    write_jsonl(folder / "open.jsonl", [{**row, "completion": f"{n % 60} {n // 60}"} for n, row in enumerate(closed)])
    user, assistant = ({"role": role} for role in ("user", "assistant"))
    chats = [
        {"messages": [{**user, "content": row["prompt"]}, {**assistant, "content": row["completion"]}]}
        for row in closed
    ]
    write_jsonl(folder / "chats.jsonl", chats)
    model = language_model(request.param)
    model.resize_token_embeddings(64)
    model.save_pretrained(folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    with_template(make_tokenizer(folder / "model", pad=False), TEMPLATE)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


def opened(disk, file, *, probe=False, **model):
    setup = WorkerSetup(
        model=ModelSettings(name="tiny", max_length=16, **{"dtype": "float32", "id": str(disk / "model"), **model}),
        model_dir=disk / "model",
        cache=disk / "cache",
        device="cpu",
        threads=1,
    )
    worker = make_worker(setup, 0)
    worker.start()
    dataset = DatasetSettings(
        name="mine", path=str(disk / f"{file}.jsonl"), train_rows=96, validation_rows=24, test_rows=24
    )
    settings, where = setup.model, {"model_dir": setup.model_dir, "cache": setup.cache}
    request = make_opening(
        "mine-tiny-lora",
        rows=prepare(dataset, settings, completions=True, **where).ref,
        model=read_model(settings, setup.model_dir, cache=setup.cache),
        task=TaskSettings(name="causal_lm", metric="auto"),
        micro_batch=8,
        chunks_per_epoch=2,
        epochs=CHUNKS // 2,
        rungs=(6, CHUNKS),
        probe=probe,
    )
    return worker, worker.answer(request)


def run(worker, *trials):
    reports = [worker.answer(ChunkRequest(admit=tuple(Admission(spec=trial) for trial in trials)))]
    return reports + [worker.answer(ChunkRequest()) for _ in range(CHUNKS - 1)]


def trial(number, **settings):
    return spec(number, seed=number, **{"train.batch_size": 8, "train.learning_rate": 2e-2, "lora.r": 4, **settings})


def test_a_closed_set_is_learnt_and_compared_with_the_untuned_model(disk):
    worker, reply = opened(disk, "closed", probe=True)
    untuned = reply.references["untuned"]
    assert untuned.keys() == CLOSED - {"train/loss"}
    reports = run(worker, trial(1), trial(2, **{"lora.r": 12, "lora.dropout": 0.1}))
    assert [report.failures for report in reports] == [{}] * CHUNKS
    final = reports[-1].measurements[1].metrics
    assert final.keys() == CLOSED
    assert final["validation/loss"] < 0.5 * untuned["validation/loss"]
    assert final["validation/accuracy"] > 0.5
    assert reports[-1].adapters.keys() == {1, 2}
    assert reports[0].details[1]["num_parameters"] > 0


def test_a_trial_interrupted_after_any_chunk_continues_bit_for_bit(disk):
    trials = trial(1, **{"lora.dropout": 0.1}), trial(2, **{"lora.r": 12})
    worker, _ = opened(disk, "closed")
    through = run(worker, *trials)
    for chunks in range(1, CHUNKS):
        admissions = [
            Admission(spec=each, chunks_done=chunks, checkpoint=through[chunks - 1].checkpoints[each.number])
            for each in trials
        ]
        # the trials that the worker has from the time before leave as they do after an eviction
        report = worker.answer(ChunkRequest(admit=tuple(admissions), evict=(1, 2)))
        assert report.checkpoints == through[chunks].checkpoints
        assert report.measurements == through[chunks].measurements
    assert report.adapters == through[-1].adapters


@pytest.mark.parametrize("file", ["open", "chats"])
def test_open_completions_and_chats_are_learnt(disk, file):
    worker, reply = opened(disk, file, probe=True)
    metrics = run(worker, trial(1))[-1].measurements[1].metrics
    assert metrics.keys() == (CLOSED if file == "chats" else CLOSED - {"validation/accuracy"})
    assert metrics["validation/loss"] < reply.references["untuned"]["validation/loss"]


def test_the_finished_adapter_gives_in_peft_the_loss_that_was_reported(disk, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    worker, _ = opened(disk, "closed")
    report = run(worker, trial(1))[-1]
    for name, content in report.adapters[1].items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForCausalLM.from_pretrained(disk / "model", attn_implementation="eager")
    with no_peft_deprecation():
        model = PeftModel.from_pretrained(base, tmp_path).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(disk / "model")
    total = num_tokens = 0
    dataset = DatasetSettings(
        name="mine", path=str(disk / "closed.jsonl"), train_rows=96, validation_rows=24, test_rows=24
    )
    for row in prepare_splits(dataset, cache=disk / "cache", completions=True).validation:
        prompt, completion = tokenizer(row["prompt"])["input_ids"], tokenizer(row["completion"])["input_ids"]
        total += nll_alone(model, prompt, [*completion, tokenizer.eos_token_id]).item()
        num_tokens += len(completion) + 1
    assert report.measurements[1].metrics["validation/loss"] == pytest.approx(total / num_tokens, rel=1e-3)


@pytest.mark.parametrize("file", ["closed", "open"])
def test_adapters_score_on_the_validation_rows_exactly_as_at_their_last_rung(disk, file):
    worker, _ = opened(disk, file)
    last = run(worker, trial(1))[-1]
    fresh, _ = opened(disk, file)
    reply = fresh.answer(ScoreAdapters(split="validation", adapters={1: (trial(1), last.adapters[1])}))
    assert {**reply.metrics[1], "train/loss": last.measurements[1].metrics["train/loss"]} == last.measurements[
        1
    ].metrics
    assert reply.outcomes == last.outcomes


def test_bfloat16_trains_too(disk):
    worker, _ = opened(disk, "closed", dtype="bfloat16")
    metrics = run(worker, trial(1))[-1].measurements[1].metrics
    assert metrics["train/loss"] < 2
    assert torch.isfinite(torch.tensor(list(metrics.values()))).all()


def test_an_output_layer_among_the_targets_is_an_error_at_once(disk):
    with pytest.raises(ModelError, match=r"output layer.*model\.target_modules"):
        opened(disk, "closed", target_modules=["lm_head"])

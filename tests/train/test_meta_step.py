"""A chunk never waits for the device: on `meta`, whatever reads a value back raises (see `meta`)."""

from __future__ import annotations

import pytest
import torch

from sweeper.models import padded_attention
from sweeper.models.device_choice import PADDED_SDPA
from sweeper.models.first_token import read_first_token
from sweeper.tasks.causal_lm import Task
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.pack import Pack
from tests.tasks.languages import END, pairs
from tests.train.languages import examples_of
from tests.train.meta import (
    LLAMA_8B,
    META,
    FakeGpu,
    SynchronisedError,
    meta_lanes,
    meta_llama,
    meta_pack,
    meta_rows,
    train_on_meta,
)
from tests.train.tiny import NUM_LABELS, build_model, examples, layers_of, outputs, row_loss, spec, start, token_rows

MIXED_RANKS = (8, 3, 64, 16)
LAYERS = 14
"""Adapted layers of the tiny Llama; BERT has 12."""


def bert_pack():
    padded_attention.register()
    model = build_model("bert").to(META, torch.bfloat16)
    model.set_attn_implementation(PADDED_SDPA)
    read_first_token(model)
    targets, head = layers_of(model)
    return Pack(model, targets=targets, head=head, dtype=torch.bfloat16)


def assert_waited_at_the_end(gpu):
    """Once, when no more was asked for than to copy the vectors of the lanes back."""
    (after,) = gpu.copies_to_host
    assert 0 <= gpu.num_kernels - after <= 3 * 2 * len(MIXED_RANKS) * LAYERS


def test_a_chunk_of_a_language_model_copies_its_losses_to_the_host_and_nothing_else():
    pack = meta_pack()
    gpu = train_on_meta(pack, meta_lanes(pack, MIXED_RANKS), meta_rows(micro_batches=3))
    assert_waited_at_the_end(gpu)


def test_a_chunk_of_a_classifier_copies_its_losses_to_the_host_and_nothing_else():
    pack = bert_pack()
    ids = token_rows(20)
    plan = ChunkPlan.of(len(ids), micro_batch=4, chunks_per_epoch=1, epochs=1)
    labels = [row[0] % NUM_LABELS for row in ids]
    rows = TrainingRows(examples(ids, labels), plan, seed=7, pad_token_id=1, device=META)
    lanes = meta_lanes(pack, MIXED_RANKS)
    with FakeGpu() as gpu:
        pack.train_chunk(lanes, rows, row_loss)
    assert_waited_at_the_end(gpu)


def test_lanes_whose_steps_end_at_different_micro_batches_do_not_wait():
    pack = meta_pack()
    trials = [spec(n, **{"lora.r": 8, "train.batch_size": size}) for n, size in enumerate((4, 8, 16, 8))]
    gpu = train_on_meta(pack, start(pack, trials), meta_rows(micro_batches=3))
    assert_waited_at_the_end(gpu)


@pytest.mark.parametrize("tokens_per_pass", [0, 30])
def test_an_evaluation_copies_its_outputs_to_the_host_once(tokens_per_pass):
    pack, rows = meta_pack(), pairs(10)
    split = EvaluationBatches(examples_of(rows), batch_size=4, pad_token_id=END, device=META)
    assert len(split.batches) > 2
    lanes = meta_lanes(pack, [8, 16])
    with FakeGpu() as gpu:
        pack.predict(lanes, split, Task().outputs, tokens_per_pass=tokens_per_pass)
    assert len(gpu.copies_to_host) == 1


def test_an_evaluation_of_choices_copies_its_outputs_to_the_host_once():
    pack, choices = meta_pack(), ((5, 6), (7,), (8, 9, 2))
    split = EvaluationBatches(examples_of(pairs(10, choices=choices)), batch_size=4, pad_token_id=END, device=META)
    lanes = meta_lanes(pack, [8, 16])
    with FakeGpu() as gpu:
        pack.predict(lanes, split, Task(choices).outputs)
    assert len(gpu.copies_to_host) == 1


def test_an_evaluation_of_a_classifier_copies_its_outputs_to_the_host_once():
    pack = bert_pack()
    split = EvaluationBatches(examples(token_rows(9)), batch_size=4, pad_token_id=1, device=META)
    lanes = meta_lanes(pack, [8, 16])
    with FakeGpu() as gpu:
        pack.predict(lanes, split, outputs)
    assert len(gpu.copies_to_host) == 1


def test_a_chunk_of_an_8b_model_does_not_wait():
    pack = meta_pack(meta_llama(**{**LLAMA_8B, "num_hidden_layers": 2}))
    gpu = train_on_meta(pack, meta_lanes(pack, [16] * 4), meta_rows(micro_batch=8, length=512, completion=256))
    assert_waited_at_the_end(gpu)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.nonzero(),
        lambda x: int(x.max()),
        lambda x: bool((x == 1).all()),
        lambda x: x[x > 0],
        lambda x: x + torch.ones(3).to(META),
        lambda x: x.index_select(0, torch.tensor([0, 1], device=META)),
    ],
    ids=["nonzero", "int", "all", "mask", "copy", "list"],
)
def test_every_way_to_wait_is_noticed(reads):
    with FakeGpu(), pytest.raises(SynchronisedError):
        reads(torch.zeros(3, device=META))


def test_transformers_own_attention_waits():
    """Why there is a kernel of ours: should this fail, `padded_attention` can go."""
    model = meta_llama()
    model.set_attn_implementation("sdpa")
    pack = meta_pack(model)
    with pytest.raises(SynchronisedError):
        train_on_meta(pack, meta_lanes(pack, [8]), meta_rows())

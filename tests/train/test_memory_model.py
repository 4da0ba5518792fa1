"""The memory model (`sweeper.figures.memory`) against the tensors that real steps keep, for every architecture."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sweeper.figures.memory import activation_bytes_per_token, lane_bytes
from sweeper.figures.model_shapes import bucket_rank
from sweeper.models.device_choice import SHORT
from sweeper.models.first_token import read_first_token
from sweeper.models.shapes import adapted_layers, shapes_of
from sweeper.models.short_attention import register
from sweeper.models.targets import TARGETS, targets_for
from sweeper.tasks import make_task
from sweeper.tasks.base import Batch
from sweeper.train.bucket import Bucket
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, _groups
from tests.models.configs import small_config
from tests.train.live_bytes import LiveBytes
from tests.train.tiny import spec

CLASSIFICATION, LANGUAGE = "text_classification", "causal_lm"
HEADS = ("classifier", "score")
LANES, ROWS, RANK = 2, 8, 8
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(model_type, task, dtype, attention, **changes):
    """Return a pack on a small model, and the shapes that were read from the model."""
    register()
    auto = AutoModelForCausalLM if task == LANGUAGE else AutoModelForSequenceClassification
    config = small_config(model_type, **changes)
    model = auto.from_config(config, dtype=TYPES[dtype], attn_implementation=attention).eval()
    model.requires_grad_(requires_grad=False)
    kind = "causal_lm" if task == LANGUAGE else "sequence_classification"
    heads = [name for name, _ in model.named_children() if name in HEADS]
    targets, head = adapted_layers(model, targets_for(model_type, ()), heads)
    shapes = shapes_of(auto.from_config(config), target_modules=(), head_modules=heads, kind=kind)
    if task == CLASSIFICATION:
        read_first_token(model)
    return Pack(model, targets=targets, head=head, dtype=TYPES[dtype]), shapes


def saved_bytes(pack, task, *, length, dropout=0.0):
    """Return what the forward pass keeps, per token, and the peak of the step in bytes."""
    lanes = [
        Lane.start(spec(n, **{"lora.r": RANK, "lora.dropout": dropout}), pack.shape, pack.device) for n in range(LANES)
    ]
    plan = ChunkPlan.of(ROWS, micro_batch=ROWS, chunks_per_epoch=1, epochs=1)
    num_rows = LANES * ROWS
    ids = torch.randint(3, 100, (num_rows, length))
    targets = torch.zeros(num_rows, dtype=torch.int64)
    if task == LANGUAGE:
        targets = torch.stack([targets + length // 2, targets], 1)
    with pack._attached([Bucket(lanes, pack.shape, pack.dtype, plan)], training=True):
        pack._state.dropout = pack._dropout(lanes, "dropout", [dropout] * LANES)
        with LiveBytes() as live:
            loss = make_task(task).row_loss(pack._model, Batch(ids, torch.ones_like(ids), targets)).sum()
            saved = live.now
            loss.backward()
    return saved / ids.numel(), live.peak


def check(model_type, task, dtype, attention, *, length, dropout=0.0, within=0.03, **changes):
    pack, shapes = build(model_type, task, dtype, attention, **changes)
    measured, _ = saved_bytes(pack, task, length=length, dropout=dropout)
    predicted = activation_bytes_per_token(
        shapes, dtype, length=length, attention=attention, rank=RANK, has_dropout=dropout > 0
    )
    assert predicted == pytest.approx(measured, rel=within)


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_saved_bytes_of_a_classifier(model_type):
    check(model_type, CLASSIFICATION, "float32", "eager", length=40)


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_saved_bytes_with_dropout(model_type):
    check(model_type, CLASSIFICATION, "float32", "eager", length=40, dropout=0.1)


@pytest.mark.parametrize("length", [27, 40])
@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama", "qwen3", "gpt2"])
def test_saved_bytes_with_the_kernel_for_short_rows(model_type, length):
    check(model_type, CLASSIFICATION, "bfloat16", SHORT, length=length)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_saved_bytes_of_a_language_model(model_type, attention):
    check(model_type, LANGUAGE, "bfloat16", attention, length=40)


def test_saved_bytes_grow_with_blocks_and_lengths_as_predicted():
    check("llama", LANGUAGE, "bfloat16", SHORT, length=70, num_hidden_layers=8, within=0.02)
    check("bert", CLASSIFICATION, "float32", "eager", length=90, num_hidden_layers=7, within=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [(8, 8), (5, 16, 32)])
def test_the_state_of_lanes_is_what_a_chunk_keeps(dtype, ranks):
    pack, shapes = build("bert", CLASSIFICATION, dtype, "eager")
    plan = ChunkPlan.of(ROWS, micro_batch=ROWS, chunks_per_epoch=1, epochs=1)
    with LiveBytes() as live:
        lanes = [Lane.start(spec(n, **{"lora.r": rank}), pack.shape, pack.device) for n, rank in enumerate(ranks)]
        resident = live.now
        buckets = [Bucket(group, pack.shape, pack.dtype, plan) for group in _groups(lanes)]
        for bucket in buckets:
            bucket.refresh(training=True)
        training = live.now
        updated = [bucket.updated() for bucket in buckets]
        peak = live.now
    need = [lane_bytes(shapes, rank, dtype) for rank in ranks]
    assert len(updated) == len(buckets)
    assert resident == sum(lane.resident for lane in need)
    assert peak - training == sum(lane.updating for lane in need)
    # Beside the lanes' copies, each bucket has one mask of the values that decay.
    masks = sum(4 * shapes.trainable(bucket_rank(bucket.lanes[0].layout.rank)) for bucket in buckets)
    assert training - resident == pytest.approx(sum(lane.training for lane in need) + masks, rel=0.001)


def test_a_lane_needs_42_bytes_a_parameter_in_bfloat16():
    _, shapes = build("bert", CLASSIFICATION, "bfloat16", "eager")
    assert lane_bytes(shapes, 8, "bfloat16").peak == 42 * shapes.trainable(8)


@pytest.mark.parametrize("model_type", sorted(TARGETS))
@pytest.mark.parametrize("rank", [1, 8, 13])
def test_trainable_parameters_are_those_of_the_pack(model_type, rank):
    pack, shapes = build(model_type, CLASSIFICATION, "float32", "eager")
    lane = Lane.start(spec(0, **{"lora.r": rank}), pack.shape, pack.device)
    assert shapes.trainable(rank) == pack.shape.with_rank(rank).size == lane.parameters.numel()
    assert shapes.lora == pack.shape.lora
    assert shapes.head == pack.shape.head

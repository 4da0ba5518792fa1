"""The memory model (`sweeper.figures.memory`) against the tensors that real steps keep, for every architecture."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sweeper.figures.memory import (
    COMPILED_PRODUCT_BYTES,
    PackLoad,
    activation_bytes_per_token,
    compiled_products,
    lane_bytes,
    memory_need,
)
from sweeper.models.checkpointing import checkpoint_blocks
from sweeper.models.device_choice import PADDED_SDPA, SHORT
from sweeper.models.first_token import read_first_token
from sweeper.models.padded_attention import register as register_padded
from sweeper.models.shapes import adapted_layers, shapes_of
from sweeper.models.short_attention import register as register_short
from sweeper.models.targets import TARGETS, targets_for
from sweeper.tasks import make_task
from sweeper.tasks.base import Batch, flat_indices
from sweeper.train.bucket import Bucket
from sweeper.train.chunks import ChunkPlan
from sweeper.train.dropout import DeviceDropout, HostDropout
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, sort_lanes
from sweeper.train.pack_load import cached_products
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


def build(model_type, task, dtype, attention, *, checkpointing=False, base_dropout=0.0, **changes):
    """Return a pack on a small model, and the shapes that were read from the model."""
    register_short()
    register_padded()
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
    if checkpointing:
        checkpoint_blocks(model)
    return Pack(model, targets=targets, head=head, dtype=TYPES[dtype], base_dropout=base_dropout), shapes


def measure(pack, task, *, length, dropout=0.0, device="cpu"):
    """Return what the forward pass keeps, per token, and the peak of the pass in bytes.

    With device="cuda", the masks are those of a GPU; its kernels have a reference on the CPU.
    """
    lanes = [
        Lane.start(spec(n, **{"lora.r": RANK, "lora.dropout": dropout}), pack.shape, pack.device) for n in range(LANES)
    ]
    plan = ChunkPlan.of(ROWS, micro_batch=ROWS, chunks_per_epoch=1, epochs=1)
    batch = some_batch(task, LANES * ROWS, length)
    with pack._attached([Bucket(lanes, pack.shape, pack.dtype, pack.device, plan)], training=True):
        kind = HostDropout if device == "cpu" else DeviceDropout
        if dropout:
            pack._state.dropout = kind([dropout] * LANES, list(range(LANES)), pack.device)
        if pack._base_dropout:
            pack._state.base_dropout = kind([pack._base_dropout] * LANES, list(range(LANES)), pack.device)
        with LiveBytes() as live:
            loss = make_task(task).row_loss(pack._model, batch).sum()
            saved = live.now
            loss.backward()
    return saved / batch.ids.numel(), live.peak


def some_batch(task, num_rows, length):
    """Return rows of random tokens; a language model learns the second half."""
    ids = torch.randint(3, 100, (num_rows, length))
    targets = torch.zeros(num_rows, dtype=torch.int64)
    spans, predicted = (), None
    if task == LANGUAGE:
        targets = torch.stack([targets + length // 2, targets], 1)
        spans = [[(length // 2, length)]] * num_rows
        predicted = flat_indices(spans, length)
    return Batch(ids, torch.ones_like(ids), targets, predicted, spans)


def check(
    model_type,
    task,
    dtype,
    attention,
    *,
    length,
    dropout=0.0,
    base_dropout=0.0,
    within=0.03,
    device="cpu",
    **changes,
):
    pack, shapes = build(model_type, task, dtype, attention, base_dropout=base_dropout, **changes)
    measured, _ = measure(pack, task, length=length, dropout=dropout, device=device)
    predicted = activation_bytes_per_token(
        shapes,
        dtype,
        device=device,
        length=length,
        attention=attention,
        rank=RANK,
        has_dropout=dropout > 0,
        has_base_dropout=base_dropout > 0,
    )
    assert predicted == pytest.approx(measured, rel=within)


@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_saved_bytes_of_a_classifier(model_type):
    check(model_type, CLASSIFICATION, "float32", "eager", length=40)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("model_type", sorted(TARGETS))
def test_saved_bytes_with_dropout(model_type, device):
    check(model_type, CLASSIFICATION, "float32", "eager", length=40, dropout=0.1, device=device)


WITH_DROPOUT_LAYERS = (
    *("bert", "camembert", "deberta-v2", "distilbert", "electra", "gpt2", "gpt_neox", "modernbert", "mpnet"),
    *("phi", "phi3", "roberta", "xlm-roberta"),
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("model_type", WITH_DROPOUT_LAYERS)
def test_saved_bytes_with_dropout_in_the_base_model(model_type, device):
    check(model_type, CLASSIFICATION, "float32", "eager", length=40, base_dropout=0.1, device=device)


def test_saved_bytes_with_both_kinds_of_dropout():
    check("bert", CLASSIFICATION, "bfloat16", SHORT, length=40, dropout=0.1, base_dropout=0.1)


@pytest.mark.parametrize("length", [27, 40])
@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama", "qwen3", "gpt2"])
def test_saved_bytes_with_the_kernel_for_short_rows(model_type, length):
    check(model_type, CLASSIFICATION, "bfloat16", SHORT, length=length)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("attention", ["sdpa", PADDED_SDPA, "eager"])
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
        host = live.now
        buckets = [Bucket(group, pack.shape, pack.dtype, pack.device, plan) for group in pack._groups(lanes)]
        training = live.now - host
        del buckets
        assert live.now == host
        buckets = [Bucket(group, pack.shape, pack.dtype, pack.device) for group in pack._groups(lanes)]
        scoring = live.now - host
        assert len(buckets) == len(set(ranks))
    need = [lane_bytes(shapes, rank, dtype) for rank in ranks]
    assert host == sum(lane.host for lane in need)
    # Beside the lanes' copies, a bucket has a scale for each lane, and marks the values of the head that decay.
    assert training == pytest.approx(sum(lane.training for lane in need), rel=0.002)
    assert scoring == pytest.approx(sum(lane.scoring for lane in need), rel=0.002)


@pytest.mark.parametrize(("dtype", "multiplied"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_a_value_takes_12_bytes_on_the_host_and_20_on_the_device(dtype, multiplied):
    _, shapes = build("llama", LANGUAGE, "float32", "eager")
    need, size = lane_bytes(shapes, 8, dtype), shapes.trainable(8)
    assert (need.host, need.training, need.scoring) == (12 * size, 20 * size, multiplied * size)
    assert need.total == 32 * size


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama", "qwen3"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_checkpointed_pass_keeps_the_inputs_of_its_blocks_and_one_block(model_type, dropout):
    task = CLASSIFICATION if model_type in {"bert", "modernbert"} else LANGUAGE
    uses = {"length": 40, "dropout": dropout}
    pack, shapes = build(model_type, task, "bfloat16", "eager", checkpointing=True, num_hidden_layers=8)
    kept, peak = measure(pack, task, **uses)
    load = PackLoad(
        device="cpu",
        dtype="bfloat16",
        attention="eager",
        ranks=(RANK,) * LANES,
        passes=((ROWS, 40),),
        has_dropout=dropout > 0,
        checkpointing=True,
    )
    need, inputs = memory_need(shapes, load), 8 * 2 * shapes.width
    # Beside the inputs: what follows the last block, and the gradient of the loss.
    assert inputs <= kept < inputs + 8 * shapes.width
    assert need.activations + need.logits == pytest.approx(peak, rel=0.1)
    whole = memory_need(shapes, dataclasses.replace(load, checkpointing=False))
    assert whole.activations > 3 * need.activations


@pytest.mark.parametrize("model_type", sorted(TARGETS))
@pytest.mark.parametrize("rank", [1, 8, 13])
def test_trainable_parameters_are_those_of_the_pack(model_type, rank):
    pack, shapes = build(model_type, CLASSIFICATION, "float32", "eager")
    lane = Lane.start(spec(0, **{"lora.r": rank}), pack.shape, pack.device)
    assert shapes.trainable(rank) == pack.shape.with_rank(rank).size == lane.parameters.numel()
    assert shapes.lora == pack.shape.lora
    assert shapes.head == pack.shape.head


PACKED = {"device": "cpu", "dtype": "bfloat16", "attention": SHORT, "cached_products": 1024}


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN does not multiply bfloat16 here")
@pytest.mark.parametrize("ranks", [(8, 8), (8, 16), (8, 16, 32)])
@pytest.mark.parametrize("task", [LANGUAGE, CLASSIFICATION])
def test_products_that_onednn_compiles_are_counted(task, ranks, capfd):
    # Widths that are not those of other tests, whose products this process may have compiled.
    width = 144 + 16 * len(ranks) + 32 * (ranks[1] // 16) + (8 if task == LANGUAGE else 0)
    sizes = {"hidden_size": width * 2, "intermediate_size": width * 4 + 16}
    pack, shapes = build("llama" if task == LANGUAGE else "bert", task, "bfloat16", SHORT, **sizes)
    lanes = sort_lanes(Lane.start(spec(n, **{"lora.r": rank}), pack.shape, pack.device) for n, rank in enumerate(ranks))
    plan, lengths = ChunkPlan.of(4, micro_batch=4, chunks_per_epoch=1, epochs=1), (37, 41, 43)
    capfd.readouterr()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
        for length in lengths:
            buckets = [Bucket(group, pack.shape, pack.dtype, pack.device, plan) for group in pack._groups(lanes)]
            with pack._attached(buckets, training=True):
                make_task(task).row_loss(pack._model, some_batch(task, 4 * len(lanes), length)).sum().backward()
    lines = capfd.readouterr().out.splitlines()
    compiled = [line for line in lines if "create:cache_miss" in line and ("matmul" in line or "inner_product" in line)]
    load = PackLoad(**PACKED, ranks=ranks, passes=tuple((4, length) for length in lengths), changes=False)
    assert compiled_products(shapes, load) == pytest.approx(len(compiled), rel=0.15)
    assert memory_need(shapes, load).kernels == COMPILED_PRODUCT_BYTES * compiled_products(shapes, load)


def test_a_sweep_compiles_products_until_the_cache_is_full():
    _, shapes = build("llama", LANGUAGE, "bfloat16", SHORT)
    one = PackLoad(**PACKED, ranks=(16, 16), passes=((4, 30),), evaluated=((9, 30),))
    same, more = dataclasses.replace(one, changes=False), dataclasses.replace(one, passes=((4, 30), (4, 40)))
    assert 0 < compiled_products(shapes, same) < compiled_products(shapes, one) < compiled_products(shapes, more)
    # Lanes of ranks 8 and 16, one or two of each: four shapes of each adapter product instead of one.
    assert compiled_products(shapes, one) < 4 * compiled_products(shapes, same)
    full = dataclasses.replace(more, cached_products=100)
    assert compiled_products(shapes, full) == 100
    assert memory_need(shapes, full).kernels == 100 * COMPILED_PRODUCT_BYTES


def test_fragments_grow_with_a_chunks_tensors_and_with_compiled_products():
    _, shapes = build("llama", LANGUAGE, "bfloat16", SHORT)
    load = PackLoad(**PACKED, ranks=(16, 16), passes=((4, 30),))
    need = memory_need(shapes, load)
    host = 2 * lane_bytes(shapes, 16, "bfloat16").host  # is there before and after
    tensors = need.lanes - host + need.activations + need.logits
    assert need.fragments == pytest.approx(0.4 * tensors + 0.15 * need.kernels, abs=1)
    assert need.total == need.base + need.lanes + need.activations + need.logits + need.kernels + need.fragments


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"device": "cuda"}])
def test_products_in_float32_and_on_a_gpu_are_not_compiled_by_onednn(changes):
    _, shapes = build("llama", LANGUAGE, "float32", SHORT)
    load = PackLoad(**{**PACKED, **changes}, ranks=(8,), passes=((4, 30),), evaluated=((9, 30),))
    need = memory_need(shapes, load)
    assert need.kernels == need.fragments == 0


@pytest.mark.parametrize(("environment", "capacity"), [({}, 1024), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "384"}, 384)])
def test_the_environment_says_how_many_products_are_cached(environment, capacity):
    assert cached_products(environment) == capacity

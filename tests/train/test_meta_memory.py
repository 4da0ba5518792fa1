"""Peak memory of a step of an 8B model, counted on `meta` (see `meta`), against bounds computed by hand.

One more layer costs the same as the one before it, so two small models give the peak of the whole one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from sweeper.figures.memory import PackLoad, memory_need
from sweeper.models.checkpointing import checkpoint_blocks
from sweeper.models.device_choice import PADDED_SDPA
from sweeper.models.shapes import read_shapes
from sweeper.tasks import make_task
from tests.train.meta import LLAMA_8B, meta_lanes, meta_llama, meta_pack, meta_rows, train_on_meta

GB = 10**9
LAYERS = LLAMA_8B["num_hidden_layers"]
WIDTH, INNER, KEYS, VOCABULARY = 4096, 14336, 1024, 128256
BASE = 2 * (
    LAYERS * (WIDTH * (WIDTH + 2 * KEYS) + WIDTH**2 + 3 * WIDTH * INNER + 2 * WIDTH) + 2 * VOCABULARY * WIDTH + WIDTH
)
"""Bytes of the frozen weights in bfloat16."""
PER_RANK = 2 * WIDTH + 2 * (WIDTH + KEYS) + 2 * WIDTH + 3 * (WIDTH + INNER)
"""Values of a layer's adapters for each rank: inputs plus outputs of its seven targets."""
LANE_VALUE = 4 * 4 + 2 * 2
"""Bytes of a value in a pack: parameter, moments and gradient in float32; in bfloat16, its copy and gradient."""
STATE = 2 * WIDTH
"""Bytes of a token between two layers."""
KEPT = 269_000
"""Most bytes that a layer keeps of a token for its backward pass without checkpointing: 8.6 MB in all layers."""
LENGTH = 512
SHAPES = Path(__file__).parents[1] / "models" / "llama3_8b"


def peak_of(layers, *, lanes, rank, rows, is_checkpointed, dropout=0.1):
    model = meta_llama(**{**LLAMA_8B, "num_hidden_layers": layers})
    if is_checkpointed:
        checkpoint_blocks(model)
    pack = meta_pack(model)
    data = meta_rows(micro_batch=rows, length=LENGTH, completion=LENGTH - 8)
    return train_on_meta(pack, meta_lanes(pack, [rank] * lanes, **{"lora.dropout": dropout}), data).peak_bytes


@cache
def peak_of_8b(**pack):
    """Return the peak of all tensors that a chunk makes, and its growth by a layer."""
    two, three = peak_of(2, **pack), peak_of(3, **pack)
    return two + (LAYERS - 2) * (three - two), three - two


def bound(lanes, rank, rows, *, is_checkpointed):
    tokens = lanes * rows * LENGTH
    kept = LAYERS * STATE + KEPT if is_checkpointed else LAYERS * KEPT
    # A layer's gradients while the next are computed, the states and gradients of the loss, and a block of logits.
    passing = tokens * (2 * INNER * 2 * 3 + 8 * STATE) + 4 * 256 * VOCABULARY * 4
    return tokens * kept + passing + lanes * rank * PER_RANK * LAYERS * LANE_VALUE


PACKS = [(4, 16, 8), (8, 16, 4), (2, 64, 4)]
"""Lanes, rank, and rows of 512 tokens in a pass: 16,384 tokens twice, and 4,096."""


@pytest.mark.parametrize(("lanes", "rank", "rows"), PACKS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_step_of_8b_needs_no_more_memory_than_computed_by_hand(lanes, rank, rows, is_checkpointed):
    peak, _ = peak_of_8b(lanes=lanes, rank=rank, rows=rows, is_checkpointed=is_checkpointed)
    most = bound(lanes, rank, rows, is_checkpointed=is_checkpointed)
    assert most / 2 < peak <= most


def predicted_for_8b(*, lanes, rank, rows, is_checkpointed, quantization="none"):
    """Return the sizes of Llama-3-8B, and what the memory model predicts for a pack."""
    shapes = read_shapes(
        SHAPES, kind="causal_lm", num_labels=0, target_modules=(), head_modules=make_task("causal_lm").head_modules
    )
    load = PackLoad(
        device="cuda",
        dtype="bfloat16",
        quantization=quantization,
        attention=PADDED_SDPA,
        ranks=(rank,) * lanes,
        passes=((rows, LENGTH),),
        has_dropout=True,
        checkpointing=is_checkpointed,
    )
    return shapes, memory_need(shapes, load)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize(("lanes", "rank", "rows"), PACKS)
def test_the_memory_model_predicts_the_peak_of_8b(lanes, rank, rows, is_checkpointed):
    _, need = predicted_for_8b(lanes=lanes, rank=rank, rows=rows, is_checkpointed=is_checkpointed)
    assert need.base == BASE
    peak, _ = peak_of_8b(lanes=lanes, rank=rank, rows=rows, is_checkpointed=is_checkpointed)
    assert need.total - need.base == pytest.approx(peak, rel=0.03)


def test_a_checkpointed_layer_keeps_its_input_only():
    _, growth = peak_of_8b(lanes=4, rank=16, rows=8, is_checkpointed=True)
    adapters = 4 * 16 * PER_RANK * LANE_VALUE
    assert growth == pytest.approx(4 * 8 * LENGTH * STATE + adapters, rel=0.01)


def test_four_lanes_of_rank_16_train_8b_at_16k_tokens_a_pass_in_80_gb():
    assert pytest.approx(16.06 * GB, rel=0.001) == BASE
    peak, _ = peak_of_8b(lanes=4, rank=16, rows=8, is_checkpointed=True)
    lanes = 4 * 16 * PER_RANK * LAYERS * 3 * 4  # the lanes' own vectors, which the chunk copies
    assert BASE + lanes + peak < 40 * GB < 80 * GB
    without, _ = peak_of_8b(lanes=4, rank=16, rows=8, is_checkpointed=False)
    assert BASE + lanes + without > 80 * GB


@pytest.mark.slow
def test_the_peak_of_all_layers_is_that_computed_from_two_small_models():
    pack = {"lanes": 2, "rank": 16, "rows": 4, "is_checkpointed": True}
    assert peak_of(LAYERS, **pack) == pytest.approx(peak_of_8b(**pack)[0], rel=0.01)

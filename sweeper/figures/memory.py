"""How much memory a pack needs: base model, state of the lanes, activations, logits. Pure arithmetic, no torch.

The terms are those of the engine (`sweeper.train`) with the layers of transformers; tests/train/test_memory_model.py
compares them with the tensors that a real step keeps, for every architecture, and benchmarks/plan_memory.py with the
peak of whole chunks. Whoever changes what a step keeps changes the constants here.

"Saved" is what the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.figures.model_shapes import FUSED_MODELS, ModelShapes, bucket_rank, trainable_parameters
from sweeper.figures.passes import equal_parts, scored_parts

__all__ = [
    "BASE_TYPES",
    "COMPILED_PRODUCT_BYTES",
    "PARAMETER_BYTES",
    "POSITIONS_OF_LOGITS",
    "PRODUCT_CACHE",
    "QUANTIZATIONS",
    "TRAINING_BYTES",
    "LaneBytes",
    "MemoryNeed",
    "PackLoad",
    "activation_bytes_per_token",
    "base_bytes",
    "checkpoint_bytes",
    "compiled_products",
    "lane_bytes",
    "largest_pass",
    "memory_need",
]

BASE_TYPES = ("float32", "bfloat16", "float16")
"""Number types that a base model computes in, and holds its weights in unless they are quantised."""
QUANTIZATIONS = ("int8", "nf4")
"""Ways to hold the weights of the blocks in fewer bits."""
POSITIONS_OF_LOGITS = 256
"""Positions whose logits are in memory at once: 50 MB in float32 for a vocabulary of 49,152."""
COMPILED_PRODUCT_BYTES = 620_000
"""What oneDNN keeps of a product in two bytes that it has compiled on a CPU, whatever its shape (530 to 670 kB were
measured), most of it descriptions of its parts. A product in float32 is MKL's, which compiles nothing."""
PRODUCT_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""The environment variable that says how many of them oneDNN keeps."""
PARAMETER_BYTES = 4
"""Bytes of an adapter file per trainable parameter."""

_FLOAT32 = 4
_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a value, by type of the base model."""
_NF4_BLOCK, _NF4_BLOCKS = 64, 256
"""A block of NF4 weights shares a constant of 8 bits, and this many constants share one of 32 bits (double
quantisation; Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
_OWN_BYTES = 12
"""A lane's parameters and moments, float32, in the memory of the host."""
TRAINING_BYTES = 20
"""On the device for a chunk: copies of these and the gradient in float32, and the copy that is multiplied; if that has
two bytes, its gradient of one pass has the other two."""
_FUSED = ("sdpa", "sweeper_sdpa")
"""Attention kernels that keep no weights of the keys."""
_LOGIT_BYTES = 8
"""Of a logit: its float32 value, and the one that is exponentiated for the sum."""
_FRAGMENTS_OF_TENSORS, _FRAGMENTS_OF_PRODUCTS = 0.4, 0.15
"""Freed memory that cannot be used again, as shares of a chunk's tensors and of the compiled products. These stay where
they were compiled, between the tensors of a pass, so that larger ones of later passes do not fit there. Fitted to short
sweeps of two models (docs/plan.md)."""
_PRODUCTS_OF_ADAPTER = 5
"""Products of an adapted layer's A and B that are compiled: two forward, of which one serves layers that are multiplied
as one, and four backward, of which one has a shape of the forward pass. Beside them, the frozen weight has one each."""
_PRODUCTS_OF_ATTENTION = 2
"""Products of attention in a forward pass that are not part of a fused kernel; a backward pass adds as many."""
_KEYS_MULTIPLE, _LONGEST_SHORT = 16, 32
"""As in `sweeper.models.short_attention`."""


@dataclass(frozen=True, slots=True)
class LaneBytes:
    """State of one lane."""

    host: int
    """In the memory of the host at any time, at the lane's own rank."""
    training: int
    """On the device during a chunk, at the padded rank."""
    scoring: int
    """On the device while the lane is scored, at the padded rank: what is multiplied."""

    @property
    def total(self) -> int:
        """During a chunk, on host and device together."""
        return self.host + self.training


@dataclass(frozen=True, kw_only=True, slots=True)
class PackLoad:
    """What a worker trains at once."""

    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    """Type of the base model, one of `BASE_TYPES`."""
    quantization: str = "none"
    """``none`` or one of `QUANTIZATIONS`."""
    attention: str
    """Attention kernel: ``eager``, ``sdpa``, ``sweeper_sdpa`` or ``sweeper_short``."""
    ranks: Sequence[int]
    """Rank of each lane."""
    passes: Sequence[tuple[int, int]]
    """Rows of a lane in a pass, and the tokens that they are padded to, before the budget divides them."""
    evaluated: Sequence[tuple[int, int]] = ()
    """The same of the batches that score a lane."""
    tokens_per_pass: int = 0
    """Most tokens of a pass over all lanes, which divides longer ones; 0 for no limit."""
    has_dropout: bool = False
    """Whether a lane drops inputs of its adapter: what is kept for that then covers all lanes."""
    has_base_dropout: bool = False
    """Whether the base model drops hidden states in training, ``model.dropout``."""
    checkpointing: bool = False
    """Whether the blocks are computed again in the backward pass (gradient checkpointing)."""
    is_reordered: bool = False
    """Whether two more copies of the adapted weights are kept in oneDNN's order (`sweeper.models.linear`)."""
    cached_products: int = 0
    """Most compiled products that oneDNN keeps on a CPU."""
    changes: bool = True
    """Whether the worker also trains packs of fewer lanes and lower ranks, whose products are compiled, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes on the device of a worker at the peak."""

    base: int
    """Frozen weights, with copies of them, such as the one of a quantised weight that is multiplied."""
    lanes: int
    """State of all lanes at the peak; without what the host keeps, unless it is the device."""
    activations: int
    """What is saved for the backward pass, or passes through the widest layer in an evaluation."""
    logits: int
    """Of the loss, or temporary tensors of the backward pass if these are larger."""
    kernels: int = 0
    """Of the products that oneDNN has compiled on a CPU."""
    fragments: int = 0
    """Freed memory between these products, too small to be used again."""
    stage: str
    """When the peak is reached: ``training`` or ``evaluation``."""

    @property
    def total(self) -> int:
        """The sum."""
        return self.base + self.lanes + self.activations + self.logits + self.kernels + self.fragments


def base_bytes(shapes: ModelShapes, dtype: str, *, quantization: str = "none", is_reordered: bool = False) -> int:
    """Return the size of the frozen model.

    A quantisation is one of the linear layers of the blocks, with the constants of bitsandbytes: one float32 for each
    output of a layer, or those of double quantisation.

    Args:
        shapes: The model.
        dtype: One of `BASE_TYPES`.
        quantization: ``none`` or one of `QUANTIZATIONS`.
        is_reordered: Whether two more copies of the adapted weights are kept.
    """
    rest = _SIZES[dtype] * (shapes.parameters - shapes.quantisable)
    if quantization == "int8":
        return rest + shapes.quantisable + _FLOAT32 * shapes.quantisable_rows
    if quantization == "nf4":
        constants = shapes.quantisable / _NF4_BLOCK * (1 + _FLOAT32 / _NF4_BLOCKS)
        return rest + round(shapes.quantisable / 2 + constants)
    adapted = sum(shape.num_in * shape.num_out for shape in shapes.lora)
    return _SIZES[dtype] * (shapes.parameters + (2 * adapted if is_reordered else 0))


def checkpoint_bytes(parameters: int, moments: str) -> int:
    """Return the size of a checkpoint: float32 values, and both moments of AdamW.

    Args:
        parameters: Trainable parameters.
        moments: Type of the moments, ``store.checkpoint_moments``.
    """
    return (PARAMETER_BYTES + 2 * _SIZES[moments]) * parameters


def lane_bytes(shapes: ModelShapes, rank: int, dtype: str) -> LaneBytes:
    """Return the state of a lane.

    Args:
        shapes: The model.
        rank: Rank of the adapter.
        dtype: Type of the base model.
    """
    padded = bucket_rank(rank)
    adapters, head = trainable_parameters(shapes.lora, (), padded), trainable_parameters((), shapes.head, padded)
    multiplied = _SIZES[dtype] * adapters + _FLOAT32 * head  # a head is computed in float32
    return LaneBytes(
        host=_OWN_BYTES * shapes.trainable(rank),
        training=TRAINING_BYTES * (adapters + head),
        scoring=multiplied,
    )


def activation_bytes_per_token(
    shapes: ModelShapes,
    dtype: str,
    *,
    device: str,
    length: int,
    attention: str,
    rank: int,
    has_dropout: bool = False,
    has_base_dropout: bool = False,
    checkpointing: bool = False,
    is_fused: bool = False,
) -> float:
    """Return the bytes that are saved per token of a pass, padding included.

    Args:
        shapes: The model.
        dtype: Type of the base model.
        device: ``cpu`` or ``cuda``.
        length: Tokens that rows are padded to.
        attention: Attention kernel.
        rank: Mean padded rank of the lanes.
        has_dropout: Whether a lane drops inputs of its adapter.
        has_base_dropout: Whether the base model drops hidden states.
        checkpointing: Whether the blocks are computed again in the backward pass; one block is then saved at a time.
        is_fused: Whether rotary embeddings and gates are one kernel each (`sweeper.models.fused`).
    """
    size = _SIZES[dtype]
    # A CPU keeps the mask of a dropped input, which is as wide as the input; a GPU computes it again.
    copies = 0 if not has_dropout else 2 if device == "cpu" else 1
    block = _block_bytes(shapes, size, length=length, attention=attention, rank=rank, copies=copies, is_fused=is_fused)
    # For the base model's own dropout, a CPU keeps masks, too. What is dropped is added to the residual stream at once.
    block += size * shapes.block.dropped if has_base_dropout and device == "cpu" else 0
    after = _bytes_after_blocks(shapes, size)
    if checkpointing:
        # A last block that reads the first token only is small, and its input is free when the others run again.
        return (shapes.num_layers - shapes.reads_first_token) * size * shapes.width + block + after
    if shapes.reads_first_token:
        # The last block needs keys and values of all tokens, and everything else of the first token only.
        last = size * (shapes.width * max(1, copies) + 2 * shapes.block.key)
        return (shapes.num_layers - 1) * block + last
    # The first block's input needs no gradient, so its first normalisation saves nothing.
    first = (_FLOAT32 if shapes.block.has_rms_norm else size) * shapes.width if shapes.has_pre_norm else 0
    return shapes.num_layers * block - first + after


def _bytes_after_blocks(shapes: ModelShapes, size: int) -> int:
    """Return what is saved per token by the last normalisation and by a head that reads every token in float32."""
    after = (_FLOAT32 if shapes.block.has_rms_norm else size) * shapes.width if not shapes.reads_first_token else 0
    return after + (_FLOAT32 * shapes.width if shapes.head_reads_tokens and size < _FLOAT32 else 0)


def _block_bytes(
    shapes: ModelShapes, size: int, *, length: int, attention: str, rank: int, copies: int, is_fused: bool
) -> float:
    block = shapes.block
    inputs = block.inputs
    activation = block.activation
    if copies:  # of each input, after dropout and its mask
        inputs, activation = copies * block.dropped_inputs, activation + block.dropped_activation
    if is_fused:
        activation -= block.inner  # the gate is computed again instead of being kept
    norm = (_FLOAT32 if block.has_rms_norm else size) * block.norm
    if block.normalises_queries and size == _FLOAT32:
        norm += size * block.key  # not a copy in float32, but a view of an output that has the values as well
    attended = _attention_bytes(shapes, size, length=length, attention=attention, is_fused=is_fused)
    return size * (inputs + activation + block.adapted * rank) + norm + attended


def _attention_bytes(shapes: ModelShapes, size: int, *, length: int, attention: str, is_fused: bool) -> float:
    """Return what attention saves per token: queries, keys and values, and the weights of all keys unless fused."""
    block = shapes.block
    keys = -(-length // _KEYS_MULTIPLE) * _KEYS_MULTIPLE
    if attention == "sweeper_short" and keys <= _LONGEST_SHORT:
        padding = keys / length
        return size * block.query * (1 + 2 * padding) + (_FLOAT32 + size) * block.heads * keys
    values = 3 * block.query  # keys and values are repeated for the heads that share them
    if attention in _FUSED:
        if is_fused:
            # Keys and values are not repeated for the heads that share them (counted on the meta device).
            values = block.query + 3 * block.key
        elif block.has_rotary:
            # Values that are not copied for the kernel keep the whole output of which they are a view.
            values = max(values, 2 * block.query + 3 * block.key)
        return size * values + _FLOAT32 * block.heads
    # The kernel of transformers computes a decoder's softmax in float32, and keeps it beside its rounded copy.
    is_rounded = size < _FLOAT32 and attention == "eager" and shapes.has_pre_norm
    weights = _FLOAT32 + size if is_rounded else size
    return size * values + (weights + (size if block.caps_scores else 0)) * block.heads * length


def memory_need(shapes: ModelShapes, load: PackLoad) -> MemoryNeed:
    """Return what a worker needs on its device at the peak.

    Args:
        shapes: The model.
        load: What it trains.
    """
    base = base_bytes(shapes, load.dtype, quantization=load.quantization, is_reordered=load.is_reordered)
    if load.quantization != "none":
        base += _SIZES[load.dtype] * shapes.dequantised
    lanes = [lane_bytes(shapes, rank, load.dtype) for rank in load.ranks]
    is_host = load.device == "cpu"
    own = sum(lane.host for lane in lanes) if is_host else 0
    saved, temporary = _pass_bytes(shapes, load)
    needs = [
        MemoryNeed(
            base=base,
            lanes=own + sum(lane.training for lane in lanes),
            activations=saved,
            logits=temporary,
            stage="training",
        ),
        MemoryNeed(
            base=base,
            lanes=own + sum(lane.scoring for lane in lanes),
            activations=_evaluation_bytes(shapes, load),
            logits=_logit_bytes(shapes, POSITIONS_OF_LOGITS) if load.evaluated else 0,
            stage="evaluation",
        ),
    ]
    largest = max(needs, key=lambda need: need.total)
    kernels = COMPILED_PRODUCT_BYTES * compiled_products(shapes, load)
    tensors = largest.lanes - own + largest.activations + largest.logits
    fragments = round(_FRAGMENTS_OF_TENSORS * tensors + _FRAGMENTS_OF_PRODUCTS * kernels) if kernels else 0
    return dataclasses.replace(largest, kernels=kernels, fragments=fragments)


def compiled_products(shapes: ModelShapes, load: PackLoad) -> int:
    """Return how many products oneDNN keeps compiled on a CPU: one for each shape, up to the capacity of its cache.

    Every length has shapes of its own, and so has every number of lanes and every rank of those that are multiplied
    together. A sweep of several lanes and ranks fills the cache soon.

    Args:
        shapes: The model.
        load: What it trains.
    """
    if load.device != "cpu" or _SIZES[load.dtype] == _FLOAT32:
        return 0
    padded = [bucket_rank(rank) for rank in load.ranks]
    if load.changes:
        numbers = len(padded)  # of lanes in a pack
        buckets = len({bucket_rank(rank) for rank in range(1, max(padded) + 1)}) * numbers
    else:
        numbers, buckets = 1, len(set(padded))
    attention = 0 if load.attention in _FUSED else _PRODUCTS_OF_ATTENTION
    logits = int(shapes.has_token_loss)

    def trained(layers: int) -> int:
        return numbers * 2 * (layers + attention + logits) + buckets * _PRODUCTS_OF_ADAPTER * layers

    def scored(layers: int) -> int:  # a whole block of logits, and the rest
        return numbers * (layers + attention + 2 * logits) + buckets * 2 * layers

    passes, batches = set(_divided(load)), set(load.evaluated)
    layers = len({(layer.num_in, layer.num_out) for layer in shapes.lora})
    found = trained(layers) * len(passes) + scored(layers) * len(batches)
    if shapes.reads_first_token:
        # The last block has one token of each row, but keys and values of all. Those are a group of their own, and most
        # of its adapter products have the shapes of another rank's.
        found += trained(layers) * len({tokens // length for tokens, length in passes})
        found += scored(layers) * len({rows for rows, _ in batches})
        found += numbers * ((2 + _PRODUCTS_OF_ADAPTER) * len(passes) + 3 * len(batches))
    return min(found, load.cached_products)


def largest_pass(load: PackLoad) -> int:
    """Return the tokens of the largest training pass over all lanes, padding included."""
    return max((tokens for tokens, _ in _divided(load)), default=0)


def _divided(load: PackLoad) -> list[tuple[int, int]]:
    """Return the tokens over all lanes and the length of each training pass, as the budget divides it."""
    lanes = len(load.ranks)
    parts = [equal_parts(rows, length, lanes, load.tokens_per_pass) for rows, length in load.passes]
    return [(lanes * rows // n * length, length) for (rows, length), n in zip(load.passes, parts, strict=True)]


def _pass_bytes(shapes: ModelShapes, load: PackLoad) -> tuple[int, int]:
    """Return what the largest pass saves, and its temporary tensors: those of the loss, or of the backward pass."""
    size, block, num_lanes = _SIZES[load.dtype], shapes.block, len(load.ranks)
    rank = round(sum(bucket_rank(rank) for rank in load.ranks) / num_lanes)
    found = []
    for tokens, length in _divided(load):
        per_token = activation_bytes_per_token(
            shapes,
            load.dtype,
            device=load.device,
            length=length,
            attention=load.attention,
            rank=rank,
            has_dropout=load.has_dropout,
            has_base_dropout=load.has_base_dropout,
            checkpointing=load.checkpointing,
            is_fused=load.device != "cpu" and shapes.model_type in FUSED_MODELS,
        )
        # The gradients of the residual stream and, in the MLP of the last block, of what its activation function saved,
        # beyond what is free by then: the input of the layer that follows, and what came after the blocks.
        times = 2 if block.activation >= 3 * block.inner or load.has_dropout else 1
        backward = size * (shapes.width + times * block.inner) - _bytes_after_blocks(shapes, size)
        loss = _logit_bytes(shapes, min(tokens, POSITIONS_OF_LOGITS)) + size * 2 * shapes.width * tokens
        temporary = max(backward * tokens, loss if shapes.has_token_loss else 0, 0)
        found.append((round(per_token * tokens), round(temporary)))
    return max(found, key=sum, default=(0, 0))


def _evaluation_bytes(shapes: ModelShapes, load: PackLoad) -> int:
    """Return the tensors that exist at once in the widest layer of a forward pass without gradients."""
    size, block = _SIZES[load.dtype], shapes.block
    is_gated = block.activation >= 3 * block.inner
    widest = size * (shapes.width * 2 + block.inner * (4 if is_gated else 2))
    found, num_lanes = [0.0], len(load.ranks)
    for rows, length in load.evaluated:
        at_once = -(-rows // scored_parts(rows, length, num_lanes, load.tokens_per_pass))
        attended = 0 if load.attention in _FUSED else 2 * _FLOAT32 * block.heads * length
        if load.attention == "sweeper_short" and length > _LONGEST_SHORT:
            attended = 3 * size * block.heads * length  # scores, the same with the mask, and their softmax
        within = size * (2 * shapes.width + 3 * block.query) + attended
        found.append(num_lanes * at_once * length * max(widest, within))
    return round(max(found))


def _logit_bytes(shapes: ModelShapes, positions: int) -> int:
    return _LOGIT_BYTES * positions * shapes.vocabulary if shapes.has_token_loss else 0

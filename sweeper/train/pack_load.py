"""Describes what a worker trains at once, as the memory model takes it (`sweeper.figures.memory`).

Workers describe what they have opened, `sweeper plan` what they would open: the passes are those of the same classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import psutil
import torch

from sweeper.figures.memory import PRODUCT_CACHE, PackLoad
from sweeper.figures.model_shapes import ModelShapes
from sweeper.models.linear import may_reorder
from sweeper.train.batches import EvaluationBatches, TrainingRows

__all__ = ["cached_products", "is_reordered", "pack_load"]

_DEFAULT_CAPACITY = 1024
"""What oneDNN chooses itself."""


def pack_load(
    rows: TrainingRows,
    scored: Iterable[EvaluationBatches],
    *,
    dtype: str,
    quantization: str = "none",
    attention: str,
    ranks: Sequence[int],
    tokens_per_pass: int,
    has_dropout: bool,
    has_base_dropout: bool = False,
    checkpointing: bool,
    device: torch.device,
    is_reordered: bool,
    cached_products: int,
    num_choice_tokens: int = 0,
) -> PackLoad:
    """Return what a pack trains and scores at once.

    Args:
        rows: The training rows.
        scored: The rows that score trials.
        dtype: Type of the base model.
        quantization: How its weights are held.
        attention: Attention kernel.
        ranks: Rank of each lane.
        tokens_per_pass: Most tokens of a pass over all lanes; 0 for no limit.
        has_dropout: Whether a lane drops inputs of its adapter.
        has_base_dropout: Whether the base model drops hidden states.
        checkpointing: Whether the blocks run again in the backward pass.
        device: Device of the worker.
        is_reordered: Whether copies of the adapted weights are kept; see `is_reordered`.
        cached_products: Most compiled products that oneDNN keeps; see `cached_products`.
        num_choice_tokens: Tokens that an evaluation appends to each row, those of all choices.
    """
    passes = [each for index in range(rows.plan.micro_batches) for each in rows.passes(index)]
    batches = [batch for split in scored for _, batch in split.batches]
    return PackLoad(
        device=device.type,
        dtype=dtype,
        quantization=quantization,
        attention=attention,
        ranks=tuple(ranks),
        passes=tuple(sorted({(each.num_rows, each.length) for each in passes})),
        evaluated=tuple(sorted({(len(batch.ids), batch.ids.shape[1] + num_choice_tokens) for batch in batches})),
        tokens_per_pass=tokens_per_pass,
        has_dropout=has_dropout,
        has_base_dropout=has_base_dropout,
        checkpointing=checkpointing,
        is_reordered=is_reordered,
        cached_products=cached_products,
    )


def cached_products(environment: Mapping[str, str]) -> int:
    """Return how many compiled products oneDNN keeps in a process with these environment variables."""
    value = environment.get(PRODUCT_CACHE, "")
    return int(value) if value.isdecimal() else _DEFAULT_CAPACITY


def is_reordered(shapes: ModelShapes, dtype: str, device: torch.device) -> bool:
    """Whether a worker that loads the model now keeps copies of the adapted weights (`sweeper.models.linear`)."""
    if device.type != "cpu" or dtype != "bfloat16" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    adapted = sum(shape.num_in * shape.num_out for shape in shapes.lora)
    supports = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return supports and may_reorder(adapted * torch.bfloat16.itemsize, psutil.virtual_memory().available)

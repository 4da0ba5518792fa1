"""torch's fused attention for rows that are padded at their end, without asking the device whether any are.

transformers' ``sdpa`` reads the padding mask back from the device to find out whether the kernel needs a mask, which
stops the host until the device is done, once per forward pass. Here that is known beforehand. A causal model needs no
padding mask at all: the padding comes last, so no token attends to it. It gets the kernel without a mask, which is the
fastest one. Every other mask is built and passed on.

Only one fused kernel (flash attention: 2 bytes a value, GPUs from Ampere on) takes fewer key heads than query heads.
transformers passes them to all, and torch then computes all scores of a row in a slow kernel. Here keys and values are
repeated for the other fused kernel. `load` registers the kernel with transformers under the name
`PADDED_SDPA`; `device_choice` chooses it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sweeper.models.device_choice import PADDED_SDPA

__all__ = ["padded_attention", "padded_mask", "register"]

_FLASH_CAPABILITY = (8, 0)


def register() -> None:
    """Register the kernel and its mask with transformers."""
    AttentionInterface.register(PADDED_SDPA, padded_attention)
    AttentionMaskInterface.register(PADDED_SDPA, padded_mask)


class _Ungrouped(NamedTuple):
    """Stands for an attention layer that has as many key heads as query heads."""

    is_causal: bool


def padded_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return what transformers' ``sdpa`` does, by a fused kernel on every GPU; for the arguments see there."""
    attend: Any = sdpa_attention_forward
    layer: Any = module
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and attention_mask is None and not _has_flash_attention(query):
        layer = _Ungrouped(getattr(module, "is_causal", True))
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    result: tuple[torch.Tensor, None] = attend(layer, query, key, value, attention_mask, **kwargs)
    return result


def _has_flash_attention(query: torch.Tensor) -> bool:
    if query.element_size() > torch.float16.itemsize:
        return False
    return query.device.type != "cuda" or torch.cuda.get_device_capability(query.device) >= _FLASH_CAPABILITY


def padded_mask(
    *args: Any,
    q_length: int,
    kv_length: int,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,  # noqa: ARG001  never skipped: rows may be padded
    **kwargs: Any,
) -> torch.Tensor | None:
    """Return the mask of an attention layer, ``[rows, 1, queries, keys]``; None if the kernel's causal one will do.

    Args:
        *args: As for transformers' ``sdpa_mask``.
        q_length: Number of queries of a row.
        kv_length: Number of keys of a row.
        local_size: Width of a sliding window.
        allow_is_causal_skip: Whether the mask is causal and nothing else.
        allow_is_bidirectional_skip: Whether the mask is that of the padding and nothing else.
        **kwargs: As for transformers' ``sdpa_mask``.
    """
    is_local = local_size is not None and kv_length >= local_size
    if allow_is_causal_skip and q_length == kv_length and not is_local:
        return None
    mask: Any = sdpa_mask  # its positional arguments depend on the version of transformers
    found: torch.Tensor | None = mask(
        *args,
        q_length=q_length,
        kv_length=kv_length,
        local_size=local_size,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
        **kwargs,
    )
    return found

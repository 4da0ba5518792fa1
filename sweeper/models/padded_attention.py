"""torch's fused attention for rows that are padded at their end, without asking the device whether any are.

transformers' ``sdpa`` reads the padding mask back from the device to find out whether the kernel needs a mask, which
stops the host until the device is done, once per forward pass. Here that is known beforehand. A causal model needs no
padding mask at all: the padding comes last, so no token attends to it. It gets the kernel without a mask, which is the
fastest one. Every other mask is built and passed on. `load` registers the kernel with transformers under the name
`PADDED_SDPA`; `device_choice` chooses it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sweeper.models.device_choice import PADDED_SDPA

__all__ = ["padded_mask", "register"]


def register() -> None:
    """Register the kernel and its mask with transformers."""
    AttentionInterface.register(PADDED_SDPA, sdpa_attention_forward)
    AttentionMaskInterface.register(PADDED_SDPA, padded_mask)


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

"""Dropout on the inputs of adapters, each lane from a generator of its own.

`torch.nn.functional.dropout` costs 18 to 35 % of a step on a CPU. Here one draw of 64-bit words gives eight masks, so
the probability is rounded to 1/256 (0.05 becomes 13/256). A mask depends on the lane's seed, the chunk and the order of
layers, and on nothing that its neighbours do. Layers that read the same tensor (query, key, value) share one mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["LaneDropout", "keep_share"]

_LEVELS = 256
_BITS = {2: torch.int16, 4: torch.int32}
"""Integers as wide as a value."""


def keep_share(probability: float) -> float:
    """Return the share of inputs kept at dropout ``probability``, as it is drawn: a multiple of 1/256."""
    return round(_LEVELS * (1 - probability)) / _LEVELS


class LaneDropout:
    """Drops adapter inputs of every lane with the lane's own probability; `packed` folds the scale into A.

    Args:
        probabilities: One a lane.
        seeds: One a lane; the same seed gives the same masks.
        device: Where masks are drawn.
    """

    def __init__(self, probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [
            torch.Generator(device).manual_seed(seed) if p > 0 else None
            for p, seed in zip(probabilities, seeds, strict=True)
        ]
        kept = [round(_LEVELS * keep_share(p)) for p in probabilities]
        self._levels_kept_K = torch.tensor(kept, dtype=torch.int16, device=device)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self._part, self._num_parts = 0, 1
        self._starts: list[torch.Tensor | None] = []

    def begin(self, part: int, num_parts: int) -> None:
        """Begin a pass over a micro-batch, or over one of equal parts of its rows.

        Every part sees its share of the masks that the whole micro-batch would have, so that a trial that is trained in
        parts, for want of memory, is the same trial.
        """
        self._last = None
        self._part, self._num_parts = part, num_parts
        if num_parts == 1:
            return
        if part == 0:
            self._starts = [None if g is None else g.get_state() for g in self._generators]
        for generator, start in zip(self._generators, self._starts, strict=True):
            if generator is not None and start is not None:
                generator.set_state(start)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (``[K * rows, ..., I]``) with dropped inputs set to 0, unscaled."""
        if self._last is not None and self._last[0] is x:
            return self._last[1]
        dropped: torch.Tensor = _Drop.apply(x, self._mask(x))  # type: ignore[no-untyped-call]
        self._last = (x, dropped)
        return dropped

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        lanes = len(self._generators)
        values = x.numel() // lanes * self._num_parts
        words = -(-values // 8)
        bits_KW = torch.zeros(lanes, words, dtype=torch.int64, device=x.device)
        for row, generator in zip(bits_KW, self._generators, strict=True):
            if generator is not None:
                row.random_(-(2**63), None, generator=generator)
        share = values // self._num_parts
        bytes_KN = bits_KW.view(torch.uint8)[:, self._part * share : (self._part + 1) * share]
        # negative if kept: the shift spreads the sign over all bits, four times as fast as comparing and multiplying
        mask_KN = bytes_KN.to(torch.int16).sub_(self._levels_kept_K[:, None]).bitwise_right_shift_(15)
        return mask_KN.to(_BITS[x.element_size()]).reshape(x.shape)


class _Drop(torch.autograd.Function):
    """Clears the values whose mask is 0; the bits of a mask are all 1 where a value is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return (x.view(mask.dtype) & mask).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grads[0].contiguous().view(mask.dtype) & mask).view(grads[0].dtype), None

"""Dropout on the inputs of adapters, each lane from a generator of its own.

`torch.nn.functional.dropout` costs 18 to 35 % of a step on a CPU. Here one draw of 64-bit words gives eight masks, so
the probability is rounded to 1/256 (0.05 becomes 13/256). A mask depends on the lane's seed, the chunk and the order of
layers, and on nothing that its neighbours do. Layers that read the same tensor (query, key, value) share one mask.
Called by `packed`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["LaneDropout", "keep", "keep_", "keep_share"]

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
        self._part, self._num_parts = 0, 1
        self._starts: list[torch.Tensor | None] = []

    def begin(self, part: int, num_parts: int) -> None:
        """Begin a pass over a micro-batch, or over one of equal parts of its rows.

        Every part sees its share of the masks that the whole micro-batch would have, so that a trial that is trained in
        parts, for want of memory, is the same trial.
        """
        self._part, self._num_parts = part, num_parts
        if num_parts == 1:
            return
        if part == 0:
            self._starts = [None if g is None else g.get_state() for g in self._generators]
        for generator, start in zip(self._generators, self._starts, strict=True):
            if generator is not None and start is not None:
                generator.set_state(start)

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """Return integers of the shape and width of ``x``, ``[K * rows, ..., I]``: all bits 1 where a value is kept."""
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


def keep(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``x`` with 0 where the mask is 0, unscaled: `packed` has the scale folded into A."""
    return (x.view(mask.dtype) & mask).view(x.dtype)


def keep_(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do what `keep` does in place, and return ``x``."""
    x.view(mask.dtype).bitwise_and_(mask)
    return x

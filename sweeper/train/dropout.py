"""Dropout with a random generator per lane, called by `packed`.

`torch.nn.functional.dropout` costs 18 to 35 % of a step on a CPU. Here one random 64-bit word serves eight values, so
the probability is rounded to a multiple of 1/256 (0.05 becomes 13/256). A mask depends on the lane's seed, the chunk
and the order of layers, never on the other lanes. Layers that read the same tensor (query, key, value) share one mask.

Shapes: K lanes of the pack, W random words of a lane, N values of a lane, one byte each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

__all__ = ["LaneDropout", "keep", "keep_", "keep_share"]

_LEVELS = 256
_BYTES = 8
"""Bytes of a random word; each serves one value."""
_BITS = {2: torch.int16, 4: torch.int32}
"""Integer type as wide as a value, by bytes."""


def keep_share(probability: float) -> float:
    """Return the probability with which an input is kept, rounded to a multiple of 1/256."""
    return round(_LEVELS * (1 - probability)) / _LEVELS


class LaneDropout:
    """Draws masks that drop the values of every lane with the lane's own probability.

    Args:
        probabilities: Probability of each lane.
        seeds: Seed of each lane; the same seed gives the same masks.
        device: Where masks are drawn.
    """

    def __init__(self, probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        make = _HostWords if device.type == "cpu" else partial(_DeviceWords, device=device)
        self._words = [make(seed) if p > 0 else None for p, seed in zip(probabilities, seeds, strict=True)]
        kept = [round(_LEVELS * keep_share(p)) for p in probabilities]
        self._levels_kept_K = torch.tensor(kept, dtype=torch.int16, device=device)
        self._part, self._num_parts = 0, 1

    def start(self, part: int, num_parts: int) -> None:
        """Start a pass over a micro-batch, or over one of several equal parts of its rows.

        Every part gets its share of the masks of the whole micro-batch, so that a trial stays the same when it is
        trained in parts for lack of memory.
        """
        # All parts start from the generators' state before the first one, and draw their own words of the same masks.
        self._part, self._num_parts = part, num_parts
        for words in self._words:
            if words is not None and part == 0:
                words.mark()
            elif words is not None:
                words.rewind()

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """Return integers of the shape and width of ``x``, ``[K * rows, ..., I]``: all bits 1 where a value is kept."""
        # Of the bytes that serve the whole micro-batch, this part takes `share` from `first` on; only the words that
        # hold them are drawn, and a word on a border is drawn for both its neighbours.
        share = x.numel() // len(self._words)
        first, num_bytes = self._part * share, self._num_parts * share
        drawn = range(first // _BYTES, -(-(first + share) // _BYTES))
        bits_KW = torch.empty(len(self._words), len(drawn), dtype=torch.int64, device=x.device)
        for row, words in zip(bits_KW, self._words, strict=True):
            if words is None:
                row.zero_()  # below every level, so all is kept
            else:
                words.draw(row, drawn, -(-num_bytes // _BYTES))
        offset = first - drawn.start * _BYTES
        bytes_KN = bits_KW.view(torch.uint8)[:, offset : offset + share]
        # Negative if kept: the shift spreads the sign over all bits, four times as fast as comparing and multiplying.
        mask_KN = bytes_KN.to(torch.int16).sub_(self._levels_kept_K[:, None]).bitwise_right_shift_(15)
        return mask_KN.to(_BITS[x.element_size()]).reshape(x.shape)


class _HostWords:
    """Random 64-bit words from NumPy: faster than torch's, and words that a part does not need are skipped."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._marked = self._bits.state

    def mark(self) -> None:
        self._marked = self._bits.state

    def rewind(self) -> None:
        self._bits.state = self._marked

    def draw(self, into: torch.Tensor, drawn: range, total: int) -> None:
        """Fill ``into`` with the words ``drawn`` of the next ``total``."""
        # Skipping words leaves the generator where the whole micro-batch would have left it.
        self._bits.advance(drawn.start)
        words = self._bits.random_raw(len(drawn))
        into.copy_(torch.from_numpy(words.view(np.int64)))
        self._bits.advance(total - drawn.stop)


class _DeviceWords:
    """Random 64-bit words drawn on the device that uses them."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._marked = self._generator.get_state()

    def mark(self) -> None:
        self._marked = self._generator.get_state()

    def rewind(self) -> None:
        self._generator.set_state(self._marked)

    def draw(self, into: torch.Tensor, drawn: range, total: int) -> None:
        """Fill ``into`` with the words ``drawn`` of the next ``total``."""
        words = torch.empty(total, dtype=torch.int64, device=into.device)
        into.copy_(words.random_(-(2**63), None, generator=self._generator)[drawn.start : drawn.stop])


def keep(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``x`` with 0 where the mask is 0; the caller scales what is kept."""
    # A bitwise and costs less than a product, and an infinity that is dropped becomes 0, not NaN.
    return (x.view(mask.dtype) & mask).view(x.dtype)


def keep_(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do the same as `keep` in place, and return ``x``."""
    x.view(mask.dtype).bitwise_and_(mask)
    return x

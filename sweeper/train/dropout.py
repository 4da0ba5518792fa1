"""Dropout with random bytes per lane, called by `packed`.

`torch.nn.functional.dropout` costs 18 to 35 % of a step on a CPU. Here one random 64-bit word serves eight values, so
the probability is rounded to a multiple of 1/256 (0.05 becomes 13/256). A word is the hash of its place: of the lane's
seed and chunk, of the pass, the layer and the position among the lane's values. So a mask never depends on the other
lanes, it is the same for a micro-batch and for its parts, and it can be computed again: the backward pass and a
checkpointed block (`sweeper.models.checkpointing`) need no stored masks. `sweeper.kernels.operators` has the same hash
for GPUs, so a trial has the same masks on every device. Layers that read one tensor (query, key, value) share a mask.

Shapes: K lanes of the pack, W random words of a lane, N values of a lane, one byte each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sweeper.kernels import operators
from sweeper.kernels.operators import signed
from sweeper.kernels.splitmix import GAMMA, MIX_1, MIX_2, VALUES_PER_WORD

__all__ = ["DeviceDropout", "HostDropout", "LaneDropout", "keep_share", "lane_dropout"]

_LEVELS = 256
_BITS = {2: torch.int16, 4: torch.int32}
"""Integer type as wide as a value, by bytes."""
_BLOCK = 1 << 16
"""Words that are hashed at once: they stay in the processor's cache from one operation to the next."""
_SITES = 1 << 16
"""Most layers with masks of their own."""
_ROUNDS = ((np.uint64(30), np.uint64(MIX_1)), (np.uint64(27), np.uint64(MIX_2)))
_LAST_SHIFT = np.uint64(31)
_MAX_WORD = (1 << 64) - 1


def keep_share(probability: float) -> float:
    """Return the probability with which an input is kept, rounded to a multiple of 1/256."""
    return round(_LEVELS * (1 - probability)) / _LEVELS


def lane_dropout(probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> LaneDropout:
    """Return the dropout of lanes for a device.

    Args:
        probabilities: Probability of each lane.
        seeds: Seed of each lane; the same seed gives the same masks.
        device: Where the values are.
    """
    kind = HostDropout if device.type == "cpu" else DeviceDropout
    return kind(probabilities, seeds, device)


class LaneDropout:
    """Drops the values of every lane with the lane's own probability; `lane_dropout` chooses the kind."""

    def __init__(self, probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        self._levels = [round(_LEVELS * keep_share(p)) for p in probabilities]
        self._seeds = seeds
        self._device = device
        self.start(0, 0, 1)

    def start(self, number: int, first_row: int, num_rows: int) -> None:
        """Start a pass; its backward pass, too, comes before the next one starts.

        Every part of a pass gets its share of the masks of the whole pass, so that a trial stays the same when it is
        trained in parts for lack of memory.

        Args:
            number: Number of the pass in its chunk; all parts of a pass have the same.
            first_row: Rows of each lane that earlier parts of the pass had.
            num_rows: Rows of each lane in this part.
        """
        self._number, self._first_row, self._num_rows = number, first_row, num_rows

    def mask(self, x: torch.Tensor, site: int) -> torch.Tensor | None:
        """Return what `drop` and `add_dropped_` take at this site, if it is faster to keep it than to compute it again.

        Args:
            x: ``[K * rows, ..., I]``, the values of one lane after those of another.
            site: Number of the layer; each has other masks.
        """
        raise NotImplementedError

    def drop(self, x: torch.Tensor, site: int, mask: torch.Tensor | None, scale: float = 1.0) -> torch.Tensor:
        """Return the values times ``scale``, with 0 where they are dropped."""
        raise NotImplementedError

    def add_dropped_(self, into: torch.Tensor, x: torch.Tensor, site: int, mask: torch.Tensor | None) -> None:
        """Add ``x`` where it is kept to ``into``; ``x`` may be overwritten."""
        raise NotImplementedError

    def _key(self, site: int) -> int:
        # Hashed, so that the words of two masks are not neighbours in the same sequence.
        return operators.mix((self._number * _SITES + site + 1) * GAMMA & _MAX_WORD)

    def _first_value(self, num_values: int) -> int:
        """Return how many values of the mask earlier parts have used, if this part has ``num_values`` of each lane."""
        return self._first_row * (num_values // self._num_rows)


class HostDropout(LaneDropout):
    """Dropout on a CPU. It keeps a mask for the backward pass: computing it again would cost more than memory does."""

    def __init__(self, probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        super().__init__(probabilities, seeds, device)
        self._levels_K1 = torch.tensor(self._levels, dtype=torch.int16)[:, None]
        self._words = _HostWords(seeds)

    def mask(self, x: torch.Tensor, site: int) -> torch.Tensor:
        """Return integers of the shape and width of ``x``: all bits 1 where a value is kept."""
        num_values = x.numel() // len(self._seeds)
        first = self._first_value(num_values)
        first_word, end_word = first // VALUES_PER_WORD, -(-(first + num_values) // VALUES_PER_WORD)
        bits_KW = np.empty((len(self._seeds), end_word - first_word), np.uint64)
        key = self._key(site)
        for lane, (row, level) in enumerate(zip(bits_KW, self._levels, strict=True)):
            if level == _LEVELS:
                row[:] = 0  # below every level, so all is kept
            else:
                self._words.draw(row, lane, key, first_word)
        offset = first - first_word * VALUES_PER_WORD
        bytes_KN = torch.from_numpy(bits_KW.view(np.uint8))[:, offset : offset + num_values]
        # Negative if kept: the shift spreads the sign over all bits, four times as fast as comparing and multiplying.
        mask_KN = bytes_KN.to(torch.int16).sub_(self._levels_K1).bitwise_right_shift_(15)
        return mask_KN.to(_BITS[x.element_size()]).reshape(x.shape)

    def drop(self, x: torch.Tensor, site: int, mask: torch.Tensor | None, scale: float = 1.0) -> torch.Tensor:  # noqa: ARG002  the mask says it
        """Return the values times ``scale``, with 0 where they are dropped."""
        assert mask is not None  # noqa: S101  `mask` has made it
        # A bitwise and costs less than a product, and an infinity that is dropped becomes 0, not NaN.
        kept = (x.view(mask.dtype) & mask).view(x.dtype)
        return kept if scale == 1 else kept.mul_(scale)

    def add_dropped_(self, into: torch.Tensor, x: torch.Tensor, site: int, mask: torch.Tensor | None) -> None:  # noqa: ARG002
        """Add ``x`` where it is kept to ``into``; ``x`` is overwritten."""
        assert mask is not None  # noqa: S101
        x.view(mask.dtype).bitwise_and_(mask)
        into += x


class DeviceDropout(LaneDropout):
    """Dropout by one kernel that hashes, drops and adds; nothing is stored for the backward pass."""

    def __init__(self, probabilities: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        super().__init__(probabilities, seeds, device)
        self._seeds_K = torch.tensor(seeds, dtype=torch.int64).to(device, non_blocking=True)
        self._levels_K = torch.tensor(self._levels, dtype=torch.int32).to(device, non_blocking=True)

    def mask(self, x: torch.Tensor, site: int) -> None:
        """Return None: the kernels compute the mask."""

    def drop(self, x: torch.Tensor, site: int, mask: torch.Tensor | None, scale: float = 1.0) -> torch.Tensor:  # noqa: ARG002
        """Return the values times ``scale``, with 0 where they are dropped."""
        return operators.drop(x, self._seeds_K, self._levels_K, signed(self._key(site)), self._first(x), scale)

    def add_dropped_(self, into: torch.Tensor, x: torch.Tensor, site: int, mask: torch.Tensor | None) -> None:  # noqa: ARG002
        """Add ``x`` where it is kept to ``into``."""
        operators.add_dropped_(into, x, self._seeds_K, self._levels_K, signed(self._key(site)), self._first(x))

    def _first(self, x: torch.Tensor) -> int:
        return self._first_value(x.numel() // len(self._seeds))


class _HostWords:
    """Random words by NumPy, which takes less time than its own generators.

    Args:
        seeds: Seed of each lane.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = list(seeds)
        self._steps = np.arange(1, _BLOCK + 1, dtype=np.uint64) * np.uint64(GAMMA)
        self._scratch = np.empty(_BLOCK, np.uint64)

    def draw(self, into: np.ndarray, lane: int, key: int, first: int) -> None:
        """Fill ``into`` with the words of a lane from number ``first`` on."""
        for start in range(0, len(into), _BLOCK):
            words = into[start : start + _BLOCK]
            scratch = self._scratch[: len(words)]
            counter = (self._seeds[lane] + key + (first + start) * GAMMA) & _MAX_WORD
            np.add(self._steps[: len(words)], np.uint64(counter), out=words)
            for shift, factor in _ROUNDS:
                np.right_shift(words, shift, out=scratch)
                np.bitwise_xor(words, scratch, out=words)
                np.multiply(words, factor, out=words)
            np.right_shift(words, _LAST_SHIFT, out=scratch)
            np.bitwise_xor(words, scratch, out=words)

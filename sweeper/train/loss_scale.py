"""Loss scales for training in float16, one for each lane.

Gradients of activations can be smaller than float16 can hold (6e-8), so the loss is multiplied by a scale, and the
gradients of adapters and heads, which are float32, are divided by it. If a gradient overflows, the lane skips the step
and halves its scale; after enough steps without an overflow it doubles it (Micikevicius et al. 2018, arXiv:1710.03740,
section 3.2; the rule is that of `torch.amp.GradScaler`). With a common scale, one lane's overflow would skip the steps
of all. Everything stays on the device until the chunk ends. `bucket` uses it.

Shapes: k lanes of a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["LaneScales", "LossScale"]

_FIRST = 2.0**16
_GROWTH = 2.0
_BACKOFF = 0.5
_STEPS_TO_GROW = 200
"""torch's 2,000 would be longer than most trials: a scale that one outlier halved would stay low to the end."""


@dataclass(frozen=True, slots=True)
class LossScale:
    """The loss scale of a lane between chunks, a part of its state."""

    scale: float = _FIRST
    good_steps: int = 0
    """Steps since the scale last changed."""
    skipped_steps: int = 0
    """Steps of the trial that were skipped because a gradient overflowed."""

    @classmethod
    def of(cls, state: torch.Tensor | None) -> LossScale:
        """Return the inverse of `tensor`, or the first scale if there is no state."""
        if state is None:
            return cls()
        scale, good_steps, skipped_steps = state.tolist()
        return cls(scale, int(good_steps), int(skipped_steps))

    def tensor(self) -> torch.Tensor:
        """Return the state as a tensor, for checkpoints."""
        return torch.tensor([self.scale, self.good_steps, self.skipped_steps], dtype=torch.float64)


class LaneScales:
    """The loss scales of a bucket's lanes during a chunk.

    Args:
        states: Their scales before it.
        device: Where the lanes train.
    """

    def __init__(self, states: Sequence[LossScale], device: torch.device) -> None:
        self.scale_k = torch.tensor([state.scale for state in states], device=device)
        """By how much each lane's loss is multiplied."""
        self._good_steps_k = torch.tensor([state.good_steps for state in states], dtype=torch.int32, device=device)
        self._skipped_k = torch.tensor([float(state.skipped_steps) for state in states], device=device)

    def scale(self, lane: int) -> torch.Tensor:
        """Return the scale of a lane, a scalar."""
        return self.scale_k[lane]

    def skipped(self, lane: int) -> torch.Tensor:
        """Return the steps that a lane has skipped so far, a scalar."""
        return self._skipped_k[lane]

    def update(self, lane: int, overflow: torch.Tensor) -> None:
        """Count a step of a lane, and change its scale if it is time.

        Args:
            lane: Index of the lane.
            overflow: A scalar, 1 if one of its gradients is not finite, else 0.
        """
        one = slice(lane, lane + 1)
        self._skipped_k[lane] += overflow
        torch._amp_update_scale_(
            self.scale_k[one], self._good_steps_k[one], overflow, _GROWTH, _BACKOFF, _STEPS_TO_GROW
        )

    def states(self) -> list[LossScale]:
        """Wait for the device, and return the scales of all lanes."""
        table = torch.stack([self.scale_k, self._good_steps_k.float(), self._skipped_k], 1)
        return [LossScale(scale, int(good), int(skipped)) for scale, good, skipped in table.tolist()]

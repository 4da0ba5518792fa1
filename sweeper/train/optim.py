"""AdamW and learning-rate schedules, vectorised over the lanes of a bucket.

Every hyperparameter is a vector over lanes; the update is that of `torch.optim.AdamW` (Loshchilov and Hutter 2019,
arXiv:1711.05101, algorithm 2) for each lane with its own step count, written over one flat matrix of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sweeper.types import ParamValue

__all__ = ["LaneOptimizer", "OptimSettings", "learning_rate_at"]


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Optimizer settings of one lane."""

    learning_rate: float
    weight_decay: float
    warmup_steps: int
    total_steps: int
    schedule: str
    max_grad_norm: float
    beta1: float
    beta2: float
    epsilon: float

    @classmethod
    def of(cls, settings: Mapping[str, ParamValue], *, total_steps: int) -> OptimSettings:
        """Read the ``train.*`` values of a trial."""
        return cls(
            learning_rate=float(settings["train.learning_rate"]),
            weight_decay=float(settings["train.weight_decay"]),
            warmup_steps=round(float(settings["train.warmup_ratio"]) * total_steps),
            total_steps=total_steps,
            schedule=str(settings["train.schedule"]),
            max_grad_norm=float(settings["train.max_grad_norm"]),
            beta1=float(settings["train.adam_beta1"]),
            beta2=float(settings["train.adam_beta2"]),
            epsilon=float(settings["train.adam_epsilon"]),
        )


def learning_rate_at(settings: OptimSettings, step: int) -> float:
    """Return the learning rate of the ``step``-th update, counted from 0.

    The same values as `transformers.get_scheduler` gives: warm-up from 0, then linear or cosine to 0, or constant.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, settings.total_steps - settings.warmup_steps)
    share = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * max(0.0, share)


class LaneOptimizer:
    """Updates the parameters of ``k`` lanes, held as ``[k, P]``.

    Args:
        settings: One a lane.
        steps: Updates that each lane has had so far.
        decay_mask: ``[P]``, 0 where weight decay does not act.
        moment1: ``[k, P]``, changed in place.
        moment2: ``[k, P]``, changed in place.
    """

    def __init__(
        self,
        settings: Sequence[OptimSettings],
        steps: Sequence[int],
        *,
        decay_mask: torch.Tensor,
        moment1: torch.Tensor,
        moment2: torch.Tensor,
    ) -> None:
        self.steps = list(steps)
        self._settings = settings
        self._moment1, self._moment2 = moment1, moment2
        device = moment1.device
        self._decay_mask = decay_mask.to(device) if any(s.weight_decay for s in settings) else None
        self._beta1 = _column([s.beta1 for s in settings], device)
        self._beta2 = _column([s.beta2 for s in settings], device)
        self._epsilon = _column([s.epsilon for s in settings], device)
        limits = [s.max_grad_norm if s.max_grad_norm > 0 else math.inf for s in settings]
        self._max_norm = _column(limits, device)

    def step(self, parameters: torch.Tensor, gradients: torch.Tensor, due: Sequence[bool]) -> None:
        """Update the lanes that are due and zero their gradients; the others keep everything as it is.

        Args:
            parameters: ``[k, P]``, changed in place.
            gradients: ``[k, P]``, changed in place.
            due: Whether each lane's gradient is complete.
        """
        if not any(due):
            return
        if all(due):
            self._update(slice(None), list(range(len(due))), parameters, gradients)
            return
        for lane in (i for i, is_due in enumerate(due) if is_due):
            self._update(slice(lane, lane + 1), [lane], parameters, gradients)

    def _update(self, rows: slice, lanes: list[int], parameters: torch.Tensor, gradients: torch.Tensor) -> None:
        grad, value = gradients[rows], parameters[rows]
        moment1, moment2 = self._moment1[rows], self._moment2[rows]
        settings = [self._settings[lane] for lane in lanes]
        rate = [learning_rate_at(s, self.steps[lane]) for s, lane in zip(settings, lanes, strict=True)]
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
        grad.mul_((self._max_norm[rows] / (norm + 1e-6)).clamp_(max=1.0))
        self._decay(value, [r * s.weight_decay for r, s in zip(rate, settings, strict=True)])
        moment1.lerp_(grad, 1 - self._beta1[rows])
        moment2.mul_(self._beta2[rows]).add_(grad.square_().mul_(1 - self._beta2[rows]))
        for lane in lanes:
            self.steps[lane] += 1
        corrections = [
            (1 - s.beta1 ** self.steps[i], 1 - s.beta2 ** self.steps[i]) for i, s in zip(lanes, settings, strict=True)
        ]
        root = _column([math.sqrt(second) for _, second in corrections], grad.device)
        size = _column([r / first for r, (first, _) in zip(rate, corrections, strict=True)], grad.device)
        denominator = torch.sqrt(moment2, out=grad).div_(root).add_(self._epsilon[rows])
        value.sub_(torch.div(moment1, denominator, out=grad).mul_(size))
        grad.zero_()

    def _decay(self, value: torch.Tensor, shares: Sequence[float]) -> None:
        if self._decay_mask is not None:
            value.mul_(1 - _column(shares, value.device) * self._decay_mask)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

"""AdamW and learning-rate schedules for the lanes of a bucket.

The update is that of `torch.optim.AdamW` (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), with a step
count per lane, on one flat vector of parameters per lane. Adapter and task head are two parameter groups: each has its
own learning rate and is clipped by its own norm.

Shapes: k lanes of a bucket, P values of a lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sweeper.config.settings import TrainSettings
from sweeper.train.loss_scale import LaneScales

__all__ = ["LaneOptimizer", "OptimSettings", "adamw_step", "learning_rate_at"]


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Optimizer settings of one lane."""

    learning_rate: float
    head_lr_ratio: float
    weight_decay: float
    warmup_steps: int
    total_steps: int
    lr_schedule: str
    max_grad_norm: float
    beta1: float
    beta2: float
    epsilon: float

    @classmethod
    def of(cls, train: TrainSettings, *, total_steps: int) -> OptimSettings:
        """Return the settings of a trial that takes ``total_steps`` optimizer steps in all."""
        return cls(
            learning_rate=train.learning_rate,
            head_lr_ratio=train.head_lr_ratio,
            weight_decay=train.weight_decay,
            warmup_steps=round(train.warmup_ratio * total_steps),
            total_steps=total_steps,
            lr_schedule=train.lr_schedule,
            max_grad_norm=train.max_grad_norm,
            beta1=train.adam_beta1,
            beta2=train.adam_beta2,
            epsilon=train.adam_epsilon,
        )


def learning_rate_at(settings: OptimSettings, step: int) -> float:
    """Return the adapter's learning rate for the ``step``-th update, counted from 0.

    The values are those of `transformers.get_scheduler`: warm-up from 0, then linear or cosine to 0, or constant.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    # The last update has step total_steps - 1, just before the rate reaches 0.
    done = (step - settings.warmup_steps) / max(1, settings.total_steps - settings.warmup_steps)
    share = 1 - done if settings.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * max(0.0, share)


class LaneOptimizer:
    """Updates the parameters of ``k`` lanes, held as ``[k, P]``.

    Each lane is updated by torch's fused kernel, which reads its values once. That takes a third of the time of
    separate operations over all lanes, each of which reads all values (measured in docs/benchmarks.md).

    Args:
        settings: Settings of each lane.
        steps: Updates that each lane has had so far.
        num_adapter: Number of values of the adapter, which come first; the others are those of the head.
        decay_mask: ``[H]``, 0 where weight decay does not apply to the head; it does to the whole adapter.
        moment1: ``[k, P]``, changed in place.
        moment2: ``[k, P]``, changed in place.
        scales: Loss scales, by which gradients are divided; None if losses are not scaled.
    """

    def __init__(
        self,
        settings: Sequence[OptimSettings],
        steps: Sequence[int],
        *,
        num_adapter: int,
        decay_mask: torch.Tensor,
        moment1: torch.Tensor,
        moment2: torch.Tensor,
        scales: LaneScales | None = None,
    ) -> None:
        self.steps = list(steps)
        self._scales = scales
        self._settings = settings
        self._moment1, self._moment2 = moment1, moment2
        adapter, head = slice(0, num_adapter), slice(num_adapter, moment1.shape[1])
        # A mask of the adapter would take as much memory as a lane's gradient, only to be 1 everywhere.
        everywhere = torch.ones((), device=moment1.device)
        self._groups = ((adapter, everywhere), (head, decay_mask.to(moment1.device)))

    def step(self, parameters: torch.Tensor, gradients: torch.Tensor, due: Sequence[bool]) -> None:
        """Update the lanes that are due and zero their gradients; the other lanes stay unchanged.

        Args:
            parameters: ``[k, P]``, changed in place.
            gradients: ``[k, P]``, changed in place.
            due: Whether each lane's gradient is complete.
        """
        for lane in (index for index, is_due in enumerate(due) if is_due):
            self._update(lane, parameters[lane], gradients[lane])
            gradients[lane].zero_()

    def _update(self, lane: int, value: torch.Tensor, grad: torch.Tensor) -> None:
        settings = self._settings[lane]
        rate = learning_rate_at(settings, self.steps[lane])
        self.steps[lane] += 1
        step = torch.full((), float(self.steps[lane]), device=grad.device)
        scale = overflow = None
        if self._scales is not None:
            # A lane overflows as a whole: with half of a step, adapter and head would no longer fit each other.
            scale, overflow = self._scales.scale(lane), (~torch.linalg.vector_norm(grad).isfinite()).float()
            # The bias correction counts what the moments have seen; the learning rate follows all steps.
            step -= self._scales.skipped(lane)
        for (group, mask), ratio in zip(self._groups, (1.0, settings.head_lr_ratio), strict=True):
            if group.start < group.stop:
                moments = self._moment1[lane, group], self._moment2[lane, group]
                decay = settings.weight_decay * mask if settings.weight_decay else None
                adamw_step(
                    value[group],
                    grad[group],
                    *moments,
                    step=step,
                    rate=rate * ratio,
                    decay=decay if decay is None or overflow is None else decay * (1 - overflow),
                    settings=settings,
                    scale=scale,
                    overflow=overflow,
                )
        if self._scales is not None and overflow is not None:
            self._scales.update(lane, overflow)


def adamw_step(
    value: torch.Tensor,
    grad: torch.Tensor,
    moment1: torch.Tensor,
    moment2: torch.Tensor,
    *,
    step: torch.Tensor,
    rate: float,
    decay: torch.Tensor | None,
    settings: OptimSettings,
    scale: torch.Tensor | None = None,
    overflow: torch.Tensor | None = None,
) -> None:
    """Update one parameter group of a lane in place.

    Args:
        value: Its parameters.
        grad: Their gradient.
        moment1: AdamW's first moment.
        moment2: AdamW's second moment.
        step: Updates so far, this one included; a float tensor.
        rate: Learning rate.
        decay: Weight decay of each value, or a scalar for all; None for none.
        settings: The lane's settings.
        scale: What the loss, and so the gradient, was multiplied by; None for 1.
        overflow: 1 to change nothing, a float tensor; None for 0. The caller takes care of the weight decay.
    """
    # Decoupled decay comes before the step and is scaled by the learning rate, as in torch. The kernel would apply it
    # to biases, too, so it is done here with the mask.
    if decay is not None:
        value.mul_(1 - rate * decay)
    # Each group of each lane is clipped by its own norm. A common norm of the lanes would let one scale the others, and
    # one of adapter and head would let the head's gradient scale the adapter's steps. The kernel divides by grad_scale;
    # 1e-6 is that of torch's clip_grad_norm_.
    norm = torch.linalg.vector_norm(grad)
    if scale is not None:
        norm = norm / scale
    limit = settings.max_grad_norm if settings.max_grad_norm > 0 else math.inf
    clip = ((norm + 1e-6) / limit).clamp_(min=1.0)
    torch._fused_adamw_(
        [value],
        [grad],
        [moment1],
        [moment2],
        [],
        [step],
        lr=rate,
        beta1=settings.beta1,
        beta2=settings.beta2,
        weight_decay=0.0,
        eps=settings.epsilon,
        amsgrad=False,
        maximize=False,
        grad_scale=clip if scale is None else clip * scale,
        found_inf=overflow,
    )

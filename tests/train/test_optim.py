"""Vectorised AdamW and schedules against torch's and transformers' own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import get_scheduler

from sweeper.train.optim import LaneOptimizer, OptimSettings, learning_rate_at
from tests.train.tiny import spec

BASE = OptimSettings(
    learning_rate=1e-2,
    head_lr_ratio=1.0,
    weight_decay=0.1,
    warmup_steps=2,
    total_steps=20,
    lr_schedule="linear",
    max_grad_norm=1.0,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
)
LANES = [
    BASE,
    dataclasses.replace(
        BASE, learning_rate=0.1, head_lr_ratio=0.2, weight_decay=0.0, beta1=0.8, beta2=0.95, epsilon=1e-3
    ),
    dataclasses.replace(BASE, lr_schedule="cosine", max_grad_norm=0.1, warmup_steps=0),
    dataclasses.replace(BASE, head_lr_ratio=20.0, lr_schedule="constant", max_grad_norm=0.0, weight_decay=0.5),
]
ADAPTER, DECAYED, SIZE = 5, 9, 12
"""Where the adapter ends, where the head's bias starts, and where it ends."""
MASK = torch.tensor([1.0] * (DECAYED - ADAPTER) + [0.0] * (SIZE - DECAYED))


def scheduler_of(settings, optimizer):
    name = {"constant": "constant_with_warmup"}.get(settings.lr_schedule, settings.lr_schedule)
    return get_scheduler(
        name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=settings.total_steps
    )


class Reference:
    """One lane, optimised by torch.optim.AdamW: the adapter, the head's weight and the head's bias."""

    SIZES = (ADAPTER, DECAYED - ADAPTER, SIZE - DECAYED)

    def __init__(self, settings, start):
        self.settings = settings
        self.parts = [part.clone().requires_grad_() for part in start.split(self.SIZES)]
        head_rate = settings.learning_rate * settings.head_lr_ratio
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.parts[:1]},
                {"params": self.parts[1:2], "lr": head_rate},
                {"params": self.parts[2:], "lr": head_rate, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )
        self.scheduler = scheduler_of(settings, self.optimizer)

    def step(self, gradient):
        for part, grad in zip(self.parts, gradient.split(self.SIZES), strict=True):
            part.grad = grad.clone()
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parts[:1], self.settings.max_grad_norm)
            torch.nn.utils.clip_grad_norm_(self.parts[1:], self.settings.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()

    @property
    def value(self):
        return torch.cat(self.parts).detach()


def lanes(settings=LANES):
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(len(settings), SIZE, generator=generator)
    moments = {"moment1": torch.zeros_like(parameters), "moment2": torch.zeros_like(parameters)}
    optimizer = LaneOptimizer(settings, [0] * len(settings), num_adapter=ADAPTER, decay_mask=MASK, **moments)
    return optimizer, parameters, generator


def windows_all(_):
    return [True] * len(LANES)


def windows_mixed(step):
    return [(step + 1) % window == 0 for window in (1, 2, 3, 1)]


@pytest.mark.parametrize("due_at", [windows_all, windows_mixed])
def test_every_lane_moves_as_torchs_adamw_moves_it(due_at):
    optimizer, parameters, generator = lanes()
    references = [Reference(s, p) for s, p in zip(LANES, parameters, strict=True)]
    gradients = torch.zeros_like(parameters)
    for step in range(18):
        gradients += torch.randn(gradients.shape, generator=generator)
        due = due_at(step)
        for reference, gradient, is_due in zip(references, gradients, due, strict=True):
            if is_due:
                reference.step(gradient)
        optimizer.step(parameters, gradients, due)
        torch.testing.assert_close(parameters, torch.stack([r.value for r in references]), rtol=1e-5, atol=1e-6)
    assert optimizer.steps == [sum(due_at(step)[lane] for step in range(18)) for lane in range(len(LANES))]


def test_a_lane_that_is_not_due_keeps_everything():
    optimizer, parameters, generator = lanes()
    gradients = torch.randn(parameters.shape, generator=generator)
    optimizer.step(parameters, gradients.clone(), [True] * 4)
    before = [x.clone() for x in (parameters, optimizer._moment1, optimizer._moment2)]
    left = gradients.clone()
    optimizer.step(parameters, left, [True, False, True, False])
    for old, new in zip(before, (parameters, optimizer._moment1, optimizer._moment2), strict=True):
        assert torch.equal(old[[1, 3]], new[[1, 3]])
    assert torch.equal(left[[1, 3]], gradients[[1, 3]])
    assert (left[[0, 2]] == 0).all()
    assert optimizer.steps == [2, 1, 2, 1]


def test_a_large_gradient_of_the_head_does_not_shrink_the_adapters_step():
    """Moments without memory (beta 0, a large epsilon) make steps proportional to the clipped gradient."""
    settings = dataclasses.replace(BASE, beta1=0.0, beta2=0.0, epsilon=1e6, weight_decay=0.0, warmup_steps=0)
    steps = []
    for factor in (1.0, 1000.0):
        optimizer, parameters, _ = lanes([settings])
        parameters.zero_()
        gradient = torch.full((1, SIZE), 0.1)
        gradient[:, ADAPTER:] *= factor
        optimizer.step(parameters, gradient, [True])
        steps.append(parameters[:, :ADAPTER])
    assert steps[0].abs().min() > 0
    assert torch.equal(*steps)


def test_nothing_due_changes_nothing():
    optimizer, parameters, _ = lanes()
    before = parameters.clone()
    optimizer.step(parameters, torch.ones_like(parameters), [False] * 4)
    assert torch.equal(parameters, before)


def test_a_lane_at_a_later_step_has_its_own_bias_correction():
    optimizer, parameters, generator = lanes([BASE])
    early = [torch.randn(1, SIZE, generator=generator) for _ in range(5)]
    for gradient in early:
        optimizer.step(parameters, gradient.clone(), [True])
    late = early[0].clone()
    fresh_start = torch.randn(1, SIZE, generator=generator)
    moment1 = torch.cat([optimizer._moment1, torch.zeros(1, SIZE)])
    moment2 = torch.cat([optimizer._moment2, torch.zeros(1, SIZE)])
    both = torch.cat([parameters, fresh_start])
    moments = {"moment1": moment1, "moment2": moment2}
    mixed = LaneOptimizer([BASE, BASE], [5, 0], num_adapter=ADAPTER, decay_mask=MASK, **moments)
    alone, alone_parameters, _ = lanes([BASE])
    alone_parameters.copy_(fresh_start)
    for _ in range(3):
        optimizer.step(parameters, late.clone(), [True])
        alone.step(alone_parameters, late.clone(), [True])
        mixed.step(both, late.repeat(2, 1), [True, True])
    torch.testing.assert_close(both, torch.cat([parameters, alone_parameters]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (1, 10), (4, 11), (10, 10), (0, 1)])
def test_learning_rates_are_those_of_transformers(schedule, warmup, total):
    settings = dataclasses.replace(BASE, lr_schedule=schedule, warmup_steps=warmup, total_steps=total)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    scheduler = scheduler_of(settings, optimizer)
    for step in range(total):
        assert learning_rate_at(settings, step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_settings_are_read_from_a_trial():
    changed = {
        "train.head_lr_ratio": 7.0,
        "train.warmup_ratio": 0.25,
        "train.lr_schedule": "cosine",
        "train.weight_decay": 0.02,
    }
    found = OptimSettings.of(spec(**changed).train, total_steps=30)
    assert found == OptimSettings(1e-2, 7.0, 0.02, 8, 30, "cosine", 1.0, 0.9, 0.999, 1e-8)

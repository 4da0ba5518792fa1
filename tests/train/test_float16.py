"""The pack in float16, with a loss scale for each lane."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sweeper.train.checkpoints import to_safetensors
from sweeper.train.lane import Lane
from sweeper.train.loss_scale import LaneScales, LossScale
from sweeper.train.optim import LaneOptimizer
from sweeper.types import Admission
from tests.train.test_optim import ADAPTER, LANES, MASK, SIZE
from tests.train.tiny import CPU, build_pack, row_loss, spec, specs, start, train

TOLERANCE = 0.02
"""Of each loss of four rows over 50 steps at high learning rates; the products of float16 are good to 0.05 %."""
FAR_TOO_LARGE = LossScale(2.0**60)


@pytest.fixture(scope="module")
def pack():
    return build_pack(dtype=torch.float16)


def state(lane):
    return torch.stack([lane.parameters, lane.moment1, lane.moment2])


def test_losses_in_float16_stay_near_those_in_float32(pack, data):
    exact = build_pack()
    one, other = train(exact, start(exact, specs()), data, 10), train(pack, start(pack, specs()), data, 10)
    for number, losses in one.items():
        torch.testing.assert_close(other[number], losses, rtol=TOLERANCE, atol=0)


def test_gradients_that_float16_cannot_hold_are_not_lost(pack, data):
    """AdamW's steps do not depend on the size of gradients, so a loss of a millionth moves a lane as far."""

    def tiny(model, batch):
        return row_loss(model, batch) * 1e-6

    def trained(one, **changes):
        lanes = start(one, [spec(0, seed=2, **{"train.adam_epsilon": 1e-15})])
        for name, value in changes.items():
            setattr(lanes[0], name, value)
        for _ in range(2):
            one.train_chunk(lanes, data.rows, tiny)
        adapter = lanes[0].layout.size_lora
        return lanes[0].parameters[:adapter], Lane.start(lanes[0].spec, one.shape, CPU).parameters[:adapter]

    exact, begin = trained(build_pack())
    moved = (exact - begin).norm()
    scaled, unscaled = trained(pack)[0], trained(pack, loss_scale=LossScale(1.0))[0]
    assert (scaled - exact).norm() < 0.3 * moved
    assert (unscaled - exact).norm() > 0.6 * moved


@pytest.mark.parametrize("rank", [8, 16], ids=["same_bucket", "other_bucket"])
def test_a_lane_that_overflows_skips_its_steps_and_leaves_the_others_bit_identical(pack, data, rank):
    def run(scale):
        trials = [spec(n, seed=n, **{"lora.r": 4 if n != 1 else rank, "lora.dropout": 0.1}) for n in range(3)]
        lanes = {lane.spec.number: lane for lane in start(pack, trials)}
        lanes[1].loss_scale = scale
        for _ in range(2):
            outcomes = pack.train_chunk(list(lanes.values()), data.rows, row_loss)
        return lanes, dict(zip(lanes, outcomes, strict=True))

    sound, _ = run(LossScale())
    broken, outcomes = run(FAR_TOO_LARGE)
    for number in (0, 2):
        assert torch.equal(state(broken[number]), state(sound[number]))
        assert broken[number].loss_scale == sound[number].loss_scale
        assert outcomes[number].skipped_steps == 0
    steps = 2 * data.rows.plan.micro_batches
    assert outcomes[1].skipped_steps == steps // 2  # of the second chunk
    assert broken[1].loss_scale == LossScale(2.0 ** (60 - steps), 0, steps)


def test_a_skipped_step_changes_neither_parameters_nor_moments(pack, data):
    trial = spec(**{"train.weight_decay": 0.5, "train.warmup_ratio": 0.0})
    (lane,), (fresh,) = start(pack, [trial]), start(pack, [trial])
    lane.loss_scale = FAR_TOO_LARGE
    pack.train_chunk([lane], data.rows, row_loss)
    assert torch.equal(state(lane), state(fresh))
    assert (lane.step, lane.chunks_done) == (data.rows.plan.micro_batches, 1)


def test_a_scale_that_is_a_little_too_large_adapts_and_the_trial_learns(pack, data):
    (lane,), (sound,) = start(pack, [spec()]), start(pack, [spec()])
    lane.loss_scale = LossScale(2.0**30)
    losses = [train(pack, [each], data, 6)[0][-5:].mean() for each in (lane, sound)]
    assert 0 < lane.loss_scale.skipped_steps < 20
    assert losses[0] == pytest.approx(losses[1].item(), rel=0.2)


def test_a_trial_that_was_interrupted_continues_with_its_scale(pack, data):
    (through,), (lane,) = start(pack, [spec(3)]), start(pack, [spec(3)])
    through.loss_scale = lane.loss_scale = LossScale(2.0**22)
    train(pack, [through], data, 4)
    train(pack, [lane], data, 2)
    assert lane.loss_scale != LossScale(2.0**22)
    admission = Admission(spec=lane.spec, chunks_done=2, checkpoint=to_safetensors(lane.state()))
    lane = Lane.admit(admission, pack.shape, CPU)
    train(pack, [lane], data, 2)
    assert lane.loss_scale == through.loss_scale
    assert torch.equal(state(lane), state(through))


def test_a_checkpoint_without_a_scale_starts_with_the_first_one(pack):
    (lane,) = start(pack, [spec()])
    tensors = {name: value for name, value in lane.state().items() if name != "loss_scale"}
    admission = Admission(spec=lane.spec, chunks_done=0, checkpoint=to_safetensors(tensors))
    assert Lane.admit(admission, pack.shape, CPU).loss_scale == LossScale()


def test_a_pack_in_another_type_leaves_the_scale_alone(data):
    pack = build_pack()
    (lane,) = start(pack, [spec()])
    lane.loss_scale = LossScale(8.0, 3, 4)
    assert pack.train_chunk([lane], data.rows, row_loss)[0].skipped_steps == 0
    assert lane.loss_scale == LossScale(8.0, 3, 4)


def test_scales_change_as_those_of_torchs_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=200)
    scales = LaneScales([LossScale(1.0), LossScale()], CPU)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer, skipped = torch.optim.SGD([parameter], lr=0.0), 0
    for step in range(450):
        overflows = step in (3, 4, 250)
        parameter.grad = torch.tensor([float("inf") if overflows else 1.0])
        scaler.scale(torch.ones(()))  # makes its tensors
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        skipped += overflows
        scales.update(1, torch.tensor(float(overflows)))
        assert scales.states()[1].scale == scaler.get_scale()
    assert scales.states() == [LossScale(1.0), LossScale(2.0**14, scales.states()[1].good_steps, skipped)]


def test_scaled_gradients_make_the_same_steps():
    generator = torch.Generator().manual_seed(0)
    begin = torch.randn(len(LANES), SIZE, generator=generator)
    made = []
    for states in (None, [LossScale(2.0**n) for n in (4, 8, 12, 16)]):
        scales = None if states is None else LaneScales(states, CPU)
        moments = {"moment1": torch.zeros_like(begin), "moment2": torch.zeros_like(begin)}
        optimizer = LaneOptimizer(
            LANES, [0] * len(LANES), num_adapter=ADAPTER, decay_mask=MASK, scales=scales, **moments
        )
        parameters, draw = begin.clone(), torch.Generator().manual_seed(1)
        for _ in range(6):
            gradients = torch.randn(begin.shape, generator=draw)
            if scales is not None:
                gradients *= scales.scale_k[:, None]
            optimizer.step(parameters, gradients, [True] * len(LANES))
        made.append(parameters)
    torch.testing.assert_close(made[1], made[0], rtol=1e-5, atol=1e-6)


def test_the_bias_correction_does_not_count_skipped_steps():
    settings = dataclasses.replace(LANES[0], warmup_steps=0, lr_schedule="constant")
    made = []
    for overflows in ((False, False), (True, False, False)):
        parameters = torch.ones(1, SIZE)
        moments = {"moment1": torch.zeros(1, SIZE), "moment2": torch.zeros(1, SIZE)}
        scales = LaneScales([LossScale(4.0)], CPU)
        optimizer = LaneOptimizer([settings], [0], num_adapter=ADAPTER, decay_mask=MASK, scales=scales, **moments)
        for overflow in overflows:
            gradient = torch.full((1, SIZE), torch.inf if overflow else 0.5) * scales.scale_k
            optimizer.step(parameters, gradient, [True])
        assert optimizer.steps == [len(overflows)]
        made.append(parameters)
    torch.testing.assert_close(made[1], made[0])

"""A trial does not depend on its neighbours: alone, in any pack, after a pause, beside one that breaks."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref

import pytest
import torch
from torch import nn

from sweeper.errors import ModelError, StoreError
from sweeper.train.checkpoints import to_safetensors
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, sort_lanes
from sweeper.types import Admission
from tests.train.tiny import (
    CPU,
    MIXED,
    build_model,
    build_pack,
    layers_of,
    outputs,
    row_loss,
    spec,
    specs,
    start,
    train,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
DROPOUTS = (0.0, 0.05, 0.3)


def with_dropout():
    return specs([{**change, "lora.dropout": DROPOUTS[number % 3]} for number, change in enumerate(MIXED)])


def state(lane):
    return torch.stack([lane.parameters, lane.moment1, lane.moment2])


def resumed(lane, pack):
    admission = Admission(spec=lane.spec, chunks_done=lane.chunks_done, checkpoint=to_safetensors(lane.state()))
    return Lane.admit(admission, pack.shape, CPU)


@pytest.mark.parametrize("trials", [specs(), with_dropout()], ids=["plain", "dropout"])
def test_a_trial_has_the_same_losses_alone_and_in_a_pack_of_eight(trials, pack, data):
    together = train(pack, start(pack, trials), data, 10)
    for trial in trials:
        alone = train(pack, start(pack, [trial]), data, 10)[trial.number]
        torch.testing.assert_close(together[trial.number], alone, **CLOSE)


def test_dropout_changes_the_losses(pack, data):
    plain = train(pack, start(pack, [spec()]), data, 2)[0]
    dropped = train(pack, start(pack, [spec(**{"lora.dropout": 0.3})]), data, 2)[0]
    assert (plain[5:] - dropped[5:]).abs().max() > 1e-3


def test_neighbours_that_come_and_go_change_nothing(pack, data):
    first, *others = with_dropout()
    alone = train(pack, start(pack, [first]), data, 6)[first.number]
    lanes, seen = start(pack, [first, *others[:3]]), []
    for chunk in range(6):
        if chunk in (2, 4):  # another trial, of another rank, at its own start, for the first of the neighbours
            kept = [lane for lane in lanes if lane.spec.number != others[chunk // 2 - 1].number]
            lanes = sort_lanes([*kept, *start(pack, [others[3 + chunk // 2]])])
        seen.append(train(pack, lanes, data, 1)[first.number])
    assert len(lanes) == 4
    torch.testing.assert_close(torch.cat(seen), alone, **CLOSE)


def test_a_trial_that_was_interrupted_ends_in_exactly_the_same_state(pack, data):
    trial = spec(**{"lora.r": 3, "lora.dropout": 0.1, "train.batch_size": 8})
    (through,) = start(pack, [trial])
    train(pack, [through], data, 4)
    (lane,) = start(pack, [trial])
    train(pack, [lane], data, 2)
    lane = resumed(lane, pack)
    train(pack, [lane], data, 2)
    assert (lane.step, lane.chunks_done) == (through.step, through.chunks_done) == (12, 4)
    assert torch.equal(state(lane), state(through))


def test_an_interrupted_trial_may_continue_in_another_pack(pack, data):
    trial, *others = with_dropout()
    alone = train(pack, start(pack, [trial]), data, 4)[trial.number]
    lanes = start(pack, [trial, others[0]])
    train(pack, lanes, data, 2)
    lane = next(lane for lane in lanes if lane.spec is trial)
    other = build_pack()
    rest = train(other, sort_lanes([resumed(lane, other), *start(other, others[1:4])]), data, 2)[trial.number]
    torch.testing.assert_close(rest, alone[10:], **CLOSE)


def broken_by_nan(lane):
    lane.parameters.fill_(math.nan)


def broken_by_rate(lane):
    values = {**lane.spec.by_key(), "train.learning_rate": math.inf}
    lane.spec = spec(lane.spec.number, seed=lane.spec.seed, **values)


@pytest.mark.parametrize("rank", [8, 16], ids=["same_bucket", "other_bucket"])
@pytest.mark.parametrize("breaks", [broken_by_nan, broken_by_rate])
def test_a_broken_lane_leaves_the_others_bit_identical(breaks, rank, pack, data):
    def run(spoil):
        trials = [spec(n, seed=n, **{"lora.r": 4 if n != 1 else rank, "lora.dropout": 0.1}) for n in range(4)]
        lanes = start(pack, trials)
        spoil(next(lane for lane in lanes if lane.spec.number == 1))
        losses = train(pack, lanes, data, 3)
        return {lane.spec.number: lane for lane in lanes}, losses

    sound, sound_losses = run(lambda lane: None)  # noqa: ARG005
    broken, losses = run(breaks)
    assert not broken[1].parameters.isfinite().all()
    assert not losses[1].isfinite().all()
    for number in (0, 2, 3):
        assert torch.equal(state(broken[number]), state(sound[number]))
        assert torch.equal(losses[number], sound_losses[number])


def test_a_broken_lane_leaves_the_scores_of_others_bit_identical(pack, data):
    from tests.train.test_batches import evaluation

    split = evaluation(data.ids[:30])
    lanes = start(pack, [spec(n, seed=n) for n in range(3)])
    train(pack, lanes, data, 1)
    sound = pack.predict(lanes, split, outputs)
    broken_by_nan(lanes[1])
    broken = pack.predict(lanes, split, outputs)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], sound[[0, 2]])


def test_a_chunk_that_fails_leaves_the_lanes_as_they_were(pack, data):
    lanes = start(pack, specs())
    before = [(state(lane), lane.step, lane.chunks_done) for lane in lanes]
    calls = []

    def failing(model, batch):
        calls.append(batch)
        if len(calls) == data.rows.plan.micro_batches:
            raise MemoryError
        return row_loss(model, batch)

    with pytest.raises(MemoryError):
        pack.train_chunk(lanes, data.rows, failing)
    for lane, (values, step, chunks_done) in zip(lanes, before, strict=True):
        assert torch.equal(state(lane), values)
        assert (lane.step, lane.chunks_done) == (step, chunks_done)


def test_the_same_seed_starts_the_same_adapter_whatever_the_pack(pack):
    one = Lane.start(spec(1, seed=5), pack.shape, CPU)
    two = Lane.start(spec(2, seed=5, **{"train.learning_rate": 1.0}), build_pack().shape, CPU)
    other = Lane.start(spec(1, seed=6), pack.shape, CPU)
    assert one.state_hash() == two.state_hash() != other.state_hash()


def test_a_trial_starts_as_peft_starts_one(pack):
    lane = Lane.start(spec(**{"lora.r": 16}), pack.shape, CPU)
    flat = lane.parameters[None]
    for shape, matrix in zip(lane.layout.lora, lane.layout.views_a(flat), strict=True):
        bound = shape.num_in**-0.5
        assert 0.9 * bound < matrix.abs().max() <= bound
        assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    assert all((matrix == 0).all() for matrix in lane.layout.views_b(flat))
    ((weight, bias),) = lane.layout.views_head(flat)
    assert weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert (bias == 0).all()


@pytest.mark.parametrize("kept", [slice(0, 0), slice(-40), slice(9, None)], ids=["empty", "torn", "headless"])
def test_a_damaged_checkpoint_is_named(kept, pack):
    (lane,) = start(pack, [spec(31)])
    admission = Admission(spec=lane.spec, chunks_done=1, checkpoint=to_safetensors(lane.state())[kept])
    with pytest.raises(StoreError, match="trial 31"):
        Lane.admit(admission, pack.shape, CPU)


def test_a_checkpoint_of_another_rank_is_refused(pack):
    (lane,) = start(pack, [spec(**{"lora.r": 4})])
    admission = Admission(spec=spec(**{"lora.r": 8}), chunks_done=1, checkpoint=to_safetensors(lane.state()))
    with pytest.raises(StoreError, match="another model or rank"):
        Lane.admit(admission, pack.shape, CPU)


def test_lanes_of_one_padded_rank_stand_side_by_side(pack):
    ranks = [16, 3, 12, 8, 1]
    lanes = [Lane.start(spec(n, **{"lora.r": rank}), pack.shape, CPU) for n, rank in enumerate(ranks)]
    assert [lane.layout.rank for lane in sort_lanes(lanes)] == [3, 8, 1, 16, 12]


def test_only_linear_layers_are_packed():
    model = build_model()
    _, head = layers_of(model)
    with pytest.raises(ModelError, match=r"word_embeddings is a Embedding.*target_modules"):
        Pack(model, targets=["bert.embeddings.word_embeddings"], head=head, dtype=torch.float32)


def test_a_chunk_that_fails_between_sibling_layers_releases_their_outputs(data):
    """Query, key and value are multiplied as one: what is computed for key and value must not outlive a failure."""
    pack, other = build_pack(), build_pack()
    kept = []

    def remember(_module, inputs):
        kept.append(weakref.ref(inputs[0]))

    def fail(_module, _inputs):
        raise MemoryError

    query, key = (pack._model.get_submodule(f"bert.encoder.layer.0.attention.self.{n}") for n in ("query", "key"))
    hooks = [query.register_forward_pre_hook(remember), key.register_forward_pre_hook(fail)]
    lanes = start(pack, specs())
    for attempt in (lambda: pack.train_chunk(lanes, data.rows, row_loss), lambda: predict(pack, lanes, data)):
        with contextlib.suppress(MemoryError):
            attempt()
        gc.collect()
        assert kept.pop()() is None
        assert kept == []
    for hook in hooks:
        hook.remove()
    losses, expected = train(pack, lanes, data, 2), train(other, start(other, specs()), data, 2)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[number], expected[number]) for number in expected)


def predict(pack, lanes, data):
    from tests.train.test_batches import evaluation

    return pack.predict(lanes, evaluation(data.ids[:30]), outputs)


@pytest.mark.parametrize("is_head", [False, True], ids=["target", "head"])
def test_a_layer_of_packed_bytes_is_refused(is_head):
    class Linear4bit(nn.Linear):
        pass

    model = build_model()
    targets, head = layers_of(model)
    name = (head if is_head else targets)[0]
    base = model.get_submodule(name)
    quantised = Linear4bit(base.in_features, base.out_features)
    quantised.weight = nn.Parameter(torch.zeros(base.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    model.set_submodule(name, quantised)
    with pytest.raises(ModelError, match=rf"^{name} is a .*Linear4bit with a uint8 weight.*unquantised"):
        Pack(model, targets=targets, head=head, dtype=torch.float32)

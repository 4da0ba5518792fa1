"""How much memory the state of lanes takes, and that lack of it leaves every lane as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sweeper.train.layout import bucket_rank
from tests.train.test_batches import evaluation, of_lengths
from tests.train.tiny import MIXED, build_pack, outputs, row_loss, specs, start

LANES = 2
ROWS = of_lengths([4] * 2, micro_batch=2)
"""So few tokens that activations are far smaller than the lanes."""


class LiveStorages(TorchDispatchMode):
    """Sums the bytes of all storages of a least size that are alive, after every operation."""

    def __init__(self, least_bytes):
        super().__init__()
        self.least_bytes, self.peak = least_bytes, 0
        self._refs = {}

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        self.peak = max(self.peak, self.total())
        return result

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if storage.nbytes() >= self.least_bytes:
            self._refs[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    def total(self):
        self._refs = {key: value for key, value in self._refs.items() if not value[0].expired()}
        return sum(size for _, size in self._refs.values())


def bytes_of_a_value(dtype, work, **settings):
    """Return the peak of all lane-sized storages during ``work``, in bytes per trainable value."""
    pack = build_pack(dtype=dtype)
    trials = specs([{"lora.r": 64, **settings}] * LANES)
    lanes = start(pack, trials)
    size = lanes[0].layout.size
    with LiveStorages(least_bytes=3.6 * size) as live:
        for lane in lanes:
            for vector in (lane.parameters, lane.moment1, lane.moment2):
                live.add(vector)
        assert live.total() == 12 * size * LANES
        work(pack, lanes)
    return live.peak / size / LANES


def train(pack, lanes):
    pack.train_chunk(lanes, ROWS, row_loss)


def score(pack, lanes):
    pack.predict(lanes, evaluation([[5] * 4] * 2), outputs)


@pytest.mark.parametrize(("dtype", "compute"), [(torch.bfloat16, 2 + 2), (torch.float32, 4)])
def test_training_keeps_20_bytes_of_a_value_on_the_device_and_12_on_the_host(dtype, compute):
    """Parameter, moments, gradient in float32, the multiplied copy and its gradient; the vectors before the chunk."""
    assert bytes_of_a_value(dtype, train) == pytest.approx(4 + 4 + 4 + 4 + compute + 12, rel=0.01)


def test_scoring_adds_the_multiplied_copy_and_one_lane_at_a_time():
    assert bytes_of_a_value(torch.bfloat16, score) == pytest.approx(12 + 2 + 4 / LANES, rel=0.01)


class NoMemory(TorchDispatchMode):
    """Fails the n-th operation that allocates."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = {t.untyped_storage()._cdata for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        if made - known:
            self.left -= 1
            if self.left == 0:
                raise torch.OutOfMemoryError
        return result


def test_lack_of_memory_at_any_allocation_leaves_every_lane_as_it_was():
    pack = build_pack()
    lanes = start(pack, specs(MIXED[:3]))
    assert len({bucket_rank(lane.layout.rank) for lane in lanes}) == 2
    train(pack, lanes)
    before = [(lane.parameters.clone(), lane.moment1.clone(), lane.moment2.clone(), lane.step) for lane in lanes]
    counter, copies = NoMemory(0), copy.deepcopy(lanes)
    with counter:
        train(pack, copies)
    allocations = -counter.left
    # Some of them, and the last ones, after which lanes are written.
    for number in sorted({*range(1, allocations, 25), *range(allocations - 4, allocations + 1)}):
        with pytest.raises(torch.OutOfMemoryError), NoMemory(number):
            train(pack, lanes)
        for lane, (parameters, moment1, moment2, step) in zip(lanes, before, strict=True):
            assert torch.equal(lane.parameters, parameters)
            assert torch.equal(lane.moment1, moment1)
            assert torch.equal(lane.moment2, moment2)
            assert (lane.step, lane.chunks_done) == (step, 1)
    train(pack, lanes)
    assert {lane.chunks_done for lane in lanes} == {2}

"""Lanes that fail together are tried in smaller groups; a lane that fails alone has failed."""

from __future__ import annotations

import errno

import pytest
import torch

from sweeper.failures import is_out_of_memory
from sweeper.train.out_of_memory import OutOfMemoryFallback, failure_of
from sweeper.types import FailureKind
from tests.train.tiny import build_pack, row_loss, spec, specs, start


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_lack_of_memory_on_the_device_is_recognised(error):
    assert is_out_of_memory(error)
    assert failure_of(error).kind is FailureKind.OUT_OF_MEMORY


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_lack_of_memory_on_the_host_is_a_failure_of_its_own_kind(error):
    assert is_out_of_memory(error)
    assert failure_of(error).kind is FailureKind.HOST_MEMORY


def test_lack_of_host_memory_while_a_gpu_trains_is_the_hosts():
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")
    assert failure_of(error, device="cuda").kind is FailureKind.HOST_MEMORY


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError()])
def test_other_failures_are_not_lack_of_memory(error):
    assert not is_out_of_memory(error)
    assert failure_of(error).kind is FailureKind.ERROR


def test_what_torch_raises_on_this_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert is_out_of_memory(caught.value)


@pytest.fixture
def lanes(pack):
    return start(pack, [spec(number) for number in range(8)])


def numbers(lanes):
    return [lane.spec.number for lane in lanes]


def test_lanes_that_work_run_together_once(lanes):
    calls = []
    results, failures = OutOfMemoryFallback().run(
        lanes, lambda group, _: calls.append(numbers(group)) or numbers(group)
    )
    assert calls == [list(range(8))]
    assert results == {number: number for number in range(8)}
    assert failures == {}


def test_a_failure_is_that_of_the_lane_that_fails_alone(lanes):
    calls = []

    def work(group, _parts=1):
        calls.append(numbers(group))
        if 5 in numbers(group):
            raise ValueError("lane 5 is odd")
        return [10 * number for number in numbers(group)]

    results, failures = OutOfMemoryFallback().run(lanes, work)
    assert calls == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert results == {number: 10 * number for number in range(8) if number != 5}
    assert failures.keys() == {5}
    assert failures[5].kind is FailureKind.ERROR
    assert failures[5].message == "ValueError: lane 5 is odd [1 lane, r=8, micro-batches in 1 part]"
    assert "in work" in failures[5].traceback


def test_groups_shrink_until_they_fit(lanes):
    def work(group, _parts=1):
        if len(group) > 3:
            raise MemoryError
        return numbers(group)

    results, failures = OutOfMemoryFallback().run(lanes, work)
    assert results == {number: number for number in range(8)}
    assert failures == {}


def test_a_lane_too_large_by_itself_is_out_of_memory(lanes):
    def work(group, _parts=1):
        if len(group) > 1 or 2 in numbers(group):
            raise torch.OutOfMemoryError
        return numbers(group)

    results, failures = OutOfMemoryFallback().run(lanes, work)
    assert results.keys() == set(range(8)) - {2}
    assert failures[2].kind is FailureKind.OUT_OF_MEMORY


def test_an_interrupt_is_not_a_lanes_failure(lanes):
    def work(_group, _parts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OutOfMemoryFallback().run(lanes, work)


def test_no_lanes_is_no_work():
    assert OutOfMemoryFallback().run([], lambda group, parts: 1 / 0) == ({}, {})  # noqa: ARG005


def test_lanes_trained_in_parts_for_lack_of_memory_end_as_together(pack, data):
    def limited(model, batch):
        if len(batch.ids) > 2 * data.rows.plan.micro_batch:
            raise MemoryError
        return row_loss(model, batch)

    def outcomes(loss_of):
        lanes = start(pack, specs(**{"lora.dropout": 0.1}))
        for _ in range(2):
            found, failures = OutOfMemoryFallback().run(
                lanes, lambda group, _: pack.train_chunk(group, data.rows, loss_of)
            )
            assert failures == {}
        return {lane.spec.number: (found[lane.spec.number], lane) for lane in lanes}

    together, apart = outcomes(row_loss), outcomes(limited)
    for number, (outcome, lane) in together.items():
        other, other_lane = apart[number]
        assert other.loss == pytest.approx(outcome.loss, rel=1e-4)
        assert (other.num_rows, other.num_tokens) == (outcome.num_rows, outcome.num_tokens)
        assert (other_lane.step, other_lane.chunks_done) == (lane.step, lane.chunks_done)
        torch.testing.assert_close(other_lane.parameters, lane.parameters, rtol=1e-3, atol=1e-5)


def test_a_lane_too_large_alone_is_trained_in_parts_and_ends_the_same(data):
    trial = spec(0, seed=3, **{"lora.dropout": 0.2, "train.batch_size": 8})

    def limited(model, batch):
        if len(batch.ids) > 1:
            raise MemoryError
        return row_loss(model, batch)

    def trained(loss_of):
        pack = build_pack()
        (lane,) = start(pack, [trial])
        for _ in range(3):
            results, failures = OutOfMemoryFallback(max_parts=4).run(
                [lane], lambda group, parts: pack.train_chunk(group, data.rows, loss_of, parts=parts)
            )
            assert failures == {}
        return lane, results[0].loss

    (whole, loss), (parted, other_loss) = trained(row_loss), trained(limited)
    assert other_loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(parted.parameters, whole.parameters, rtol=1e-3, atol=1e-5)


def test_lanes_that_did_not_fit_together_are_not_tried_together_again(lanes):
    fallback, sizes = OutOfMemoryFallback(), []

    def work(group, _parts):
        sizes.append(len(group))
        if len(group) > 2:
            raise MemoryError
        return numbers(group)

    fallback.run(lanes, work)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    sizes.clear()
    fallback.run(lanes, work)
    assert sizes == [2, 2, 2, 2]


def test_a_lane_that_needs_parts_starts_with_them_in_the_next_chunk(pack):
    """Each trial for itself, and scoring apart from training: how rows are divided changes a trial's rounding."""
    fallback, attempts = OutOfMemoryFallback(max_parts=8), []
    needed = {0: 4, 1: 1}
    lanes = start(pack, [spec(number) for number in needed])

    def work(group, parts):
        attempts.append((*numbers(group), parts))
        if len(group) > 1 or parts < needed[group[0].spec.number]:
            raise MemoryError
        return numbers(group)

    for expected in ([(0, 1, 1), (0, 1), (0, 2), (0, 4), (1, 1)], [(0, 4), (1, 1)]):
        attempts.clear()
        assert fallback.run(lanes, work) == ({0: 0, 1: 1}, {})
        assert attempts == expected
    attempts.clear()
    needed[0] = 1
    fallback.run(lanes, work, stage="score")
    assert attempts == [(0, 1), (1, 1)]


def test_a_failure_at_the_remembered_parts_is_tried_in_more(pack):
    fallback, attempts, needed = OutOfMemoryFallback(max_parts=4), [], [2]
    lanes = start(pack, [spec(0)])

    def work(group, parts):
        attempts.append(parts)
        if parts < needed[0]:
            raise MemoryError
        return numbers(group)

    fallback.run(lanes, work)
    needed[0] = 8
    _, failures = fallback.run(lanes, work)
    assert attempts == [1, 2, 2, 4]
    assert failures[0].kind is FailureKind.HOST_MEMORY

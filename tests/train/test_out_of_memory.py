"""What does not fit is tried in smaller passes, then in smaller groups; a lane that fails alone has failed."""

from __future__ import annotations

import errno

import pytest
import torch

from sweeper.failures import is_device_error, is_out_of_memory
from sweeper.train.out_of_memory import OutOfMemoryFallback, failure_of
from sweeper.types import FailureKind
from tests.train.test_batches import evaluation, of_lengths
from tests.train.tiny import build_pack, row_loss, spec, specs, start

SHORT = of_lengths([12] * 8, micro_batch=8)
"""Passes of 96 tokens of each lane: too few to be made smaller before the groups are."""
LONG = of_lengths([100] * 16, device=torch.device("meta"))
"""One pass of 1,600 tokens of each lane, as on a GPU."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
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


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` ...",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, ...`",
        "Triton Error [CUDA]: unspecified launch failure",
    ],
)
def test_a_device_that_fails_ends_the_work_and_no_trial(lanes, text):
    calls = []

    def work(group, tokens):
        calls.append((len(group), tokens))
        raise RuntimeError(text)

    with pytest.raises(RuntimeError) as caught:
        OutOfMemoryFallback(device="cuda").run(lanes, work, SHORT)
    assert len(calls) == 1
    assert is_device_error(caught.value)
    assert not is_out_of_memory(caught.value)


@pytest.fixture
def lanes(pack):
    return start(pack, [spec(number) for number in range(8)])


def numbers(lanes):
    return [lane.spec.number for lane in lanes]


def test_lanes_that_work_run_together_once(lanes):
    calls = []
    results, failures = OutOfMemoryFallback().run(
        lanes, lambda group, _: calls.append(numbers(group)) or numbers(group), SHORT
    )
    assert calls == [list(range(8))]
    assert results == {number: number for number in range(8)}
    assert failures == {}


def test_a_failure_is_that_of_the_lane_that_fails_alone(lanes):
    calls = []

    def work(group, _tokens):
        calls.append(numbers(group))
        if 5 in numbers(group):
            raise ValueError("lane 5 is odd")
        return [10 * number for number in numbers(group)]

    results, failures = OutOfMemoryFallback().run(lanes, work, SHORT)
    assert calls == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert results == {number: 10 * number for number in range(8) if number != 5}
    assert failures.keys() == {5}
    assert failures[5].kind is FailureKind.ERROR
    assert failures[5].message == "ValueError: lane 5 is odd [1 lane, r=8, passes of 96 tokens]"
    assert "in work" in failures[5].traceback


def test_groups_shrink_until_they_fit(lanes):
    def work(group, _tokens):
        if len(group) > 3:
            raise MemoryError
        return numbers(group)

    results, failures = OutOfMemoryFallback().run(lanes, work, SHORT)
    assert results == {number: number for number in range(8)}
    assert failures == {}


def test_a_lane_too_large_by_itself_is_out_of_memory(lanes):
    def work(group, _tokens):
        if len(group) > 1 or 2 in numbers(group):
            raise torch.OutOfMemoryError
        return numbers(group)

    results, failures = OutOfMemoryFallback().run(lanes, work, SHORT)
    assert results.keys() == set(range(8)) - {2}
    assert failures[2].kind is FailureKind.OUT_OF_MEMORY


def test_an_interrupt_is_not_a_lanes_failure(lanes):
    def work(_group, _tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OutOfMemoryFallback().run(lanes, work, SHORT)


def test_no_lanes_is_no_work():
    assert OutOfMemoryFallback().run([], lambda group, tokens: 1 / 0, SHORT) == ({}, {})  # noqa: ARG005


def test_lanes_trained_in_parts_for_lack_of_memory_end_as_together(pack, data):
    def limited(model, batch):
        if len(batch.ids) > 2 * data.rows.plan.micro_batch:
            raise MemoryError
        return row_loss(model, batch)

    def outcomes(loss_of):
        lanes = start(pack, specs(**{"lora.dropout": 0.1}))
        for _ in range(2):
            found, failures = OutOfMemoryFallback().run(
                lanes, lambda group, _: pack.train_chunk(group, data.rows, loss_of), data.rows
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


def test_a_lane_too_large_alone_is_trained_in_smaller_passes_and_ends_the_same(data):
    trial, longest = spec(0, seed=3, **{"lora.dropout": 0.2, "train.batch_size": 8}), data.rows.longest

    def limited(model, batch):
        if batch.ids.numel() > longest:
            raise MemoryError
        return row_loss(model, batch)

    def trained(loss_of):
        pack = build_pack()
        (lane,) = start(pack, [trial])
        for _ in range(3):
            results, failures = OutOfMemoryFallback().run(
                [lane], lambda group, n: pack.train_chunk(group, data.rows, loss_of, tokens_per_pass=n), data.rows
            )
            assert failures == {}
        return lane, results[0].loss

    (whole, loss), (parted, other_loss) = trained(row_loss), trained(limited)
    assert other_loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(parted.parameters, whole.parameters, rtol=1e-3, atol=1e-5)


def test_lanes_that_did_not_fit_together_are_not_tried_together_again(lanes):
    fallback, sizes = OutOfMemoryFallback(), []

    def work(group, _tokens):
        sizes.append(len(group))
        if len(group) > 2:
            raise MemoryError
        return numbers(group)

    fallback.run(lanes, work, SHORT)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    sizes.clear()
    fallback.run(lanes, work, SHORT)
    assert sizes == [2, 2, 2, 2]


def test_a_lane_that_needs_smaller_passes_starts_with_them_in_the_next_chunk(pack):
    """Each trial for itself, and scoring apart from training: how rows are divided changes a trial's rounding."""
    fallback, attempts = OutOfMemoryFallback(), []
    fits = {0: 24, 1: 96}
    lanes = start(pack, [spec(number) for number in fits])

    def work(group, tokens):
        attempts.append((*numbers(group), tokens))
        if len(group) > 1 or SHORT.largest_pass(1, tokens) > fits[group[0].spec.number]:
            raise MemoryError
        return numbers(group)

    for expected in ([(0, 1, 0), (0, 0), (0, 48), (0, 24), (1, 0)], [(0, 24), (1, 0)]):
        attempts.clear()
        assert fallback.run(lanes, work, SHORT) == ({0: 0, 1: 1}, {})
        assert attempts == expected
    attempts.clear()
    fits[0] = 96
    fallback.run(lanes, work, SHORT, stage="score")
    assert attempts == [(0, 0), (1, 0)]


def test_a_failure_at_what_fitted_before_is_tried_in_ever_smaller_passes(pack):
    fallback, attempts, fits = OutOfMemoryFallback(), [], [48]
    lanes = start(pack, [spec(0)])

    def work(group, tokens):
        attempts.append(tokens)
        if SHORT.largest_pass(1, tokens) > fits[0]:
            raise MemoryError
        return numbers(group)

    fallback.run(lanes, work, SHORT)
    fits[0] = 0
    _, failures = fallback.run(lanes, work, SHORT)
    assert attempts == [0, 48, 48, 24, 12]  # 12 tokens are one row
    assert failures[0].kind is FailureKind.HOST_MEMORY


class Device:
    """A device on which lanes and tokens take memory; records what was tried as (lanes, tokens of the largest pass)."""

    def __init__(self, rows, *, capacity, lane=0):
        self.rows, self.capacity, self.lane, self.tried = rows, capacity, lane, []

    def work(self, group, tokens):
        used = self.rows.largest_pass(len(group), tokens)
        self.tried.append((len(group), used))
        if used + self.lane * len(group) > self.capacity:
            raise torch.OutOfMemoryError
        return numbers(group)

    def run(self, fallback, lanes, **stage):
        self.tried.clear()
        results, failures = fallback.run(lanes, self.work, self.rows, **stage)
        assert (results, failures) == ({number: number for number in numbers(lanes)}, {})
        return self.tried


def test_on_a_gpu_the_passes_shrink_and_the_lanes_stay_together(lanes):
    fallback, device = OutOfMemoryFallback(device="cuda"), Device(LONG, capacity=4000)
    assert device.run(fallback, lanes) == [(8, 12800), (8, 6400), (8, 3200)]
    assert fallback.max_lanes is None


def test_the_passes_that_fitted_are_remembered_for_the_study_and_the_stage(lanes):
    fallback, device = OutOfMemoryFallback(device="cuda"), Device(LONG, capacity=4000)
    device.run(fallback, lanes)
    assert device.run(fallback, lanes) == [(8, 3200)]
    assert device.run(fallback, lanes[:2]) == [(2, 3200)]
    assert fallback.tokens_per_pass("score") == 0
    assert device.run(fallback, lanes[:4], stage="score") == [(4, 6400), (4, 3200)]


def test_lanes_are_halved_once_passes_are_as_small_as_a_gpu_can_use(lanes):
    fallback, device = OutOfMemoryFallback(device="cuda"), Device(LONG, capacity=8000, lane=1000)
    # Eight lanes do not fit with any tokens; four of them do, in passes that are large enough for a GPU.
    # The second half starts with what fitted the first.
    together = [(8, 12800), (8, 6400), (8, 3200)]
    assert device.run(fallback, lanes) == [*together, (4, 6400), (4, 3200), (4, 3200)]
    assert (fallback.max_lanes, fallback.tokens_per_pass()) == (4, 3200)


def test_the_lanes_of_a_small_budget_train_in_groups(lanes):
    fallback, device = OutOfMemoryFallback(350, device="cuda"), Device(LONG, capacity=350)
    assert device.run(fallback, lanes) == [(3, 300), (3, 300), (2, 200)]


def test_a_small_budget_is_halved_with_the_lanes(lanes):
    fallback, device = OutOfMemoryFallback(3000), Device(LONG, capacity=1700)
    assert device.run(fallback, lanes) == [(8, 1600)]
    fallback, device = OutOfMemoryFallback(3000), Device(LONG, capacity=900)
    assert device.run(fallback, lanes) == [(8, 1600), (4, 800), (4, 800)]
    assert device.run(fallback, lanes) == [(4, 800), (4, 800)]


def test_scoring_keeps_to_the_budget_too(lanes):
    split = evaluation([[5] * 100] * 31, batch_size=31)
    fallback, device = OutOfMemoryFallback(4000, device="cuda"), Device(split, capacity=4000)
    assert device.run(fallback, lanes, stage="score") == [(8, 4000)]
    device.capacity = 2500
    assert device.run(fallback, lanes, stage="score") == [(8, 4000), (4, 2000), (4, 2000)]


@pytest.mark.parametrize(
    ("error", "device", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "cuda", FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), "cuda", FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), "cpu", FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), "cuda", FailureKind.HOST_MEMORY),
        (MemoryError(), "cuda", FailureKind.HOST_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cpu", FailureKind.HOST_MEMORY),
    ],
)
def test_every_kind_of_it_shrinks_the_passes_and_is_named_in_the_end(lanes, error, device, kind):
    tried = []

    def work(group, tokens):
        tried.append((len(group), LONG.largest_pass(len(group), tokens)))
        raise error

    _, failures = OutOfMemoryFallback(device=device).run(lanes[:2], work, LONG)
    assert tried[:3] == [(2, 3200), (1, 1600), (1, 800)]
    assert tried[-1] == (1, 100)
    assert {failure.kind for failure in failures.values()} == {kind}
    assert failures[0].message.endswith("[1 lane, r=8, passes of 100 tokens]")


def test_a_failure_of_another_kind_is_not_retried_in_smaller_passes(lanes):
    tried = []

    def work(group, tokens):
        tried.append((len(group), tokens))
        raise ValueError

    OutOfMemoryFallback().run(lanes[:2], work, LONG)
    assert tried == [(2, 0), (1, 0), (1, 0)]

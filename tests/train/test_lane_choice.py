"""Choosing lanes and tokens for ``executor.lanes=auto``: what is measured on which rows, and the reason given."""

from __future__ import annotations

import itertools

import pytest
import torch

from sweeper.train.lane_choice import Workload, choose_lanes, longest_rows, typical_rows
from tests.train.tiny import CPU, PAD, examples, row_loss, spec, token_rows

LENGTHS = [[1] * length for length in range(1, 30)]
GPU = {"pad_token_id": PAD, "device": torch.device("meta")}
TYPICAL = Workload(spec(), typical_rows(examples(LENGTHS), 4, **GPU))
LARGEST = Workload(spec(**{"lora.r": 64}), longest_rows(examples(LENGTHS), 4, **GPU))
"""Passes of four rows of 29 tokens of each lane."""
PLENTY = 10**9


class FakeDevice:
    """A pack, its memory and a clock: lanes and tokens take bytes, and a chunk takes seconds by its number of lanes.

    Args:
        pack: A pack with the shape of the adapters.
        seconds: Seconds of a chunk of K lanes.
        lane: Bytes of a lane of rank 64; less for smaller ranks.
        token: Bytes of a token.
        free: Free bytes.
        capacity: Bytes that there really are.
    """

    def __init__(self, pack, seconds=lambda _: 1.0, *, lane=0, token=0, free=PLENTY, capacity=PLENTY):
        self.shape, self.device = pack.shape, CPU
        self.seconds, self.lane, self.token, self.free, self.capacity = seconds, lane, token, free, capacity
        self.now, self.needed, self.trained = 0.0, 0, []

    def train_chunk(self, lanes, rows, _loss, *, tokens_per_pass):
        used = rows.largest_pass(len(lanes), tokens_per_pass)
        self.trained.append((len(lanes), lanes[0].spec.lora.r, rows.longest, used))
        self.needed = 500 + sum(self.lane * lane.spec.lora.r / 64 for lane in lanes) + self.token * used
        if self.needed > self.capacity:
            raise torch.OutOfMemoryError
        self.now += self.seconds(len(lanes))

    def free_bytes(self):
        return self.free

    def peak_bytes(self, work):
        work()
        return self.needed - 500

    def clock(self):
        return self.now

    def choose(self, **options):
        work = {"typical": TYPICAL, "largest": LARGEST, "limit": 64}
        return choose_lanes(self, row_loss, **{**work, **options}, memory=self, clock=self.clock)

    @property
    def timed(self):
        """What was trained on typical rows, without repetitions."""
        return list(dict.fromkeys(each for each in self.trained if each[1] == TYPICAL.spec.lora.r))


def test_it_stops_where_more_lanes_gain_little(pack):
    device = FakeDevice(pack, {1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1, 16: 1.0}.get)
    choice = device.choose()
    assert [lanes for lanes, *_ in device.timed] == [1, 2, 4, 8]
    assert (choice.lanes, choice.tokens_per_pass) == (8, 0)
    assert choice.rows_per_s == pytest.approx({1: 4, 2: 8 / 1.2, 4: 10, 8: 32 / 3.1})
    assert "8 lanes gain less than 5% over 4" in str(choice)


def test_it_keeps_fewer_lanes_when_more_are_slower(pack):
    assert FakeDevice(pack, {1: 1.0, 2: 1.5, 4: 4.0}.get).choose().lanes == 2


def test_it_respects_the_limit(pack):
    device = FakeDevice(pack)
    assert device.choose(limit=7).lanes == 4
    assert [lanes for lanes, *_ in device.timed] == [1, 2, 4]


def test_memory_is_measured_on_the_longest_rows_and_the_largest_rank_and_speed_on_typical_ones(pack):
    device = FakeDevice(pack)
    choice = device.choose(limit=1)
    assert set(device.trained) == {(1, 64, 29, 29), (1, 64, 29, 116), (1, 8, 16, 64)}
    assert str(choice).endswith("speed on rows of up to 16 tokens and r=8, memory on 29 tokens and r=64")


def test_lanes_are_packed_by_tokens_when_whole_micro_batches_do_not_fit(pack):
    """Of 80,000 bytes, each lane takes 1,000 of its own, and the rest is for tokens of 100 bytes."""
    device = FakeDevice(pack, lane=1000, token=100, free=100_000)
    choice = device.choose(limit=16)
    assert choice.lanes == 16
    assert choice.tokens_per_pass == (80_000 - 16 * 1000) // 100
    assert "16 lanes, passes of at most 640 tokens" in str(choice)
    # Four lanes of whole micro-batches have 464 tokens, eight 928 of the 720 that fit beside them.
    assert [used for _, _, _, used in device.timed] == [64, 128, 256, 512, 512]
    assert device.choose(limit=4).tokens_per_pass == 0


def test_it_stops_where_a_row_of_each_lane_does_not_fit(pack):
    device = FakeDevice(pack, lane=8000, token=100, free=100_000)
    choice = device.choose()
    assert [lanes for lanes, *_ in device.timed] == [1, 2, 4]
    assert (choice.lanes, choice.tokens_per_pass) == (4, 0)
    assert "a row of each of 8 lanes would need more than 80% of the free memory" in choice.why


def test_a_lane_that_does_not_fit_is_tried_row_by_row_all_the_same(pack):
    choice = FakeDevice(pack, lane=80_000, token=100, free=100_000).choose()
    assert (choice.lanes, choice.tokens_per_pass) == (1, 29)


def test_lack_of_memory_while_it_is_measured_leaves_one_lane_row_by_row(pack):
    for capacity in (500 + 29 * 10, 500 + 116 * 10 - 1, 500 + 28 * 10):
        choice = FakeDevice(pack, token=10, capacity=max(capacity, 500 + 16 * 10)).choose()
        assert (choice.lanes, choice.tokens_per_pass) == (1, 29)


def test_running_out_of_memory_ends_the_timing(pack):
    device = FakeDevice(pack, token=10, capacity=500 + 10 * 130)
    choice = device.choose()
    assert [lanes for lanes, *_ in device.timed] == [1, 2, 4]
    assert (choice.lanes, choice.why) == (2, "4 lanes ran out of memory")


def test_tokens_of_the_settings_are_not_exceeded(pack):
    device = FakeDevice(pack, token=1)
    choice = device.choose(limit=4, tokens_per_pass=100)
    assert choice.tokens_per_pass == 100
    assert max(used for *_, used in device.timed) <= 100
    assert device.choose(limit=1, tokens_per_pass=5000).tokens_per_pass == 5000


def test_rows_of_one_each_are_measured_too(pack):
    work = Workload(LARGEST.spec, longest_rows(examples(LENGTHS), 1, **GPU))
    choice = FakeDevice(pack, token=100, free=20_000).choose(largest=work)
    assert choice.lanes == 4  # 16,000 bytes are 160 tokens, and a row has 29


def test_another_failure_is_not_hidden(pack):
    work = Workload(spec(), typical_rows(examples(token_rows(50)), 4, pad_token_id=PAD, device=CPU))
    with pytest.raises(ZeroDivisionError):
        choose_lanes(pack, lambda model, batch: 1 / 0, typical=work, largest=work, limit=8)  # noqa: ARG005


def test_it_measures_for_real_with_a_clock(pack):
    ticks, rows = itertools.count(), examples(token_rows(50))
    typical = Workload(spec(**{"lora.dropout": 0.1}), typical_rows(rows, 4, pad_token_id=PAD, device=CPU))
    largest = Workload(spec(**{"lora.r": 16}), longest_rows(rows, 4, pad_token_id=PAD, device=CPU))
    choice = choose_lanes(pack, row_loss, typical=typical, largest=largest, limit=4, clock=lambda: next(ticks))
    assert choice.rows_per_s == {1: 4, 2: 8, 4: 16}


def test_typical_rows_are_those_of_the_median_length_and_the_longest_the_last():
    where = {"pad_token_id": PAD, "device": CPU}
    typical, longest = (make(examples(LENGTHS), 5, **where) for make in (typical_rows, longest_rows))
    assert [[one.length for one in rows.passes(0)] for rows in (typical, longest)] == [[17], [29]]
    assert typical.plan.rows_per_chunk == longest.plan.rows_per_chunk == 5

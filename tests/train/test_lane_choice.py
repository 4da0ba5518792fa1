"""Choosing the number of lanes for ``executor.lanes=auto``: which are tried, and the reason given."""

from __future__ import annotations

import itertools

import pytest

from sweeper.train import lane_choice
from sweeper.train.lane_choice import choose_lanes, typical_rows
from tests.train.tiny import CPU, PAD, examples, row_loss, spec, token_rows


@pytest.fixture
def rows():
    return typical_rows(examples(token_rows(50)), 4, pad_token_id=PAD, device=CPU)


def costs(monkeypatch, seconds, used=0):
    """Let a step of K lanes take ``seconds(K)``; returns the numbers of lanes tried."""
    tried = []

    def measure(_pack, _rows, _loss, specs, _clock):
        tried.append(len(specs))
        return seconds(len(specs)), used * len(specs)

    monkeypatch.setattr(lane_choice, "_measure", measure)
    return tried


def test_it_stops_where_more_lanes_gain_little(pack, rows, monkeypatch):
    tried = costs(monkeypatch, {1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1, 16: 1.0}.get)
    choice = choose_lanes(pack, rows, row_loss, spec=spec(), limit=64)
    assert tried == [1, 2, 4, 8]
    assert choice.lanes == 8
    assert choice.rows_per_s == pytest.approx({1: 4, 2: 8 / 1.2, 4: 10, 8: 32 / 3.1})
    assert "8 lanes gain less than 5% over 4" in str(choice)


def test_it_keeps_fewer_lanes_when_more_are_slower(pack, rows, monkeypatch):
    costs(monkeypatch, {1: 1.0, 2: 1.5, 4: 4.0}.get)
    assert choose_lanes(pack, rows, row_loss, spec=spec(), limit=64).lanes == 2


def test_it_respects_the_limit(pack, rows, monkeypatch):
    tried = costs(monkeypatch, lambda _: 1.0)
    assert choose_lanes(pack, rows, row_loss, spec=spec(), limit=7).lanes == 4
    assert tried == [1, 2, 4]


def test_it_plans_within_the_free_memory(pack, rows, monkeypatch):
    tried = costs(monkeypatch, lambda _: 1.0, used=100)
    monkeypatch.setattr(lane_choice, "_free_bytes", lambda _: 950)
    choice = choose_lanes(pack, rows, row_loss, spec=spec(), limit=64)
    assert tried == [1, 2, 4]
    assert choice.lanes == 4
    assert "free memory" in choice.why


def test_running_out_of_memory_ends_the_measurement(pack, rows, monkeypatch):
    def seconds(lanes):
        if lanes > 2:
            raise MemoryError
        return 1.0

    costs(monkeypatch, seconds)
    assert choose_lanes(pack, rows, row_loss, spec=spec(), limit=64).lanes == 2


def test_another_failure_is_not_hidden(pack, rows):
    with pytest.raises(ZeroDivisionError):
        choose_lanes(pack, rows, lambda model, batch: 1 / 0, spec=spec(), limit=8)  # noqa: ARG005


def test_it_measures_for_real_with_a_clock(pack, rows):
    ticks = itertools.count()
    choice = choose_lanes(pack, rows, row_loss, spec=spec(**{"lora.dropout": 0.1}), limit=4, clock=lambda: next(ticks))
    assert choice.rows_per_s == {1: 4, 2: 8, 4: 16}


def test_typical_rows_are_those_of_the_median_length():
    ids = [[1] * length for length in range(1, 30)]
    rows = typical_rows(examples(ids), 5, pad_token_id=PAD, device=CPU)
    assert [one.length for one in rows.passes(0)] == [17]
    assert rows.plan.rows_per_chunk == 5

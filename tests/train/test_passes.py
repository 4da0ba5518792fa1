"""Micro-batches are trained in passes, by their lengths and by a budget of tokens; a trial is the same trial."""

from __future__ import annotations

import pytest
import torch

from sweeper.train import batches
from tests.train.tiny import Data, build_pack, row_loss, spec, start

CHUNKS = 3


def trained(data, trials, *, tokens=0):
    """Train and return the parameters of trial 0."""
    pack = build_pack()
    lanes = start(pack, trials)
    for _ in range(CHUNKS):
        pack.train_chunk(lanes, data.rows, row_loss, tokens_per_pass=tokens)
    return next(lane.parameters for lane in lanes if lane.spec.number == 0)


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setattr(batches, "_TOKENS_PER_PASS", 16)
    made = Data()
    lengths = [[one.length for one in made.rows.passes(index)] for index in range(made.rows.plan.micro_batches)]
    assert any(len(set(of_class)) > 1 for of_class in lengths)
    return made


def dropping(number=0, **more):
    return spec(number, **{"lora.dropout": 0.3, **more})


@pytest.mark.parametrize("tokens", [3, 8, 12])
def test_in_smaller_passes_it_sees_the_same_dropout_masks(data, tokens):
    assert data.rows.largest_pass(1, tokens) < data.rows.largest_pass(1)
    torch.testing.assert_close(
        trained(data, [dropping()], tokens=tokens), trained(data, [dropping()]), rtol=1e-3, atol=1e-5
    )


def test_a_budget_for_all_lanes_changes_no_trial(data):
    others = [dropping(1, seed=3), spec(2, **{"lora.r": 16})]
    assert data.rows.largest_pass(3, 36) <= 36 < data.rows.largest_pass(3)
    torch.testing.assert_close(
        trained(data, [dropping(), *others], tokens=36), trained(data, [dropping()]), rtol=1e-3, atol=1e-5
    )


def test_it_is_the_same_alone_and_beside_others(data):
    others = [dropping(1, seed=3), spec(2, **{"lora.r": 16})]
    torch.testing.assert_close(trained(data, [dropping(), *others]), trained(data, [dropping()]), rtol=1e-3, atol=1e-5)


def test_passes_add_up_to_the_step_of_the_whole_micro_batch(data):
    in_passes, same_rows = trained(data, [spec()]), data.rows
    same_rows._passes = [
        [batches.Pass(slice(0, 4), max(one.length for one in of_class))] for of_class in same_rows._passes
    ]
    torch.testing.assert_close(in_passes, trained(data, [spec()]), rtol=1e-3, atol=1e-5)

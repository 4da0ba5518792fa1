"""The contract of the engine: a lane of a mixed pack has the losses of the same trial trained alone through PEFT."""

from __future__ import annotations

import pytest
import torch

from tests.train.tiny import build_pack, specs, start, train, train_with_peft

CHUNKS = 10  # of 5 micro-batches


@pytest.mark.parametrize("kind", ["bert", "llama", "roberta", "electra", "gpt_neox"])
def test_every_lane_of_a_mixed_pack_has_the_losses_of_stock_peft(kind, data):
    trials = specs()
    pack = build_pack(kind)
    packed = train(pack, start(pack, trials), data, CHUNKS)
    for trial in trials:
        alone = train_with_peft(kind, trial, data, CHUNKS)
        assert len(alone) == 50
        torch.testing.assert_close(packed[trial.number], alone, rtol=1e-4, atol=0)


def test_the_reference_learns_so_that_equal_losses_mean_something(data):
    trial = specs()[3]
    losses = train_with_peft("bert", trial, data, CHUNKS)
    assert losses[-10:].mean() < losses[:10].mean() - 0.01

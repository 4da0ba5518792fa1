"""The pack in bfloat16 stays near float32."""

from __future__ import annotations

import torch

from tests.train.test_batches import evaluation
from tests.train.tiny import build_pack, outputs, specs, start, token_rows, train

TOLERANCE = 0.1
"""Of each loss of four rows over 50 steps at high learning rates; the products of bfloat16 are good to 0.4 %."""
MEAN_TOLERANCE = 0.005
"""Of a lane's mean loss: the errors are no bias."""


def test_losses_in_bfloat16_stay_near_those_in_float32(data):
    exact, rough = (build_pack(dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    one, other = train(exact, start(exact, specs()), data, 10), train(rough, start(rough, specs()), data, 10)
    for number, losses in one.items():
        torch.testing.assert_close(other[number], losses, rtol=TOLERANCE, atol=0)
        torch.testing.assert_close(other[number].mean(), losses.mean(), rtol=MEAN_TOLERANCE, atol=0)


def test_parameters_and_logits_are_float32_all_the_same(data):
    pack = build_pack(dtype=torch.bfloat16)
    lanes = start(pack, specs())
    train(pack, lanes, data, 1)
    assert {lane.parameters.dtype for lane in lanes} == {torch.float32}
    assert pack.predict(lanes, evaluation(token_rows(5)), outputs).dtype == torch.float32


def test_reordered_weights_change_no_bit_of_a_training(data, monkeypatch):
    trained = []
    for reorder in (False, True):
        monkeypatch.setattr("sweeper.train.pack.may_reorder", lambda *_, answer=reorder: answer)
        pack = build_pack(dtype=torch.bfloat16)
        lanes = start(pack, specs(**{"lora.dropout": 0.1}))
        train(pack, lanes, data, 1)
        trained.append(lanes)
    for one, other in zip(*trained, strict=True):
        assert torch.equal(one.parameters, other.parameters)

"""Dropout masks: of the right share, each lane's own, and unbiased."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sweeper.kernels.operators import mix
from sweeper.kernels.splitmix import GAMMA
from sweeper.train import dropout as dropout_module
from sweeper.train.dropout import DeviceDropout, HostDropout, _HostWords, keep_share
from tests.train.tiny import CPU, Data, build_pack, outputs, spec, start, token_rows, train, train_segments

ROWS, WIDTH = 64, 100


KINDS = pytest.mark.parametrize("kind", [HostDropout, DeviceDropout])
"""Both on the CPU, where the device's kernel is the reference in torch operations."""


def dropped_by(dropout, x, site=0):
    dropout.start(0, 0, 1)
    return dropout.drop(x, site, dropout.mask(x, site))


def drop(probabilities, seeds, x=None):
    x = torch.ones(len(seeds) * ROWS, WIDTH) if x is None else x
    return dropped_by(HostDropout(probabilities, seeds, CPU), x).view(len(seeds), -1, WIDTH)


@pytest.mark.parametrize(("p", "share"), [(0.0, 1.0), (0.05, 243 / 256), (0.1, 230 / 256), (0.5, 0.5), (0.9, 26 / 256)])
def test_the_share_that_is_kept_is_the_one_declared(p, share):
    assert keep_share(p) == share
    kept = dropped_by(HostDropout([p], [1], CPU), torch.ones(4000, WIDTH)).mean().item()
    assert kept == pytest.approx(share, abs=0.8 / 256)  # four standard deviations at worst, and less than one level


def test_a_kept_value_is_unchanged_and_a_dropped_one_zero():
    x = torch.randn(ROWS, WIDTH)
    dropped = dropped_by(HostDropout([0.3], [1], CPU), x)
    assert ((dropped == x) | (dropped == 0)).all()
    assert (dropped == 0).any()


def test_the_same_seed_drops_the_same_whatever_the_neighbours():
    alone = drop([0.3], [5])[0]
    among = drop([0.0, 0.3, 0.7], [9, 5, 2])
    assert torch.equal(among[1], alone)
    assert not torch.equal(drop([0.3], [6])[0], alone)


def test_a_lane_without_dropout_is_untouched():
    x = torch.randn(2 * ROWS, WIDTH)
    dropped = dropped_by(HostDropout([0.0, 0.5], [1, 1], CPU), x)
    assert torch.equal(dropped[:ROWS], x[:ROWS])


def test_lanes_of_equal_seed_share_no_mask_with_another_seed():
    masks = drop([0.5, 0.5, 0.5], [1, 1, 2])
    assert torch.equal(masks[0], masks[1])
    assert (masks[0] == masks[2]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_every_pass_and_every_layer_has_a_mask_of_its_own():
    dropout, x, masks = HostDropout([0.5], [1], CPU), torch.ones(ROWS, WIDTH), []
    for number, site in ((0, 0), (0, 1), (1, 0), (1, 1)):
        dropout.start(number, 0, ROWS)
        masks.append(dropout.mask(x, site) != 0)
    for one, other in itertools.combinations(masks, 2):
        assert (one == other).float().mean().item() == pytest.approx(0.5, abs=0.05)


@KINDS
def test_a_mask_can_be_computed_again(kind):
    """In a backward pass, or when a checkpointed block runs again: from its place, whatever was drawn in between."""
    dropout, x = kind([0.5, 0.2], [1, 2], CPU), torch.randn(2 * ROWS, WIDTH)
    dropout.start(3, 0, ROWS)
    before = dropout.drop(x, 5, dropout.mask(x, 5))
    dropout.mask(x, 6)
    assert torch.equal(dropout.drop(x, 5, dropout.mask(x, 5)), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1 / 0.9])
def test_a_gpu_drops_the_same_values_as_a_cpu(dtype, scale):
    x, results = torch.randn(3 * 8, 13).to(dtype), []
    for kind in (HostDropout, DeviceDropout):
        dropout = kind([0.5, 0.0, 0.2], [1, 2**62, 3], CPU)
        dropout.start(2, 5, 8)
        mask, into = dropout.mask(x, 4), torch.ones_like(x)
        results.append((dropout.drop(x, 4, mask, scale), into))
        dropout.add_dropped_(into, x.clone(), 4, mask)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_gpu_stores_no_mask():
    assert DeviceDropout([0.5], [1], CPU).mask(torch.ones(ROWS, WIDTH), 0) is None


@KINDS
def test_an_infinity_that_is_dropped_is_zero(kind):
    dropped = dropped_by(kind([0.5], [1], CPU), torch.full((ROWS, WIDTH), float("inf")))
    assert set(dropped.flatten().tolist()) == {0.0, float("inf")}


def test_the_words_are_those_of_splitmix64():
    """The first outputs of Vigna's splitmix64.c for the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix((1234567 + n * GAMMA) & (2**64 - 1)) for n in (1, 2, 3)] == expected
    found = np.empty(2, np.uint64)
    _HostWords([1234567]).draw(found, 0, 0, 1)
    assert found.tolist() == expected[1:]


def test_words_are_the_same_in_blocks_of_any_size(monkeypatch):
    whole, divided = np.empty(100, np.uint64), np.empty(100, np.uint64)
    _HostWords([5]).draw(whole, 0, 9, 3)
    monkeypatch.setattr(dropout_module, "_BLOCK", 16)
    _HostWords([5]).draw(divided, 0, 9, 3)
    assert whole.tolist() == divided.tolist()
    assert len(set(whole.tolist())) == 100


@pytest.mark.parametrize("width", [1, 7, 8, 9])
def test_any_number_of_values_is_served(width):
    dropped = dropped_by(HostDropout([0.5, 0.2], [1, 2], CPU), torch.ones(6, width))
    assert dropped.shape == (6, width)


def test_bfloat16_stays_bfloat16():
    dropped = dropped_by(HostDropout([0.5], [1], CPU), torch.ones(4, 8, dtype=torch.bfloat16))
    assert dropped.dtype == torch.bfloat16
    assert set(dropped.flatten().tolist()) == {0.0, 1.0}


def test_the_adapters_output_is_unbiased(data):
    """The mean of many dropped outputs is the output without dropout: the scale is folded into A."""
    pack = build_pack()
    (lane,) = start(pack, [spec(**{"lora.dropout": 0.4, "lora.alpha_ratio": 2.0})])
    folded = train_segments(pack, [lane], data, 1)[pack.shape.lora[0].name]
    rank = folded.B_kRO[0].shape[1]
    dropped_lane = HostDropout([0.4], [1], CPU)
    x = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).repeat(20_000, 1)
    outputs = dropped_by(dropped_lane, x) @ folded.A_kSI[0, :rank].T @ folded.B_kRO[0][0]
    exact = 2.0 * x[0] @ lane.layout.views_a(lane.parameters[None])[0][0].T @ folded.B_kRO[0][0]
    standard_error = outputs.std(0) / len(outputs) ** 0.5
    assert ((outputs.mean(0) - exact).abs() < 5 * standard_error).all()
    assert (exact.abs() > 50 * standard_error).any()


def test_evaluation_drops_nothing(pack, data):
    from tests.train.test_batches import evaluation

    (lane,) = start(pack, [spec(**{"lora.dropout": 0.5})])
    (plain,) = start(pack, [spec()])
    train(pack, [lane], data, 1)
    plain.parameters = lane.parameters
    split = evaluation(token_rows(9))
    assert torch.equal(pack.predict([lane], split, outputs), pack.predict([plain], split, outputs))
    assert torch.equal(pack.predict([lane], split, outputs), pack.predict([lane], split, outputs))


@pytest.mark.parametrize(("dropout", "is_the_same"), [(0.0, True), (0.5, False)])
def test_each_chunk_has_masks_of_its_own(dropout, is_the_same):
    """Chunks of the same one row, hardly trained on, differ by their masks alone."""
    data, pack = Data(num_rows=1), build_pack()
    (lane,) = start(pack, [spec(**{"lora.dropout": dropout, "train.learning_rate": 1e-30})])
    lane.parameters.normal_(generator=torch.Generator().manual_seed(3))
    one, other = train(pack, [lane], data, 2)[0].tolist()
    assert (one == pytest.approx(other, rel=1e-5)) is is_the_same


@KINDS
@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (1,) * 8, (3, 5)])
def test_parts_of_a_micro_batch_see_the_masks_of_the_whole(kind, sizes):
    """Also where a part ends within a random word, and layer after layer."""
    lanes, rows, widths = 2, 8, (7, 16, 3)

    def dropped(dropout, num_rows, width, site):
        x = torch.ones(lanes * num_rows, width)
        return dropout.drop(x, site, dropout.mask(x, site)).view(lanes, num_rows, width)

    dropout = kind([0.5, 0.2], [1, 2], CPU)
    dropout.start(7, 0, rows)
    expected = [dropped(dropout, rows, width, site) for site, width in enumerate(widths)]
    first = 0
    for size in sizes:
        dropout.start(7, first, size)
        for site, (width, whole) in enumerate(zip(widths, expected, strict=True)):
            assert torch.equal(dropped(dropout, size, width, site), whole[:, first : first + size])
        first += size

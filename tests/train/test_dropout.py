"""Dropout masks: of the right share, each lane's own, and unbiased."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sweeper.train.dropout import LaneDropout, _DeviceWords, _HostWords, keep, keep_, keep_share
from tests.train.tiny import CPU, Data, build_pack, outputs, spec, start, token_rows, train, train_segments

ROWS, WIDTH = 64, 100


def dropped_by(dropout, x):
    return keep(x, dropout.mask(x))


def drop(probabilities, seeds, x=None):
    x = torch.ones(len(seeds) * ROWS, WIDTH) if x is None else x
    return dropped_by(LaneDropout(probabilities, seeds, CPU), x).view(len(seeds), -1, WIDTH)


@pytest.mark.parametrize(("p", "share"), [(0.0, 1.0), (0.05, 243 / 256), (0.1, 230 / 256), (0.5, 0.5), (0.9, 26 / 256)])
def test_the_share_that_is_kept_is_the_one_declared(p, share):
    assert keep_share(p) == share
    kept = dropped_by(LaneDropout([p], [1], CPU), torch.ones(4000, WIDTH)).mean().item()
    assert kept == pytest.approx(share, abs=0.8 / 256)  # four standard deviations at worst, and less than one level


def test_a_kept_value_is_unchanged_and_a_dropped_one_zero():
    x = torch.randn(ROWS, WIDTH)
    dropped = dropped_by(LaneDropout([0.3], [1], CPU), x)
    assert ((dropped == x) | (dropped == 0)).all()
    assert (dropped == 0).any()


def test_the_same_seed_drops_the_same_whatever_the_neighbours():
    alone = drop([0.3], [5])[0]
    among = drop([0.0, 0.3, 0.7], [9, 5, 2])
    assert torch.equal(among[1], alone)
    assert not torch.equal(drop([0.3], [6])[0], alone)


def test_a_lane_without_dropout_is_untouched():
    x = torch.randn(2 * ROWS, WIDTH)
    dropped = dropped_by(LaneDropout([0.0, 0.5], [1, 1], CPU), x)
    assert torch.equal(dropped[:ROWS], x[:ROWS])


def test_lanes_of_equal_seed_share_no_mask_with_another_seed():
    masks = drop([0.5, 0.5, 0.5], [1, 1, 2])
    assert torch.equal(masks[0], masks[1])
    assert (masks[0] == masks[2]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_every_mask_is_drawn_anew_even_for_the_same_tensor():
    dropout = LaneDropout([0.5], [1], CPU)
    x = torch.ones(ROWS, WIDTH)
    assert not torch.equal(dropout.mask(x), dropout.mask(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_dropped_in_place_as_they_are_into_a_copy(dtype):
    x = torch.randn(ROWS, WIDTH).to(dtype)
    mask = LaneDropout([0.5], [1], CPU).mask(x)
    copied = keep(x, mask)
    assert keep_(x, mask) is x
    assert torch.equal(x, copied)


@pytest.mark.parametrize("width", [1, 7, 8, 9])
def test_any_number_of_values_is_served(width):
    dropped = dropped_by(LaneDropout([0.5, 0.2], [1, 2], CPU), torch.ones(6, width))
    assert dropped.shape == (6, width)


def test_bfloat16_stays_bfloat16():
    dropped = dropped_by(LaneDropout([0.5], [1], CPU), torch.ones(4, 8, dtype=torch.bfloat16))
    assert dropped.dtype == torch.bfloat16
    assert set(dropped.flatten().tolist()) == {0.0, 1.0}


def test_the_adapters_output_is_unbiased(data):
    """The mean of many dropped outputs is the output without dropout: the scale is folded into A."""
    pack = build_pack()
    (lane,) = start(pack, [spec(**{"lora.dropout": 0.4, "lora.alpha_ratio": 2.0})])
    folded = train_segments(pack, [lane], data, 1)[pack.shape.lora[0].name]
    rank = folded.B_kRO[0].shape[1]
    dropped_lane = LaneDropout([0.4], [1], CPU)
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


@pytest.mark.parametrize("num_parts", [2, 4, 8])
def test_parts_of_a_micro_batch_see_the_masks_of_the_whole(num_parts):
    """Also where a part ends within a random word, and layer after layer."""
    lanes, rows, widths = 2, 8, (7, 16, 3)
    whole = LaneDropout([0.5, 0.2], [1, 2], CPU)
    expected = [whole.mask(torch.ones(lanes * rows, width)).view(lanes, rows, width) for width in widths]
    divided = LaneDropout([0.5, 0.2], [1, 2], CPU)
    size = rows // num_parts
    for part in range(num_parts):
        divided.start(part, num_parts)
        for width, masks in zip(widths, expected, strict=True):
            seen = divided.mask(torch.ones(lanes * size, width)).view(lanes, size, width)
            assert torch.equal(seen, masks[:, part * size : (part + 1) * size])


@pytest.mark.parametrize("make", [_HostWords, partial(_DeviceWords, device=CPU)])
def test_words_that_are_skipped_are_those_that_would_have_been_drawn(make):
    whole, picked = torch.empty(20, dtype=torch.int64), torch.empty(5, dtype=torch.int64)
    make(3).draw(whole, range(20), 20)
    words = make(3)
    words.mark()
    for _ in range(2):
        words.draw(picked, range(10, 15), 20)
        assert torch.equal(picked, whole[10:15])
        words.rewind()
    assert len(set(whole.tolist())) == 20

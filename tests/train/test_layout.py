"""Flat parameter vectors, padded ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.train.layout import HeadShape, Layout, LoraShape, bucket_rank
from tests.train.tiny import spec, start, train_segments

WIDTH = st.integers(1, 7)
LORA = st.builds(LoraShape, st.just("layer"), WIDTH, WIDTH)
HEAD = st.builds(HeadShape, st.just("head"), WIDTH, WIDTH, st.booleans())
LAYERS = st.tuples(st.lists(LORA, min_size=1, max_size=4).map(tuple), st.lists(HEAD, max_size=2).map(tuple))


@given(layers=LAYERS, ranks=st.lists(st.integers(1, 9), min_size=1, max_size=4), more=st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_unpadding_restores_what_was_padded(layers, ranks, more):
    wide = Layout(max(ranks) + more, *layers)
    flats = [(rank, torch.randn(wide.with_rank(rank).size)) for rank in ranks]
    stacked = wide.pad(flats)
    assert stacked.shape == (len(ranks), wide.size)
    for row, (rank, flat) in zip(stacked, flats, strict=True):
        restored = torch.full_like(flat, torch.nan)
        wide.unpad_(restored, row, rank)
        assert torch.equal(restored, flat)


@given(layers=LAYERS, rank=st.integers(1, 5), more=st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_padding_adds_zeros_only(layers, rank, more):
    wide = Layout(rank + more, *layers)
    flat = torch.rand(wide.with_rank(rank).size) + 1
    (row,) = wide.pad([(rank, flat)])
    assert (row != 0).sum() == len(flat)
    for view in wide.views_a(row[None]) + wide.views_b(row[None]):
        assert (view[:, rank:] == 0).all()


@given(layers=LAYERS, rank=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_the_views_cover_the_vector_once(layers, rank):
    layout = Layout(rank, *layers)
    flat = torch.zeros(1, layout.size)
    heads = [part for pair in layout.views_head(flat) for part in pair if part is not None]
    for view in [*layout.views_a(flat), *layout.views_b(flat), *heads]:
        view.add_(1)
    assert (flat == 1).all()


def test_the_size_is_the_number_of_trainable_parameters():
    layout = Layout(4, (LoraShape("a", 3, 5), LoraShape("b", 5, 3)), (HeadShape("head", 3, 2, has_bias=True),))
    assert layout.size_a == 4 * 3 + 4 * 5
    assert layout.size_lora == 2 * 4 * (3 + 5)
    assert layout.size == layout.size_lora + 2 * 3 + 2


def test_weight_decay_leaves_biases_out():
    layout = Layout(1, (LoraShape("a", 2, 2),), (HeadShape("one", 2, 2, has_bias=True), HeadShape("two", 2, 1, False)))
    assert layout.decay_mask().tolist() == [1.0] * 4 + [0.0] * 2 + [1.0] * 2


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (3, 8), (8, 8), (9, 16), (16, 16), (17, 32), (64, 64), (65, 128)])
def test_ranks_are_padded_to_powers_of_two(rank, padded):
    assert bucket_rank(rank) == padded


def test_pads_stay_exactly_zero_through_training_with_weight_decay(pack, data):
    trials = [spec(n, seed=n, **{"lora.r": rank, "train.weight_decay": 0.5}) for n, rank in enumerate([3, 8, 5])]
    lanes = start(pack, trials)
    segments = train_segments(pack, lanes, data, 4)
    assert len(segments) == 12
    for segment in segments.values():
        for lane, own in enumerate(lanes):
            rank, stacked = own.layout.rank, len(segment.B_kRO)
            matrices = [*segment.A_kSI[lane].chunk(stacked), *(b[lane] for b in segment.B_kRO)]
            assert all((matrix[rank:] == 0).all() for matrix in matrices)
            assert all((matrix[:rank].abs().sum(1) > 0).all() for matrix in matrices)

"""Kernels of a layer, forward and backward, at 8 lanes: what a GPU is asked for in every pass (see `meta`)."""

from __future__ import annotations

import pytest

from tests.train.meta import LLAMA_8B, kernels_per_layer, meta_lanes, meta_llama, meta_pack

ONE_BUCKET = (8,) * 8
FOUR_BUCKETS = (8, 8, 16, 16, 32, 32, 64, 64)


@pytest.mark.parametrize("ranks", [ONE_BUCKET, FOUR_BUCKETS], ids=["one", "four"])
@pytest.mark.parametrize(("dropout", "most"), [(0.0, 57), (0.1, 65)])
def test_a_llama_layer_takes_no_more_kernels_than_this(ranks, dropout, most):
    """Without fusing, it would be 142 and 295 without dropout; see docs/decisions.md for what is left."""
    kernels = kernels_per_layer(ranks, **{"lora.dropout": dropout})
    assert kernels.total() <= most, kernels
    assert kernels.total() > 0.9 * most, "it takes fewer now: lower the bound"


def test_ranks_are_padded_to_the_largest_only_where_padding_is_small():
    small, large = meta_pack(), meta_pack(meta_llama(**LLAMA_8B))
    for pack, groups in ((small, 1), (large, 3)):
        assert len(pack._groups(meta_lanes(pack, FOUR_BUCKETS))) == groups

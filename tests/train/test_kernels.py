"""Kernels of a layer, forward and backward, at 8 lanes: what a GPU is asked for in every pass (see `meta`)."""

from __future__ import annotations

import pytest

from tests.train.meta import kernels_per_layer

ONE_BUCKET = (8,) * 8
FOUR_BUCKETS = (8, 8, 16, 16, 32, 32, 64, 64)


@pytest.mark.parametrize(("ranks", "most"), [(ONE_BUCKET, 142), (FOUR_BUCKETS, 295)])
def test_a_llama_layer_takes_no_more_kernels_than_this(ranks, most):
    kernels = kernels_per_layer(ranks)
    assert kernels.total() <= most, kernels
    assert kernels.total() > 0.9 * most, "it takes fewer now: lower the bound"

"""Row outcomes: compact, and read as they were written."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from sweeper.errors import StoreError
from sweeper.store.outcomes import RowOutcomes


def make(num_rows=400, num_labels=50):
    draw = np.random.default_rng(0)
    labels = draw.integers(num_labels, size=(2, num_rows))
    return RowOutcomes.of(
        draw.exponential(size=num_rows), predicted_N=labels[0], target_N=labels[1], num_labels=num_labels
    )


def test_they_are_read_as_they_were_written():
    before, after = make(), RowOutcomes.from_bytes(make().to_bytes())
    for name, values in vars(before).items():
        assert np.array_equal(getattr(after, name), values) or values is getattr(after, name) is None
    assert after.num_rows == 400


def test_open_completions_have_losses_and_tokens_only():
    after = RowOutcomes.from_bytes(RowOutcomes.of(np.ones(3), tokens_N=np.array([1.0, 2.0, 3.0])).to_bytes())
    assert after.predicted_N is after.target_N is None
    assert (after.tokens_N.dtype, after.tokens_N.tolist()) == (np.int32, [1, 2, 3])


def test_a_true_label_may_be_above_those_that_can_be_predicted():
    target = np.array([0, 256])
    found = RowOutcomes.of(np.ones(2), predicted_N=np.array([0, 0]), target_N=target, num_labels=256)
    assert found.target_N.tolist() == [0, 256]


@pytest.mark.parametrize(("num_labels", "kind"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_labels_have_the_narrowest_type(num_labels, kind):
    last = np.array([num_labels - 1])
    found = RowOutcomes.of(np.ones(1), predicted_N=last, target_N=last, num_labels=num_labels)
    assert (found.predicted_N.dtype, int(found.target_N[0])) == (kind, num_labels - 1)


def test_a_file_of_400_rows_has_less_than_two_kilobytes():
    assert len(make().to_bytes()) < 2000


def test_a_loss_too_large_for_the_type_stays_finite():
    assert RowOutcomes.of(np.array([1e6])).loss_N.tolist() == [65504.0]


@pytest.mark.parametrize("content", [b"", b"x", make().to_bytes()[:-1], save({"parameters": np.zeros(3)}), save({})])
def test_damaged_content_is_an_error(content):
    with pytest.raises(StoreError, match="row outcomes cannot be read"):
        RowOutcomes.from_bytes(content)

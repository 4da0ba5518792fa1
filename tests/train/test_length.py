"""How long a trial trains where nobody has said so."""

from __future__ import annotations

import pytest

from sweeper.train.chunks import ChunkPlan, choose_chunks_per_epoch, choose_epochs


def test_small_datasets_get_more_epochs_and_large_ones_no_fewer_than_two():
    epochs = [choose_epochs(rows, 6) for rows in (50, 250, 500, 1000, 4000, 100_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] == 2
    assert epochs[0] > epochs[1] > epochs[3]


def test_many_labels_get_more_epochs():
    assert choose_epochs(1000, 47) > choose_epochs(1000, 2)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 8, 12, 20])
def test_a_trial_has_about_twelve_chunks(epochs):
    plan = ChunkPlan.of(2000, micro_batch=16, chunks_per_epoch=choose_chunks_per_epoch(epochs), epochs=epochs)
    assert 10 <= plan.num_chunks <= max(16, epochs)

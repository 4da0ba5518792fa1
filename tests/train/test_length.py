"""How long a trial trains where nobody has said so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.compose import compose
from sweeper.errors import ConfigError
from sweeper.train.chunks import (
    ChunkPlan,
    check_shortest_trial,
    choose_chunks_per_epoch,
    choose_epochs,
    chunks_of_size,
    plan_chunks,
    usual_epochs,
)


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


@pytest.mark.parametrize(
    ("num_rows", "micro_batch", "rows_per_chunk", "chunks"),
    [
        (1000, 10, 250, 4),  # the size of the other study fits
        (90, 8, 32, 2),  # 3 chunks would leave out 18 rows of an epoch, 2 leave out 10
        (120, 8, 32, 3),  # nothing is left out with 3 or 5, and 3 is as near to 4
        (30, 8, 250, 1),  # never less than one
        (10, 10, 1, 1),  # nor more than there are micro-batches
    ],
)
def test_chunks_keep_about_their_size_and_leave_out_few_rows(num_rows, micro_batch, rows_per_chunk, chunks):
    assert chunks_of_size(num_rows, micro_batch=micro_batch, rows_per_chunk=rows_per_chunk) == chunks


@given(st.integers(2, 5000), st.integers(1, 64), st.integers(1, 500))
def test_no_number_of_chunks_of_half_to_twice_the_size_leaves_out_fewer_rows(num_rows, micro_batch, rows_per_chunk):
    micro_batch = min(micro_batch, num_rows)
    found = chunks_of_size(num_rows, micro_batch=micro_batch, rows_per_chunk=rows_per_chunk)

    def used(chunks):
        plan = ChunkPlan.of(num_rows, micro_batch=micro_batch, chunks_per_epoch=chunks, epochs=1)
        return plan.num_chunks * plan.rows_per_chunk

    near = max(1, round(num_rows / rows_per_chunk))
    assert used(found) == max(used(chunks) for chunks in range((near + 1) // 2, 2 * near + 1))


def settings_of(*overrides):
    config = compose(["dataset=trec", "train.batch_size=16", *overrides])
    return config.settings, config.space


def planned(*overrides, num_rows=2000, num_labels=6):
    return plan_chunks(*settings_of(*overrides), num_rows=num_rows, num_labels=num_labels)


def test_a_study_has_the_chunks_of_its_longest_trial():
    plan = planned("train.epochs=interval(1,4)")
    assert (plan.epochs, plan.chunks_per_epoch, plan.num_chunks) == (4, 3, 12)
    assert planned("train.epochs=choice(2,6)", "train.chunks_per_epoch=5").num_chunks == 30


def test_the_shortest_trial_gets_the_chunks_before_the_first_rung():
    assert planned("train.epochs=interval(1,12)").chunks_per_epoch == 2
    assert planned("train.epochs=interval(1,12)", "search.min_chunks=4").chunks_per_epoch == 4
    assert planned("train.epochs=interval(2,12)").chunks_per_epoch == 1


def test_a_configuration_that_names_no_epochs_has_the_usual_ones_as_far_as_they_are_in_the_space():
    assert usual_epochs(*settings_of("train.epochs=interval(1,4)"), num_rows=1000, num_labels=6) == 3
    assert usual_epochs(*settings_of("train.epochs=interval(1,4)"), num_rows=100, num_labels=6) == 4
    assert usual_epochs(*settings_of(), num_rows=1000, num_labels=6) == choose_epochs(1000, 6)
    settings, space = settings_of("train.epochs=choice(1,4)")
    settings.train.epochs = 4
    assert usual_epochs(settings, space, num_rows=1000, num_labels=6) == 4


@pytest.mark.parametrize(
    ("overrides", "num_rows", "said"),
    [
        (["search.min_chunks=13"], 2000, "has 1 epoch of 12 chunks"),
        (["search.min_chunks=4", "train.chunks_per_epoch=3"], 2000, "has 1 epoch of 3 chunks"),
        (["search.min_chunks=4"], 40, "has 1 epoch of 2 chunks"),
    ],
)
def test_a_first_rung_behind_the_end_of_the_shortest_trial_is_refused(overrides, num_rows, said):
    with pytest.raises(ConfigError) as caught:
        planned("train.epochs=interval(1,4)", *overrides, num_rows=num_rows)
    found = str(caught.value)
    assert found.startswith(overrides[0] + ": the shortest trial of train.epochs=interval(1,4)")
    assert said in found
    assert "Set it to at most" in found
    if num_rows == 2000:  # as far as the rows do not matter, it shows before they are read
        with pytest.raises(ConfigError, match=said):
            check_shortest_trial(*settings_of("train.epochs=interval(1,4)", *overrides))
    else:
        check_shortest_trial(*settings_of("train.epochs=interval(1,4)", *overrides))

"""Which rows go into which micro-batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweeper.tasks.base import Examples
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan
from tests.train.tiny import CPU, PAD, examples, token_rows


def training(num_rows=100, *, seed=0, micro_batch=4, chunks_per_epoch=5, epochs=2):
    plan = ChunkPlan.of(num_rows, micro_batch=micro_batch, chunks_per_epoch=chunks_per_epoch, epochs=epochs)
    return TrainingRows(examples(token_rows(num_rows)), plan, seed=seed, pad_token_id=PAD, device=CPU)


def evaluation(rows, batch_size=4):
    return EvaluationBatches(examples(rows), batch_size=batch_size, pad_token_id=PAD, device=CPU)


def batches(rows, chunk, index):
    """Return what is trained of a micro-batch, pass by pass."""
    return [rows.batch(rows.chunk(chunk)[index][one.rows], one.length) for one in rows.passes(index)]


def test_every_chunk_has_the_same_sequence_of_lengths():
    rows = training()
    lengths = [max(map(len, ids)) for ids in np.array_split(np.array(sorted(token_rows(100), key=len), object), 5)]
    for chunk in range(10):
        shapes = [[b.ids.shape for b in batches(rows, chunk, index)] for index in range(5)]
        assert sorted(shapes) == [[(4, length)] for length in lengths]


def test_a_micro_batch_has_rows_of_similar_length():
    rows, lengths = training(), [len(row) for row in token_rows(100)]
    for chunk in range(10):
        for index, picked in enumerate(rows.chunk(chunk)):
            of_batch = [lengths[row] for row in picked]
            (only,) = rows.passes(index)
            assert only.length - 3 <= min(of_batch) <= max(of_batch) <= only.length


@pytest.mark.parametrize("num_rows", [17, 63, 100])
def test_no_row_comes_twice_in_an_epoch(num_rows):
    rows = training(num_rows)
    per_epoch = rows.plan.chunks_per_epoch
    for epoch in range(2):
        seen = np.concatenate(
            [rows.chunk(chunk).ravel() for chunk in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        )
        assert len(set(seen.tolist())) == len(seen) == rows.plan.rows_per_chunk * per_epoch


def test_rows_are_left_out_in_turn():
    rows = training(63)
    left_out = [
        set(range(63)) - set(np.concatenate([rows.chunk(epoch * 5 + part).ravel() for part in range(5)]).tolist())
        for epoch in range(4)
    ]
    assert all(len(rows_left) == 3 for rows_left in left_out)
    assert len(set.union(*left_out)) > 3


def test_a_lane_with_its_own_seed_has_its_own_order_within_the_same_classes():
    rows, chunks = training(seed=3), range(5)
    own = [rows.chunk(chunk, 4) for chunk in chunks]
    assert all(np.array_equal(rows.chunk(chunk, 3), rows.chunk(chunk)) for chunk in chunks)
    assert not any(np.array_equal(rows.chunk(chunk), own[chunk]) for chunk in chunks)
    for index in range(rows.plan.micro_batches):
        shared = set(np.concatenate([rows.chunk(chunk)[index] for chunk in range(20)]).tolist())
        assert {int(row) for picked in own for row in picked[index]} <= shared


def test_the_order_depends_on_the_seed_alone():
    one, same, other = training(seed=3), training(seed=3), training(seed=4)
    backwards = [one.chunk(chunk) for chunk in reversed(range(10))][::-1]
    assert all(np.array_equal(same.chunk(chunk), backwards[chunk]) for chunk in range(10))
    assert not np.array_equal(one.chunk(0), other.chunk(0))


def test_epochs_are_shuffled_anew():
    rows = training()
    assert not np.array_equal(rows.chunk(0), rows.chunk(5))


def test_the_global_generators_do_not_change():
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(1)
    torch.manual_seed(1)
    training().chunk(0)
    assert (np.random.rand(), torch.rand(1)) == expected


@pytest.mark.parametrize("num_rows", [1, 2, 5, 17, 63])
def test_small_datasets_have_chunks_of_equal_size(num_rows):
    rows = training(num_rows, micro_batch=16, chunks_per_epoch=4)
    plan = rows.plan
    assert 1 <= plan.rows_per_chunk * plan.chunks_per_epoch <= num_rows
    for chunk in range(plan.num_chunks):
        picked = rows.chunk(chunk)
        assert picked.shape == (plan.micro_batches, plan.micro_batch)
        assert set(picked.ravel().tolist()) <= set(range(num_rows))


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [(1, (1, 1, 1)), (5, (5, 1, 1)), (17, (16, 1, 1)), (63, (16, 3, 1)), (1000, (16, 4, 15))],
)
def test_a_plan_shrinks_to_the_rows_there_are(num_rows, expected):
    plan = ChunkPlan.of(num_rows, micro_batch=16, chunks_per_epoch=4, epochs=3)
    assert (plan.micro_batch, plan.chunks_per_epoch, plan.micro_batches) == expected
    assert plan.num_chunks == 3 * plan.chunks_per_epoch


def test_a_batch_is_padded_and_masked():
    ids = [[5, 6, 7], [8], [9, 10]]
    rows = TrainingRows(
        examples(ids),
        ChunkPlan.of(3, micro_batch=3, chunks_per_epoch=1, epochs=1),
        seed=0,
        pad_token_id=PAD,
        device=CPU,
    )
    tokens, mask, *_ = rows.batch(np.array([1, 0]), 3)
    assert tokens.tolist() == [[8, PAD, PAD], [5, 6, 7]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert rows.num_tokens(np.array([1, 0])) == 4


SPANS = [[(1, 2)], [(1, 3), (4, 6)], [(3, 4)], []]
WITH_SPANS = Examples([[10, 11], [20, 21, 22, 23, 24, 25], [30, 31, 32, 33], [40]], [[1, -1]] * 4, [1, 4, 1, 0], SPANS)
TOKENS = [[11], [21, 22, 24, 25], [33], []]
"""Those with a loss, of each row."""


def test_rows_are_kept_without_padding():
    data = of_lengths([2] * 62 + [1, 5000], micro_batch=4)
    assert data._ids.nbytes == 4 * (62 * 2 + 1 + 5000)
    batch = data.batch(np.array([63, 0, 62]), 5000)
    assert batch.mask.sum(1).tolist() == [5000, 2, 1]
    assert batch.ids[1:, 2:].eq(PAD).all()
    assert batch.ids.dtype == batch.mask.dtype == torch.int64


def test_a_batch_knows_which_tokens_have_a_loss():
    plan = ChunkPlan.of(4, micro_batch=4, chunks_per_epoch=1, epochs=1)
    rows = TrainingRows(WITH_SPANS, plan, seed=0, pad_token_id=PAD, device=CPU)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0, 1], [3]):
        batch = rows.batch(np.array(order), 7)
        assert batch.ids.flatten()[batch.predicted].tolist() == [token for row in order for token in TOKENS[row]]
        assert batch.spans == [SPANS[row] for row in order]


@pytest.mark.parametrize("times", [1, 3])
def test_repeated_rows_of_an_evaluation_keep_their_tokens_with_a_loss(times):
    split = EvaluationBatches(WITH_SPANS, batch_size=3, pad_token_id=PAD, device=CPU)
    seen = []
    for picked, batch in split.batches:
        for first in range(len(picked)):
            part, rows = batch.repeated(slice(first, first + 2), times), picked[first : first + 2].tolist()
            seen += rows
            assert part.ids.flatten()[part.predicted].tolist() == [t for row in rows for t in TOKENS[row]] * times
            assert [
                [row[start:end].tolist() for start, end in found]
                for row, found in zip(part.ids, part.spans, strict=True)
            ] == [[WITH_SPANS.ids[row][start:end] for start, end in SPANS[row]] for row in rows] * times
    assert set(seen) == {0, 1, 2, 3}


def test_rows_without_a_loss_of_tokens_have_none_to_predict():
    (_, batch), *_ = evaluation(token_rows(4)).batches
    assert batch.predicted is None
    assert batch.repeated(slice(0, 2), 2).predicted is None


def test_rows_that_are_taken_keep_everything_of_theirs():
    part = WITH_SPANS.take([2, 0])
    assert (part.ids, part.weights, part.spans) == ([[30, 31, 32, 33], [10, 11]], [1, 1], [SPANS[2], SPANS[0]])
    assert WITH_SPANS.first(2).spans == SPANS[:2]
    assert examples(token_rows(3)).first(2).spans == ()


@pytest.mark.parametrize("num_rows", [1, 2, 5, 17, 63])
def test_evaluation_covers_every_row_once_and_knows_its_place(num_rows):
    rows = token_rows(num_rows)
    split = evaluation(rows)
    found = {}
    for picked, (ids, mask, *_) in split.batches:
        for place, tokens, real in zip(picked.tolist(), ids, mask, strict=True):
            assert place not in found
            found[place] = tokens[real.bool()].tolist()
            assert (tokens[~real.bool()] == PAD).all()
    assert [found[place] for place in range(num_rows)] == rows
    assert split.num_rows == num_rows


def test_evaluation_pads_little():
    rows = token_rows(64)
    assert sum(batch.ids.numel() for _, batch in evaluation(rows).batches) < 1.1 * sum(map(len, rows))


def test_predictions_come_in_the_order_of_the_rows(pack):
    from tests.train.tiny import outputs, spec, start

    rows = token_rows(17)
    lanes = start(pack, [spec(seed=1), spec(1, seed=2)])
    together = pack.predict(lanes, evaluation(rows), outputs)
    one_by_one = torch.cat([pack.predict(lanes, evaluation([row]), outputs) for row in rows], dim=1)
    torch.testing.assert_close(together, one_by_one)
    assert not torch.allclose(one_by_one[:, 0], one_by_one[:, 1])


def of_lengths(lengths, *, micro_batch=16, chunks_per_epoch=1, device=CPU):
    plan = ChunkPlan.of(len(lengths), micro_batch=micro_batch, chunks_per_epoch=chunks_per_epoch, epochs=2)
    return TrainingRows(examples([[4] * n for n in lengths]), plan, seed=0, pad_token_id=PAD, device=device)


def test_long_micro_batches_are_trained_in_passes_that_depend_on_their_length_alone():
    rows = of_lengths([8] * 16 + [40] * 16 + [100] * 16)
    found = {passes[0].length: len(passes) for passes in map(rows.passes, range(3))}
    assert found == {8: 1, 40: 4, 100: 8}


def test_a_pass_has_the_length_of_its_own_rows():
    lengths = [12] * 32 + [*range(21, 53)]
    rows = of_lengths(lengths, chunks_per_epoch=2)
    (long,) = (index for index in range(2) if rows.passes(index)[0].length > 12)
    assert [(one.rows.start, one.rows.stop, one.length) for one in rows.passes(long)] == [
        (0, 4, 28),
        (4, 8, 36),
        (8, 12, 44),
        (12, 16, 52),
    ]
    for chunk in range(4):
        for one, batch in zip(rows.passes(long), batches(rows, chunk, long), strict=True):
            real = batch.mask.sum(1)
            assert len(real) == 4
            assert (one.length - 8 < real).all()
            assert (real <= one.length).all()


def test_passes_lose_no_row_and_repeat_none():
    rows = of_lengths([*range(20, 52)], chunks_per_epoch=2)
    seen = np.concatenate([rows.chunk(chunk).ravel() for chunk in (0, 1)])
    assert sorted(seen.tolist()) == list(range(32))


def test_a_device_with_memory_of_its_own_trains_a_micro_batch_at_once():
    lengths = [*range(20, 52)]
    there, here = of_lengths(lengths, device=torch.device("meta")), of_lengths(lengths)
    assert sorted((one.rows, one.length) for i in range(2) for one in there.passes(i)) == [
        (slice(0, 16), 35),
        (slice(0, 16), 51),
    ]
    assert np.array_equal(there.chunk(0), here.chunk(0))


def test_a_micro_batch_that_cannot_be_divided_evenly_is_trained_in_one_pass():
    rows = of_lengths([100] * 15, micro_batch=15)
    assert len(rows.passes(0)) == 1


META = torch.device("meta")


@pytest.mark.parametrize(
    ("lanes", "tokens", "parts", "largest"),
    [
        (1, 0, 1, 1600),
        (4, 0, 1, 6400),
        (4, 6400, 1, 6400),
        (4, 6399, 2, 3200),
        (4, 1000, 8, 800),
        (4, 400, 16, 400),
        (4, 399, 16, 400),  # a row of each lane is the least
        (8, 1, 16, 800),
    ],
)
def test_a_pass_keeps_to_the_tokens_of_all_lanes(lanes, tokens, parts, largest):
    rows = of_lengths([100] * 16 + [8] * 16, device=META)
    passes = {one.length: one for index in range(2) for one in rows.passes(index)}
    assert rows.num_parts(passes[100], lanes, tokens) == parts
    assert rows.largest_pass(lanes, tokens) == largest
    assert rows.longest == 100


def test_a_pass_is_divided_into_equal_parts():
    rows = of_lengths([100] * 15, micro_batch=15)
    (only,) = rows.passes(0)
    assert [rows.num_parts(only, 1, tokens) for tokens in (1500, 1400, 400, 100)] == [1, 3, 5, 15]


def test_a_budget_on_a_cpu_divides_its_passes_further():
    rows = of_lengths([40] * 16)
    assert [(one.num_rows, one.length) for one in rows.passes(0)] == [(4, 40)] * 4
    assert [rows.largest_pass(2, tokens) for tokens in (0, 320, 319, 80)] == [320, 320, 160, 80]


def test_batches_of_an_evaluation_keep_to_the_tokens_of_all_lanes():
    split = evaluation([[5] * 10] * 7, batch_size=7)
    ((_, batch),) = split.batches
    assert [split.num_parts(batch, 2, tokens) for tokens in (0, 140, 139, 40, 1)] == [1, 1, 2, 4, 7]
    assert [split.largest_pass(2, tokens) for tokens in (0, 139, 40, 1)] == [140, 80, 40, 20]
    assert split.longest == 10


def test_predictions_do_not_depend_on_the_tokens_of_a_pass(pack):
    from tests.train.tiny import outputs, spec, start

    lanes, split = start(pack, [spec(seed=1), spec(1, seed=2)]), evaluation(token_rows(17))
    whole = pack.predict(lanes, split, outputs)
    torch.testing.assert_close(pack.predict(lanes, split, outputs, tokens_per_pass=50), whole)


def test_evaluation_batches_of_long_rows_are_smaller():
    split = evaluation([[5] * length for length in (10, 500, 128, 129, 200, 20, 30, 40, 129, 256)], batch_size=4)
    shapes = [tuple(batch.ids.shape) for _, batch in split.batches]
    assert shapes == [(4, 40), (3, 129), (2, 256), (1, 500)]
    assert sorted(torch.cat([picked for picked, _ in split.batches]).tolist()) == list(range(10))

"""The rows that a lane trains on, chunk by chunk, and the batches of an evaluation.

Rows are sorted by length into as many classes as a chunk has micro-batches, and each micro-batch takes its rows from
one class. A class of long rows is divided into narrower ones, and its micro-batches are trained in passes, one for each
narrower class, which saves memory and padding. So all chunks have the same sequence of lengths, lanes at different
chunks train side by side with little padding, and the padded length of a pass is a constant that does not depend on the
other lanes of the pack. A pass with more tokens than the budget is divided into equal parts of the same length: the
trial stays the same, also with dropout. The order depends on the trial's seed only. All trials of a search have the
same seed, so that their differences carry less noise (common random numbers); trials of a confirmation have fresh ones.

Shapes: N rows of the split, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sweeper.figures.passes import equal_parts, scored_parts
from sweeper.tasks.base import Batch, Examples, Spans, flat_indices, to_device
from sweeper.train.chunks import ChunkPlan

__all__ = ["EvaluationBatches", "Pass", "TrainingRows", "length_classes"]

_TOKENS_PER_PASS = 240
"""Most tokens of one lane in a pass on a CPU; eight lanes are no faster with more (measured) but need more memory."""
_FULL_LENGTH = 128
"""Most tokens of a row in an evaluation batch of full size; batches of longer rows are smaller."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Rows of a micro-batch that are trained at once."""

    rows: slice
    """Their positions in the micro-batch."""
    length: int
    """Number of tokens that they are padded to."""

    @property
    def num_rows(self) -> int:
        """Number of rows of a lane."""
        return int(self.rows.stop - self.rows.start)


class TrainingRows:
    """The training split, divided into micro-batches.

    Args:
        examples: Token ids, targets and weights of the rows.
        plan: How the rows divide.
        seed: Seed of the study: of the classes, which all lanes share, and of the order, unless a lane has its own.
        pad_token_id: Token that rows are padded with.
        device: Device of the batches.
    """

    def __init__(
        self, examples: Examples, plan: ChunkPlan, *, seed: int, pad_token_id: int, device: torch.device
    ) -> None:
        self.plan = plan
        self._seed = seed
        self._lengths = np.array([len(row) for row in examples.ids])
        # One after the other: padded to the longest, 100,000 rows of 2,048 tokens would take 3 GB in every worker.
        self._ids = np.concatenate([np.asarray(row, np.int32) for row in examples.ids])
        self._starts, self._pad_token_id = np.cumsum(self._lengths) - self._lengths, pad_token_id
        self._targets = torch.as_tensor(examples.targets)
        self._weights = torch.as_tensor(examples.weights, dtype=torch.float32)
        self._spans = examples.spans
        self._device = device
        generator = np.random.default_rng([seed, 0xC1A55])
        classes = length_classes(self._lengths, plan, generator)
        self._classes = [classes[i] for i in generator.permutation(len(classes))]
        self._passes = [self._passes_of(narrow) for narrow in self._classes]

    def chunk(self, chunk: int, seed: int | None = None) -> np.ndarray:
        """Return the rows of a chunk as ``[micro-batches, micro_batch]`` indices.

        Args:
            chunk: Counted from 0.
            seed: Seed of the order within each class; that of the study if None.
        """
        seed = self._seed if seed is None else seed
        # Each epoch shuffles the members of every class and takes them part by part, so no row comes twice in an epoch.
        epoch, part = divmod(chunk, self.plan.chunks_per_epoch)
        dealt = []
        for index, narrow in enumerate(self._classes):
            generator, size = np.random.default_rng([seed, epoch, index]), self.plan.micro_batch // len(narrow)
            orders = [generator.permutation(members) for members in narrow]
            dealt.append(np.concatenate([order[part * size : (part + 1) * size] for order in orders]))
        return np.stack(dealt)

    def batch(self, rows: np.ndarray, length: int) -> Batch:
        """Return a batch of rows, padded to ``length`` tokens."""
        ids_BT, lengths_B = np.full((len(rows), length), self._pad_token_id), self._lengths[rows]
        for ids_T, start, size in zip(ids_BT, self._starts[rows].tolist(), lengths_B.tolist(), strict=True):
            ids_T[:size] = self._ids[start : start + min(size, length)]
        mask_BT = (np.arange(length) < lengths_B[:, None]).astype(np.int64)
        batch = Batch(
            to_device(torch.from_numpy(ids_BT), self._device),
            to_device(torch.from_numpy(mask_BT), self._device),
            to_device(self._targets[torch.from_numpy(rows)], self._device),
        )
        return _with_spans(batch, [self._spans[row] for row in rows]) if self._spans else batch

    def passes(self, index: int) -> Sequence[Pass]:
        """Return the passes in which micro-batch ``index`` is trained if there is no budget; always one on a GPU."""
        return self._passes[index]

    @property
    def longest(self) -> int:
        """Number of tokens of the longest pass."""
        return max(one.length for passes in self._passes for one in passes)

    def num_parts(self, one: Pass, lanes: int, tokens_per_pass: int) -> int:
        """Return the number of equal parts of a pass that keep to the budget; a part has a row of each lane at least.

        Args:
            one: The pass.
            lanes: Number of lanes that train together.
            tokens_per_pass: Most tokens of a part over all lanes, padding included; 0 for no limit.
        """
        return equal_parts(one.num_rows, one.length, lanes, tokens_per_pass)

    def largest_pass(self, lanes: int, tokens_per_pass: int = 0) -> int:
        """Return the tokens of the largest part over all lanes, padding included; see `num_parts`."""
        return max(
            lanes * (one.num_rows // self.num_parts(one, lanes, tokens_per_pass)) * one.length
            for passes in self._passes
            for one in passes
        )

    def weights(self, rows: np.ndarray) -> torch.Tensor:
        """Return the weights of rows in a mean loss, in the shape of ``rows``."""
        return self._weights[torch.from_numpy(rows)]

    def num_tokens(self, rows: np.ndarray) -> int:
        """Return the number of tokens in rows, without padding."""
        return int(self._lengths[rows].sum())

    def _passes_of(self, narrow: Sequence[np.ndarray]) -> list[Pass]:
        lengths = [int(self._lengths[members].max()) for members in narrow]
        # A GPU gains from larger products, a CPU only from less padding.
        if self._device.type != "cpu":
            return [Pass(slice(0, self.plan.micro_batch), max(lengths))]
        size = self.plan.micro_batch // len(narrow)
        return [Pass(slice(first * size, (first + 1) * size), length) for first, length in enumerate(lengths)]


def length_classes(lengths: np.ndarray, plan: ChunkPlan, generator: np.random.Generator) -> list[list[np.ndarray]]:
    """Sort rows by length into a class for each micro-batch of a chunk, and divide classes of long rows further.

    Args:
        lengths: Number of tokens of each row.
        plan: How the rows divide.
        generator: Orders rows of the same length.

    Returns:
        For each class, shortest first, the rows of its narrower classes.
    """
    # A stable sort of shuffled rows: rows of one length are spread over the classes at random, not by their place.
    shuffled = generator.permutation(len(lengths))
    ascending = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    return [
        np.array_split(members, _num_passes(int(lengths[members].max()), plan.micro_batch))
        for members in np.array_split(ascending, plan.micro_batches)
    ]


def _num_passes(length: int, num_rows: int) -> int:
    """Return the number of equal parts in which ``num_rows`` rows are trained on a CPU."""
    passes = 1
    while num_rows % (passes * 2) == 0 and num_rows // passes * length > _TOKENS_PER_PASS:
        passes *= 2
    return passes


class EvaluationBatches:
    """All rows of a split in batches of similar length, to save padding.

    Args:
        examples: Token ids, targets and weights of the rows.
        batch_size: Most rows per lane in a batch; batches of long rows are smaller.
        pad_token_id: Token that rows are padded with.
        device: Device of the batches.
    """

    def __init__(self, examples: Examples, *, batch_size: int, pad_token_id: int, device: torch.device) -> None:
        rows = examples.ids
        self.num_rows = len(rows)
        self.targets = torch.as_tensor(examples.targets)
        # Batches of ascending length need little padding; each remembers which rows it holds.
        order = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
        self.batches: list[tuple[torch.Tensor, Batch]] = []
        for picked in torch.split(order, _sizes([len(rows[i]) for i in order.tolist()], batch_size)):
            tensors = (*padded([rows[i] for i in picked.tolist()], pad_token_id), self.targets[picked])
            there_ids, there_mask, there_targets = (tensor.to(device) for tensor in tensors)
            batch = Batch(there_ids, there_mask, there_targets)
            if examples.spans:
                batch = _with_spans(batch, [examples.spans[row] for row in picked.tolist()])
            self.batches.append((picked, batch))

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return max(batch.ids.shape[1] for _, batch in self.batches)

    def num_parts(self, batch: Batch, lanes: int, tokens_per_pass: int) -> int:
        """Return the number of parts of a batch that keep to the budget, as `TrainingRows.num_parts` does."""
        num_rows, length = batch.ids.shape
        return scored_parts(num_rows, length, lanes, tokens_per_pass)

    def largest_pass(self, lanes: int, tokens_per_pass: int = 0) -> int:
        """Return the tokens of the largest part over all lanes, padding included."""
        return max(
            lanes * -(-len(batch.ids) // self.num_parts(batch, lanes, tokens_per_pass)) * batch.ids.shape[1]
            for _, batch in self.batches
        )


def _with_spans(batch: Batch, spans: Sequence[Spans]) -> Batch:
    """Return a batch that knows which of its tokens have a loss."""
    predicted = to_device(flat_indices(spans, batch.ids.shape[1]), batch.ids.device)
    return batch._replace(predicted=predicted, spans=spans)


def _sizes(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Return the batch sizes for rows of ascending lengths."""
    sizes: list[int] = []
    size = 0
    for length in lengths:
        if size and (size == batch_size or (size + 1) * length > batch_size * _FULL_LENGTH):
            sizes.append(size)
            size = 0
        size += 1
    return [*sizes, size]


def padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask of rows, each ``[N, T]`` int64."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask

"""Rates, medians, ratios, intervals and operation counts: every number in a table is computed here, from recorded rows.

Measures nothing and imports no torch; `tests/test_benchmarks.py` checks it against numbers computed by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

__all__ = [
    "LinearShape",
    "Paired",
    "best_evaluation_so_far",
    "best_so_far",
    "forward_and_backward_flops",
    "median_ratio",
    "paired_difference",
    "product_flops",
    "standard_error_below",
    "table",
    "time_to_reach",
    "trials_per_hour",
    "window_s",
]

Trial = Mapping[str, Any]
"""``process``, ``begun_s`` and ``ended_s`` since the command's start, ``state``, ``accuracy``, and ``scores``: seconds
and accuracy of each evaluation, of pruned trials too."""


def window_s(trials: Sequence[Trial]) -> float:
    """Return the seconds from the start of the first trial to the end of the last one."""
    return float(max(trial["ended_s"] for trial in trials) - min(trial["begun_s"] for trial in trials))


def trials_per_hour(trials: Sequence[Trial], *, by_process: bool) -> float:
    """Return the steady rate, without the start-up and the end of the command.

    Args:
        trials: All trials of a command.
        by_process: Add up the rates of the processes, as for peers. A process that finishes before the others then
            costs nothing, as in a long study. Otherwise the whole window counts, including lanes that idle at its end,
            as for sweeper; this is to its disadvantage.
    """
    if not by_process:
        return 3600 * len(trials) / window_s(trials)
    groups = [[t for t in trials if t["process"] == process] for process in {t["process"] for t in trials}]
    return sum(3600 * len(group) / window_s(group) for group in groups)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest of the ratios of measurements that alternated."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def best_so_far(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """Return (seconds, best accuracy) at each improvement, complete trials only."""
    return _improvements((trial["ended_s"], trial["accuracy"]) for trial in trials if trial["state"] == "complete")


def best_evaluation_so_far(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """Return (seconds, best accuracy) at each improvement, counting every evaluation of every trial."""
    return _improvements((seconds, score) for trial in trials for seconds, score in trial["scores"])


def _improvements(scored: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    curve: list[tuple[float, float]] = []
    for seconds, score in sorted(scored, key=lambda pair: pair[0]):
        if not curve or score > curve[-1][1]:
            curve.append((float(seconds), float(score)))
    return curve


def standard_error_below(accuracy: float, num_rows: int) -> float:
    """Return ``p - sqrt(p (1 - p) / rows)``: a score that differs from p by no more than chance."""
    return accuracy - math.sqrt(accuracy * (1 - accuracy) / num_rows)


def time_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float:
    """Return the seconds until the curve reaches the target; infinite if it never does."""
    return next((seconds for seconds, best in curve if best >= target - 1e-9), math.inf)


@dataclass(frozen=True, slots=True)
class Paired:
    """A mean difference with its 95 % interval, and the median, which a single outlier does not move."""

    mean: float
    median: float
    low: float
    high: float
    deviation: float


def paired_difference(ones: Sequence[float], others: Sequence[float]) -> Paired:
    """Return the mean of ``one - other`` with the interval of Student's t."""
    from scipy.stats import t

    differences = [one - other for one, other in zip(ones, others, strict=True)]
    middle, deviation = mean(differences), stdev(differences)
    half = float(t.ppf(0.975, len(differences) - 1)) * deviation / math.sqrt(len(differences))
    return Paired(middle, median(differences), middle - half, middle + half, deviation)


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear layer of the encoder."""

    num_in: int
    num_out: int
    needs_input_gradient: bool
    """False where nothing below is trained: query, key and value of the first block."""
    first_token_only: bool = False
    """True where other tokens are never read: in the last block, except keys and values."""


def product_flops(layer: LinearShape, tokens: float) -> float:
    """Return the operations of a frozen product: ``2 I O`` per token forward, and as many for the input gradient.

    A frozen weight has no gradient of its own.
    """
    return 2 * tokens * layer.num_in * layer.num_out * (1 + layer.needs_input_gradient)


def forward_and_backward_flops(
    layers: Sequence[LinearShape], lengths: Sequence[int], *, rank: int, num_blocks: int, width: int
) -> float:
    """Return the floating-point operations that training on rows of these lengths needs.

    - frozen products: see `product_flops`; a layer that is read at the first token only processes one token per row;
    - LoRA: ``2 r (I + O)`` per token forward, twice that backward (gradients of A and B, and of the input through
      both), less ``2 r I`` where the input needs none;
    - attention: ``4 S H`` per query of S keys forward (scores and weighted sum), twice that backward; the last block
      has one query per row.

    Left out, because they are below 1 %: embeddings, norms, activations, softmax, pooler, head, optimizer.

    Args:
        layers: The adapted layers of all blocks.
        lengths: Tokens of each row; padded lengths give the operations performed, true lengths those that were needed.
        rank: Rank of every adapter.
        num_blocks: Number of transformer blocks.
        width: H, the width of the attention.
    """
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    linear = 0.0
    for layer in layers:
        seen = len(lengths) if layer.first_token_only else tokens
        lora = 3 * (layer.num_in + layer.num_out) - (0 if layer.needs_input_gradient else layer.num_in)
        linear += product_flops(layer, seen) + 2.0 * rank * lora * seen
    return linear + 12.0 * width * (squares * (num_blocks - 1) + tokens)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; floats get three significant digits."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(_cell_text(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell_text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    if not math.isfinite(cell):
        return "never"
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"

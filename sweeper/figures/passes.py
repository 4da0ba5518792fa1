"""Into how many parts a budget of tokens divides the rows of a micro-batch or of an evaluation."""

from __future__ import annotations

__all__ = ["FEWEST_TOKENS", "equal_parts", "scored_parts"]

FEWEST_TOKENS = 2048
"""Smallest pass for which several lanes stay together when memory runs out. On an H100, a product in bfloat16 takes as
long as reading its weights at about 300 tokens (989 TFLOP/s, 3.35 TB/s), so this is well above. Eight lanes on a CPU
have 1,920 at most (`sweeper.train.batches`)."""


def equal_parts(num_rows: int, length: int, lanes: int, tokens_per_pass: int) -> int:
    """Return the number of equal parts of a pass that keep to a budget; a part has a row of each lane at least.

    Args:
        num_rows: Rows of each lane in the pass.
        length: Tokens that they are padded to.
        lanes: Number of lanes that train together.
        tokens_per_pass: Most tokens of a part over all lanes, padding included; 0 for no limit.
    """
    most = _most_rows(num_rows, length, lanes, tokens_per_pass)
    return next(n for n in range(1, num_rows + 1) if num_rows % n == 0 and num_rows // n <= most)


def scored_parts(num_rows: int, length: int, lanes: int, tokens_per_pass: int) -> int:
    """Return the number of parts of a batch that is scored, as `equal_parts` does; the last one may be smaller."""
    return -(-num_rows // _most_rows(num_rows, length, lanes, tokens_per_pass))


def _most_rows(num_rows: int, length: int, lanes: int, tokens_per_pass: int) -> int:
    """Return how many of ``num_rows`` rows of each lane fit into a pass, at least one."""
    return max(1, tokens_per_pass // (lanes * length)) if tokens_per_pass else num_rows

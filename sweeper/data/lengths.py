"""How many tokens a row may have with ``model.max_length=auto``, and what is cut; `tokens` calls this.

One row in a hundred is cut, so that a few very long ones do not decide how much memory and time all others take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.types import CutRows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "AUTO",
    "MOST_AUTO_TOKENS",
    "NO_LIMIT",
    "choose_length",
    "count_cut",
    "least_length",
    "most_positions",
    "needed_lengths",
]

AUTO = "auto"
MOST_AUTO_TOKENS = 2048
"""More is never chosen, only set: activations grow with the length, and a row of this one takes 10 GB of them for a
Llama with 8 billion parameters (5 MB a token, without gradient checkpointing)."""
NO_LIMIT = 2**30
"""A length that no row reaches."""
OFFSET_POSITIONS = 2
OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Architectures that reserve the first two positions for padding."""
_SHARE = 0.99
_MULTIPLE = 16
"""Lengths are multiples of this, so that a few more rows do not change the shapes of all batches."""
_LEAST_PROMPT = 64
"""Tokens that the longest completion leaves to its prompt, if it has as many: the end of a prompt has the question."""


def most_positions(model_dir: Path) -> int:
    """Return the most tokens that a model takes, by its config.json; `NO_LIMIT` if it does not say."""
    path = model_dir / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    offset = OFFSET_POSITIONS if config.get("model_type") in OFFSET_TYPES else 0
    positions = config.get("max_position_embeddings") or config.get("n_positions") or NO_LIMIT + offset
    return int(positions - offset)


def choose_length(lengths: Sequence[int], *, least: int, most: int) -> int:
    """Return how many tokens a row may have.

    Args:
        lengths: What each training row needs; at least one.
        least: What no row may be cut below.
        most: What the model and memory allow.
    """
    enough = sorted(lengths)[math.ceil(_SHARE * len(lengths)) - 1]
    return min(math.ceil(max(enough, least) / _MULTIPLE) * _MULTIPLE, most)


def needed_lengths(part: Dataset, choices: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that each row needs so that nothing is cut.

    Args:
        part: Token ids of a split before anything is cut.
        choices: Token ids of each choice; a prompt leaves room for the longest.
    """
    longest = max(map(len, choices), default=0)
    return [prompt + longest for prompt in part["prompt"]] if longest else list(part["length"])


def least_length(part: Dataset, choices: Sequence[Sequence[int]]) -> int:
    """Return the tokens for the longest completion of a split, which is never cut, and a part of its prompt."""
    rows = zip(needed_lengths(part, choices), part["prompt"], strict=True)
    return max((size - prompt + min(prompt, _LEAST_PROMPT) for size, prompt in rows), default=0)


def count_cut(whole: Mapping[str, Dataset], made: Mapping[str, Dataset]) -> dict[str, CutRows]:
    """Return what was cut from the rows of each split; without the splits that nothing was cut from.

    Args:
        whole: Token ids before anything is cut.
        made: The same rows afterwards.
    """
    found = {}
    for name, part in whole.items():
        before = list(part["length"]) if len(part) else []
        lost = [b - a for b, a in zip(before, made[name]["length"], strict=True)] if before else []
        if any(lost):
            found[name] = CutRows(rows=sum(map(bool, lost)), tokens=sum(lost), all_tokens=sum(before))
    return found

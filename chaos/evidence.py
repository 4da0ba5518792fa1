"""What every result of the suites records: the commit, and what an observation of no loss proves."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["commit", "upper_bound"]

_ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """Return the commit of the checkout; ``+ changes`` if it has others than results."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout.strip()

    is_changed = git("status", "--porcelain", "--", ".", ":!chaos/results", ":!benchmarks/results")
    return (git("rev-parse", "HEAD") or "unknown") + (" + changes" if is_changed else "")


def upper_bound(num_observed: int, confidence: float = 0.95) -> float:
    """Return the largest rate at which no loss in ``num_observed`` independent observations is still plausible.

    The exact binomial (Clopper-Pearson) bound for zero events, 1 - (1 - confidence)^(1/n); about 3/n.
    """
    return 1.0 - (1.0 - confidence) ** (1.0 / num_observed) if num_observed else 1.0

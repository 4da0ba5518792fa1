"""Predictions of a running sweep beside what is measured: one line when a study opens, one in the live view."""

from __future__ import annotations

from sweeper.display.tables import clock_text
from sweeper.execute.base import StudyOpened
from sweeper.figures.text import bytes_text
from sweeper.store.rates import Rate

__all__ = ["facts_text", "opening_text"]


def opening_text(opened: StudyOpened, rate: Rate | None, *, varies: bool = False) -> str:
    """Return what a worker needs, and how long a trial takes, as far as that is known.

    Args:
        opened: What the worker predicted.
        rate: How fast this model trained in an earlier sweep.
        varies: Whether trials differ in their number of epochs; the time is that of the longest.
    """
    words = []
    if (need := opened.need) is not None:
        words.append(
            f"{bytes_text(need.total)} of memory a worker (base {bytes_text(need.base)}, lanes "
            f"{bytes_text(need.lanes)}, activations and logits {bytes_text(need.activations + need.logits)})"
        )
    if (seconds := _trial_s(opened, rate)) and rate is not None:
        trial = "the longest trial" if varies else "a trial"
        words.append(f"{clock_text(seconds)} of a device for {trial}, as measured on {rate.at[:10]}")
    return f"predicted: {'; '.join(words)}"


def facts_text(opened: StudyOpened, rate: Rate | None, *, trial_s: float, peak_bytes: int, varies: bool = False) -> str:
    """Return what a trial and a worker take so far, each with its prediction; empty before the first chunk.

    Args:
        opened: What the worker predicted.
        rate: How fast this model trained in an earlier sweep.
        trial_s: Measured device seconds of a trial; 0 if unknown.
        peak_bytes: Measured peak memory of a worker; 0 if unknown.
        varies: Whether trials differ in their number of epochs; the time is that of the longest.
    """
    words = []
    if trial_s:
        predicted = _trial_s(opened, rate)
        beside = f" (predicted {clock_text(predicted)})" if predicted else ""
        words.append(f"{'The longest' if varies else 'A'} trial takes {clock_text(trial_s)}{beside}")
    if peak_bytes:
        total = f" (predicted {bytes_text(opened.need.total)})" if opened.need else ""
        words.append(f"memory of a worker {bytes_text(peak_bytes)}{total}")
    return f"{', '.join(words)}." if words else ""


def _trial_s(opened: StudyOpened, rate: Rate | None) -> float:
    return opened.trial_tokens / rate.tokens_per_s if rate is not None else 0.0

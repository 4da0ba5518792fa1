"""What is left out of the training data, which every display of a study mentions: rows by a cap, tokens by a length.

``dataset.<name>.train_rows`` caps the rows, ``model.max_length`` the tokens of a row. Where no cap is set and one would
save much time, it is proposed.
"""

from __future__ import annotations

from sweeper.figures.text import plural
from sweeper.types import StudyRecord

__all__ = ["capped_rows", "cut_rows", "length_sentence", "proposal", "proposed_cap"]

_LEAST_CAP = 2000
"""With fewer rows, ``train.epochs=0`` repeats them more often, so that trials hardly get shorter."""
_LEAST_GAIN = 5
"""How many times as short trials must get for a cap to be proposed."""
_SHARE = 10
"""The cap that is proposed is this part of the rows, rounded to one digit."""


def capped_rows(study: StudyRecord) -> str:
    """Return e.g. ``1,000 of 50,000 rows`` if trials train on fewer rows than are available; otherwise empty."""
    num_used = study.num_rows.get("train", 0)
    return f"{num_used:,} of {study.num_available:,} rows" if num_used < study.num_available else ""


def cut_rows(study: StudyRecord) -> str:
    """Return e.g. ``12 rows cut at 192 tokens`` if training rows were cut; otherwise empty."""
    cut = study.cut.get("train")
    if cut is None or study.rows_ref is None:
        return ""
    return f"{plural(cut.rows, 'row')} cut at {study.rows_ref.max_length:,} tokens"


def length_sentence(study: StudyRecord) -> str:
    """Return how long rows may be and what was cut from those of each split; empty if an earlier version wrote it."""
    if study.rows_ref is None:
        return ""
    parts = [
        f"{cut.rows:,} of {study.num_rows.get(name, 0):,} {name} rows "
        f"({_percent(cut.tokens / cut.all_tokens)} of their tokens)"
        for name, cut in study.cut.items()
    ]
    return f"Rows have at most {study.rows_ref.max_length:,} tokens; cut to that: {', '.join(parts) or 'none'}."


def proposed_cap(study: StudyRecord) -> int:
    """Return the ``train_rows`` with which trials would be much shorter; 0 if there is no such cap, or already one."""
    num_used = study.num_rows.get("train", 0)
    if capped_rows(study):
        return 0
    cap = max(_LEAST_CAP, _one_digit(num_used // _SHARE))
    return cap if num_used >= _LEAST_GAIN * cap else 0


def proposal(study: StudyRecord) -> str:
    """Return a sentence that proposes a cap on the training rows; empty if there is none to propose."""
    cap = proposed_cap(study)
    if not cap:
        return ""
    num_used = study.num_rows["train"]
    return (
        f"Every trial trains on all {num_used:,} rows. With train_rows={cap}, trials would be about "
        f"{num_used / cap:.0f} times as short; the best configuration may differ, so train it on all rows in the end."
    )


def _one_digit(number: int) -> int:
    """Return a number rounded to its first digit, e.g. 5,000 for 5,200."""
    unit = int(10 ** (len(str(number)) - 1))
    return round(number / unit) * unit


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"  # noqa: PLR2004  what one digit can show

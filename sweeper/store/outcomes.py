"""What a trial predicted for each row of a split, and its loss there: a safetensors file of a few bytes per row.

Statistics resample these rows. Tasks make the values from the outputs that they score, `trials` writes the files.

Shapes: N rows, in the order of the split.
"""

# Arrays are named after their shapes.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sweeper.errors import StoreError

__all__ = ["RowOutcomes"]

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False, kw_only=True)
class RowOutcomes:
    """The outcome of every scored row. A row is right if ``predicted_N == target_N``."""

    loss_N: NDArray[np.float16]
    """Cross-entropy of each row; for completions, summed over the row's tokens."""
    predicted_N: NDArray[np.unsignedinteger[Any]] | None = None
    """Index of the predicted label or choice; None if completions are open."""
    target_N: NDArray[np.unsignedinteger[Any]] | None = None
    """Index of the true label or choice; None if completions are open.

    A label that no training row has is above every label that can be predicted.
    """
    tokens_N: NDArray[np.int32] | None = None
    """Tokens with a loss; None for one label per text."""

    @classmethod
    def of(
        cls,
        loss_N: NDArray[Any],
        *,
        predicted_N: NDArray[Any] | None = None,
        target_N: NDArray[Any] | None = None,
        tokens_N: NDArray[Any] | None = None,
        num_labels: int = 0,
    ) -> RowOutcomes:
        """Return outcomes in the narrowest types: uint8 for up to 256 labels, float16 for losses.

        Args:
            loss_N: Losses; those above 65,504, the largest float16, become that.
            predicted_N: Predicted labels or choices.
            target_N: True labels or choices.
            tokens_N: Numbers of tokens.
            num_labels: Number of labels or choices that can be predicted.
        """
        highest = 0 if target_N is None else int(target_N.max(initial=0))
        label = np.min_scalar_type(max(num_labels - 1, highest, 0))
        return cls(
            loss_N=np.clip(loss_N, -_LARGEST, _LARGEST).astype(np.float16),
            predicted_N=None if predicted_N is None else predicted_N.astype(label),
            target_N=None if target_N is None else target_N.astype(label),
            tokens_N=None if tokens_N is None else tokens_N.astype(np.int32),
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> RowOutcomes:
        """Rebuild outcomes from the result of `to_bytes`.

        Raises:
            StoreError: The content is damaged.
        """
        try:
            return cls(**load(content))
        except (SafetensorError, TypeError, ValueError) as error:
            raise StoreError(f"row outcomes cannot be read: {error}") from error

    def to_bytes(self) -> bytes:
        """Return a safetensors file with one tensor for each field that is not None."""
        return save({name: values for name, values in vars(self).items() if values is not None})

    @property
    def num_rows(self) -> int:
        """Number of scored rows."""
        return len(self.loss_N)

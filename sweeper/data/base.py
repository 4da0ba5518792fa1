"""What every dataset becomes: three splits of labelled rows, and the same rows tokenised.

A source (`wheel`, `hub`, `files`) only reads a table; `splits` checks it, deduplicates and splits it, `tokens` turns it
into token ids. Everything is a `datasets.Dataset`; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from datasets import Dataset

from sweeper.fetch import Progress
from sweeper.settings import DatasetSettings

__all__ = ["Progress", "Source", "Splits", "TokenisedSplits"]


class Source(Protocol):
    """Reads a table of rows."""

    def __call__(self, settings: DatasetSettings, cache: Path, progress: Progress) -> Dataset:
        """Return all rows with columns ``text``, ``label`` (str) and, if the data has one, ``split``.

        Raises:
            FetchError: The data cannot be had or fails its checksum.
            DataError: A column is missing or a row is broken; names its number.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Labelled rows, deduplicated and split; ``label`` is an index into ``labels``."""

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    labels: tuple[str, ...]
    fingerprint: str
    """SHA-256 over the rows of every split and the labels."""

    @property
    def num_rows(self) -> Mapping[str, int]:
        """Rows of each split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenisedSplits:
    """Columns ``input_ids`` (list of int), ``length`` (tokens) and ``label`` (int) of each split."""

    train: Dataset
    validation: Dataset
    test: Dataset
    pad_token_id: int

"""A search that proposes nothing, for studies whose trials are known from the start (`sweeper.sweep.final`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from sweeper.search.base import ProposalProtocol
from sweeper.types import Decision, TrialRecord, TrialState

__all__ = ["NoSearch"]


class NoSearch:
    """Implements `SearchProtocol` without a database: nothing is proposed, and nothing is pruned."""

    num_recipes = 0
    is_exhausted = True

    def ask(self) -> ProposalProtocol:
        """Never called, since the search is exhausted."""
        raise AssertionError("there is no search")

    def report(
        self,
        number: int,
        *,
        chunk: int,
        value: float,
        loss: float = math.nan,
        costs: Mapping[str, float] | None = None,
    ) -> Decision:
        """Let every trial continue."""
        del number, chunk, value, loss, costs
        return Decision.CONTINUE

    def tell(
        self, number: int, *, state: TrialState, value: float | None = None, finished_at: datetime | None = None
    ) -> None:
        """Do nothing."""

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Do nothing."""

    def publish(self) -> None:
        """Do nothing."""

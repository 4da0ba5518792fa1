"""The interface of a search: what the controller needs from whatever proposes configurations and prunes trials.

`sweeper.search.study.Search` implements it. Once the database has failed several attempts, the next call raises
`StorageDown`, or `DiskFull` if its disk is full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from sweeper.config.values import ParamValue
from sweeper.types import Decision, TrialRecord, TrialState

__all__ = ["ProposalProtocol", "SearchProtocol"]


class ProposalProtocol(Protocol):
    """A configuration to try."""

    @property
    def number(self) -> int:
        """Number of the trial in its study."""
        ...

    @property
    def params(self) -> Mapping[str, ParamValue]:
        """Searched values by dotted key."""
        ...

    @property
    def origin(self) -> str:
        """What proposed it: ``recipe:<name>``, ``portfolio:<source>``, ``sobol``, ``grid`` or the sampler's name."""
        ...

    @property
    def notes(self) -> Mapping[str, object]:
        """What later proposals must know about this one; kept in the trial's record."""
        ...


class SearchProtocol(Protocol):
    """Proposes configurations and prunes trials (see `sweeper.search.study.Search`)."""

    @property
    def num_recipes(self) -> int:
        """Number of recipes in the space; the first proposals are these."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether there is no further configuration to propose."""
        ...

    def ask(self) -> ProposalProtocol:
        """Propose a configuration; its trial counts as running until `tell`."""
        ...

    def report(
        self,
        number: int,
        *,
        chunk: int,
        value: float,
        loss: float = ...,
        costs: Mapping[str, float] | None = None,
    ) -> Decision:
        """Report a trial's objective, validation loss and costs at a rung; return whether the trial continues."""
        ...

    def tell(
        self, number: int, *, state: TrialState, value: float | None = None, finished_at: datetime | None = None
    ) -> None:
        """Report how a trial ended, and when."""
        ...

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Build the search from the store, before the first proposal."""
        ...

    def publish(self) -> None:
        """Show all changes in the database. To call once the store has them."""
        ...

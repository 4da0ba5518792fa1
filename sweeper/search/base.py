"""The interface of a search: what the controller needs from whatever proposes configurations and prunes trials.

`sweeper.search.study.Search` implements it. A call that still fails to reach the database after several attempts raises
`StorageDown`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        """What proposed it: ``recipe:<name>``, ``sobol``, ``grid`` or the sampler's name."""
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

    def report(self, number: int, *, chunk: int, value: float) -> Decision:
        """Report a trial's objective at a rung; return whether the trial continues."""
        ...

    def tell(self, number: int, *, state: TrialState, value: float | None = None) -> None:
        """Report how a trial ended."""
        ...

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Bring the search in line with the store."""
        ...

    def pending(self) -> Sequence[ProposalProtocol]:
        """Return proposals that never reached the store."""
        ...

"""The contract of searches: what the controller asks of whatever proposes settings and stops trials.

`sweeper.search.study.Search` fulfils it. A call that cannot reach its database raises `StorageDown`, after attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sweeper.config.values import ParamValue
from sweeper.types import Decision, TrialRecord, TrialState

__all__ = ["ProposalProtocol", "SearchProtocol"]


class ProposalProtocol(Protocol):
    """A setting to try."""

    @property
    def number(self) -> int:
        """Trial number."""
        ...

    @property
    def params(self) -> Mapping[str, ParamValue]:
        """Values by dotted key."""
        ...

    @property
    def origin(self) -> str:
        """Recipe, design or sampler."""
        ...


class SearchProtocol(Protocol):
    """What proposes settings and stops trials (see `sweeper.search.study.Search`)."""

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        ...

    def ask(self) -> ProposalProtocol:
        """Propose a setting."""
        ...

    def report(self, number: int, *, chunk: int, value: float) -> Decision:
        """Judge a trial at a rung."""
        ...

    def tell(self, number: int, *, state: TrialState, value: float | None = None) -> None:
        """Finish a trial."""
        ...

    def sync(self, records: Sequence[TrialRecord], value_of: Callable[[TrialRecord], float | None]) -> None:
        """Bring the search in line with the store."""
        ...

    def pending(self) -> Sequence[ProposalProtocol]:
        """Return trials that the search began and the store does not know."""
        ...

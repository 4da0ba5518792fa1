"""How many trials may train at once: per worker, per study, and while the recipes train. Chosen once per session."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.settings import SweepSettings

__all__ = ["LaneLimits", "choose_limits"]

_BUDGET_DIVISOR = 3
"""At most this part of the budget is in flight, so that most trials start after results that the search learns from."""
_MOST_CUDA_LANES = 64
_MOST_CPU_LANES = 4
"""On a CPU, 4 lanes train 630 rows per second, and 8 train 641 (docs/benchmarks.md)."""
_RECIPE_LANES = 2
"""Lanes of a CPU worker that trains recipes: in a narrow pack the first adapter is complete sooner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneLimits:
    """Limits of the lanes; `control.packing` applies them."""

    lanes: int
    """Most lanes of a worker."""
    is_measured: bool = False
    """Whether each worker measures how many of the ``lanes`` are fastest."""
    in_flight: int = 0
    """Most trials of a study in training over all its workers, each of which may have at least one; 0 for no limit."""
    recipe_lanes: int = 0
    """Most lanes of a worker that trains recipes, and nothing beside them; 0 to let them share packs with others."""

    def __str__(self) -> str:
        if not self.is_measured:
            return f"{self.lanes}"
        return f"as many as turn out to be fastest, at most {self.lanes}"


def choose_limits(settings: SweepSettings, device: str) -> LaneLimits:
    """Return the limits that the settings ask for.

    Args:
        settings: ``executor.lanes`` and ``budget.trials``.
        device: ``cpu`` or ``cuda``. On a GPU a narrow pack would waste most of the device, so recipes share packs.
    """
    is_cpu, lanes = device == "cpu", settings.executor.lanes
    recipe_lanes = _RECIPE_LANES if is_cpu else 0
    if lanes != "auto":
        return LaneLimits(lanes=int(lanes), recipe_lanes=recipe_lanes)
    in_flight = max(1, settings.budget.trials // _BUDGET_DIVISOR)
    most = _MOST_CPU_LANES if is_cpu else _MOST_CUDA_LANES
    return LaneLimits(
        lanes=min(most, in_flight), is_measured=not is_cpu, in_flight=in_flight, recipe_lanes=recipe_lanes
    )

"""How fast models trained on this machine: recorded in the cache after each session, read by `sweeper plan` and `run`.

A rate belongs to all that changes it: a model (the content of its config.json) and its settings, a device, the datasets
and the number of lanes. The newest measurement replaces earlier ones, since code and machine change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from sweeper.disk.atomic import write_atomic
from sweeper.disk.lock import hold_file
from sweeper.errors import DiskError

__all__ = ["LEAST_DEVICE_S", "Rate", "RateKey", "config_digest", "find_rate", "record_rates"]

log = logging.getLogger(__name__)

LEAST_DEVICE_S = 20.0
"""Device seconds of a study below which its rate is not recorded: the start of workers would distort it."""
_FILE = "rates.json"
_LOCK = ".rates.lock"
_COUNTS = ("lanes", "workers", "threads")
_FIXED = (
    "model",
    "task",
    "device",
    "dtype",
    "quantization",
    "checkpointing",
    "attention",
    "base_dropout",
    "target_modules",
)
"""What must be the same, since nothing is known of how it changes a rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateKey:
    """What a rate was measured with."""

    model: str
    """`config_digest` of the model."""
    task: str
    device: str
    """Name of the GPU or the processor."""
    dtype: str
    """The setting ``model.dtype``; auto means the same type on the same device."""
    lanes: int
    """Most lanes of a worker."""
    workers: int
    threads: int
    quantization: str = "none"
    """How the weights are held, ``model.quantization`` or as the model's files have them."""
    checkpointing: str = "auto"
    """The setting ``model.gradient_checkpointing``; ``never`` instead of ``auto`` on a CPU, which is the same."""
    attention: str = "auto"
    """The setting ``model.attention``."""
    base_dropout: float = 0.0
    """The setting ``model.dropout``."""
    target_modules: str = ""
    """The setting ``model.target_modules``, joined by commas."""
    datasets: str = ""
    """Names of the datasets, joined by commas: how long their rows are changes the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A measurement."""

    key: RateKey
    model_name: str
    tokens: int
    """Tokens trained on, without padding."""
    device_s: float
    """Device seconds, scoring included."""
    trained_share: float
    """Share of its chunks that a trial of the search trains on average, since many are pruned; 0 if unknown."""
    at: str
    """When the session ended, UTC."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens that a worker trains on per second, over all its lanes."""
        return self.tokens / self.device_s


def config_digest(model_dir: Path) -> str:
    """Return a digest of a model's config.json, the same for models of one architecture and size."""
    content = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if not key.startswith(("_", "transformers_version"))}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def record_rates(cache: Path, rates: list[Rate]) -> None:
    """Record measurements; those of less than `LEAST_DEVICE_S` are ignored.

    A session must not fail because its rate cannot be written, so that is only a warning in the log.
    """
    kept = {rate.key: rate for rate in rates if rate.device_s >= LEAST_DEVICE_S}
    if not kept:
        return
    try:
        with hold_file(cache / _LOCK):
            known = {rate.key: rate for rate in _read(cache)}
            content = [dataclasses.asdict(rate) for rate in (known | kept).values()]
            write_atomic(cache / _FILE, json.dumps(content, indent=1).encode())
    except (OSError, DiskError) as error:
        log.warning("the speed of this session was not recorded: %s", error)


def find_rate(cache: Path, key: RateKey) -> tuple[Rate, str] | None:
    """Return the measurement that fits best, and how it differs from what is asked; None if there is none.

    Model, task, device and the settings of the base model must be the same. Of several, those of the same datasets come
    first, then the one with the nearest number of lanes.
    """
    found = [rate for rate in _read(cache) if all(getattr(rate.key, name) == getattr(key, name) for name in _FIXED)]
    if not found:
        return None
    best = min(
        found,
        key=lambda rate: (
            rate.key.datasets != key.datasets,
            *(abs(getattr(rate.key, name) - getattr(key, name)) for name in _COUNTS),
        ),
    )
    different = [name for name in ("datasets", *_COUNTS) if getattr(best.key, name) != getattr(key, name)]
    return best, ", ".join(f"{name}={getattr(best.key, name) or 'unknown'}" for name in different)


def _read(cache: Path) -> list[Rate]:
    """Return all measurements; a file that cannot be read is like none, since it can be measured again."""
    try:
        content = json.loads((cache / _FILE).read_text(encoding="utf-8"))
        return [Rate(**{**entry, "key": RateKey(**entry["key"])}) for entry in content]
    except (OSError, ValueError, TypeError, KeyError):
        return []

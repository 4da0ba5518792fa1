"""Rules between settings, checked once, before anything is fetched or started."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from sweeper.clock import utc_now
from sweeper.config.settings import SweepSettings
from sweeper.config.space import SEARCHABLE, Scale, SearchSpace, check_value
from sweeper.config.time_limit import find_time_limit
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError, did_you_mean

__all__ = ["check_settings", "fixed_values", "micro_batch"]

_AT_LEAST_ONE = (
    "train.epochs",
    "train.chunks_per_epoch",
    "model.max_length",
    "executor.threads",
    "executor.hang_timeout_factor",
    "executor.startup_timeout_s",
    "budget.trials",
    "search.min_chunks",
)
_ONE_OF = {
    "method.name": ("lora",),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "model.attention": ("auto", "eager", "sdpa", "sweeper_short"),
    "model.chat_template": ("auto", "always", "never"),
    "search.sampler": ("tpe", "gp", "random", "qmc", "cmaes", "grid", "auto"),
    "search.pruner": ("successive_halving", "median", "hyperband", "none"),
    "executor.name": ("process", "inline"),
    "executor.device": ("auto", "cpu", "cuda"),
    "tracker.name": ("mlflow", "none"),
    "notify.when": ("end", "failure", "never"),
}
"""Said here as well as by those who take them, since they are asked only after everything was fetched."""
_NOT_NEGATIVE = (
    "executor.workers",
    "executor.max_retries",
    "executor.retry_s",
    "executor.abort_after_failures",
    "executor.hang_timeout_min_s",
    "executor.min_free_mb",
    "executor.shutdown_grace_s",
    "budget.device_hours",
    "search.num_startup_trials",
    "train.micro_batch",
)


def check_settings(settings: SweepSettings, space: SearchSpace) -> None:
    """Check what one field alone, or two fields together, must fulfil.

    Raises:
        ConfigError: A rule is broken.
    """
    if not settings.dataset:
        raise ConfigError("dataset", "", "no dataset is chosen", "Choose one, e.g. dataset=trec.")
    names = [dataset.name for dataset in settings.dataset.values()]
    for key, dataset in settings.dataset.items():
        _check_name(f"dataset.{key}.name", dataset.name)
    _check_name("model.name", settings.model.name)
    if settings.name:
        _check_name("name", settings.name)
    if len(set(names)) < len(names):
        raise ConfigError("dataset", ",".join(names), "two datasets have one name", "Set dataset.<key>.name.")
    for key, known in _ONE_OF.items():
        _check_known(key, _value(settings, key), known)
    for key in _AT_LEAST_ONE:
        _check_least(settings, key, 1)
    lanes = settings.executor.lanes
    if lanes != "auto" and (isinstance(lanes, str) or lanes < 1):
        raise ConfigError(
            "executor.lanes", lanes, "a whole number of at least 1, or auto, is expected", "Write 8 or auto."
        )
    for key in _NOT_NEGATIVE:
        _check_least(settings, key, 0)
    if not 0 <= settings.model.dropout < 1:
        raise ConfigError("model.dropout", settings.model.dropout, "must be at least 0 and less than 1", "0 is off.")
    for key, value in fixed_values(settings).items():
        if key in SEARCHABLE and key not in space.keys:
            check_value(key, value, str(value))
    _check_batches(settings, space)
    find_time_limit(settings.budget, utc_now())


def fixed_values(settings: SweepSettings) -> dict[str, ParamValue]:
    """Return every ``lora.*`` and ``train.*`` value by dotted key, as trials start from them."""
    sections = (("lora", settings.lora), ("train", settings.train))
    return {f"{name}.{f.name}": getattr(section, f.name) for name, section in sections for f in fields(section)}


def micro_batch(settings: SweepSettings, space: SearchSpace) -> int:
    """Return the rows of a lane that are in memory at once: those set, or the smallest batch size of the space."""
    return settings.train.micro_batch or min(_batch_sizes(settings, space))


def _batch_sizes(settings: SweepSettings, space: SearchSpace) -> list[int]:
    for dimension in space.dimensions:
        if dimension.key == "train.batch_size":
            if dimension.choices:
                return [int(choice) for choice in dimension.choices]
            if dimension.scale is Scale.LOG2:
                first, last = dimension.exponents
                return [2**exponent for exponent in range(first, last + 1)]
            raise ConfigError(
                dimension.key,
                dimension.text,
                "batch sizes are multiples of one micro-batch, so they come from a list",
                "Write choice(16,32,64) or tag(log2,interval(16,64)).",
            )
    return [settings.train.batch_size]


def _check_batches(settings: SweepSettings, space: SearchSpace) -> None:
    size = micro_batch(settings, space)
    for batch in _batch_sizes(settings, space):
        if batch % size:
            raise ConfigError(
                "train.micro_batch",
                size,
                f"train.batch_size={batch} is not a multiple of it",
                "Choose a divisor of all.",
            )


def _check_least(settings: SweepSettings, key: str, least: int) -> None:
    value = _value(settings, key)
    if value < least:
        raise ConfigError(key, value, f"at least {least} is expected", "Raise it.")


def _check_known(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        remedy = f"{did_you_mean(value, known)} Choose one of {', '.join(known)}.".strip()
        raise ConfigError(key, value, f"there is no {key.replace('.name', '').rpartition('.')[2]} of this name", remedy)


def _value(settings: SweepSettings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _check_name(key: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", name):
        rule = "names of sweeps, datasets and models become names of folders: letters, digits and _ . + - only"
        raise ConfigError(key, name, rule, "Choose another name.")

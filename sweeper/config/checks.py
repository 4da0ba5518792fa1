"""Checks a composed configuration once, before anything is fetched or started.

The allowed values of a single key are declared beside the key (`settings`, `keys`); the rules between keys are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sweeper.clock import utc_now
from sweeper.config.keys import Key, all_keys, find_key
from sweeper.config.settings import ConfirmSettings, SearchSettings, SweepSettings
from sweeper.config.space import Scale, SearchSpace
from sweeper.config.time_limit import find_time_limit
from sweeper.errors import ConfigError, did_you_mean

__all__ = ["check_settings", "micro_batch"]

_SAMPLERS_WITH_COST = ("tpe", "random", "qmc", "grid", "auto")
_PRUNERS_WITH_COST = ("successive_halving", "none")
_MOST_LANES = 1024
_MOST_TOKENS = 2**20
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


def check_settings(settings: SweepSettings, space: SearchSpace) -> None:
    """Check every key, and the rules between keys.

    Raises:
        ConfigError: A rule is broken.
    """
    if not settings.dataset:
        raise ConfigError("dataset", "", "no dataset is chosen", "Choose one, e.g. dataset=trec.")
    _check_names(settings)
    for name, key, value in _values(settings):
        if name not in space.keys:
            key.check(value, key=name)
    _check_number_or_auto("executor.lanes", settings.executor.lanes, most=_MOST_LANES, example=8)
    _check_number_or_auto("model.max_length", settings.model.max_length, most=_MOST_TOKENS, example=256)
    _check_batches(settings, space)
    _check_recipes(settings.search)
    _check_cost(settings.search)
    _check_confirm(settings.confirm)
    find_time_limit(settings.budget, utc_now())


def _check_number_or_auto(key: str, value: int | str, *, most: int, example: int) -> None:
    if value != "auto" and (isinstance(value, str) or not 1 <= value <= most):
        rule = f"must be a whole number from 1 to {most}, or auto"
        raise ConfigError(key, value, rule, f"Write {example} or auto.")


def _check_confirm(confirm: ConfirmSettings) -> None:
    if confirm.max_seeds < confirm.seeds:
        rule = f"must be at least confirm.seeds={confirm.seeds}, the seeds that every candidate gets"
        raise ConfigError("confirm.max_seeds", confirm.max_seeds, rule, "Raise it, or lower confirm.seeds.")


def micro_batch(settings: SweepSettings, space: SearchSpace) -> int:
    """Return the rows of a micro-batch: ``train.micro_batch``, or the smallest batch size of the space if it is 0."""
    return settings.train.micro_batch or min(_batch_sizes(settings, space))


def _check_names(settings: SweepSettings) -> None:
    """Check that every name is usable as a folder name, and that no two datasets share one."""
    names = {f"dataset.{key}.name": dataset.name for key, dataset in settings.dataset.items()}
    optional = {"name": settings.name} if settings.name else {}
    for key, name in {**names, "model.name": settings.model.name, **optional}.items():
        if not _NAME.fullmatch(name):
            rule = "names of sweeps, datasets and models become folder names: letters, digits and _ . + - only"
            raise ConfigError(key, name, rule, "Choose another name.")
    if len(set(names.values())) < len(names):
        shown = ",".join(names.values())
        raise ConfigError("dataset", shown, "two datasets have the same name", "Set dataset.<key>.name.")


def _values(settings: SweepSettings) -> Iterator[tuple[str, Key, object]]:
    """Yield every key as the user writes it, with its rules and its value."""
    for name, key in all_keys().items():
        section, _, field = name.rpartition(".")
        if section == "dataset.<name>":
            for chosen, dataset in settings.dataset.items():
                yield f"dataset.{chosen}.{field}", key, getattr(dataset, field)
        else:
            yield name, key, getattr(getattr(settings, section) if section else settings, field)


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
            rule = f"train.batch_size={batch} is not a multiple of it"
            raise ConfigError("train.micro_batch", size, rule, "Choose a divisor of every batch size.")


def _check_recipes(search: SearchSettings) -> None:
    """Check names, keys and values of the recipes and references."""
    names: set[str] = set()
    for name, recipes in (("search.recipes", search.recipes), ("search.references", search.references)):
        for recipe in recipes:
            if recipe.name in names:
                raise ConfigError(name, recipe.name, "two recipes have the same name", "Rename one of them.")
            names.add(recipe.name)
            for key, value in recipe.params.items():
                _check_recipe_value(name, recipe.name, key, value)


def _check_cost(search: SearchSettings) -> None:
    """Check that sampler and pruner know two objectives if there are two."""
    if search.cost == "none":
        return
    for name, value, known in (
        ("search.sampler", search.sampler, _SAMPLERS_WITH_COST),
        ("search.pruner", search.pruner, _PRUNERS_WITH_COST),
    ):
        if value not in known:
            rule = f"it knows one objective only, and search.cost={search.cost} adds a second"
            raise ConfigError(name, value, rule, f"Choose one of {', '.join(known)}, or set search.cost=none.")


def _check_recipe_value(name: str, recipe: str, key: str, value: object) -> None:
    known = [each for each in all_keys() if each.startswith(("lora.", "train."))]
    if key not in known:
        remedy = did_you_mean(key, known) or "Use keys under lora and train."
        raise ConfigError(name, key, f"recipe '{recipe}' has an unknown key", remedy)
    # A recipe that leaves a choice to sweeper names no value.
    find_key(key).as_dimension.check(value, key=f"{name} ({recipe}): {key}")

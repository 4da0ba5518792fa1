"""The hyperparameters of a trial: every value under ``lora`` and ``train``, as the dataclasses of `settings`.

Hydra, Optuna, MLflow and reports use dotted keys; `Hyperparameters.with_params` and `by_key` convert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sweeper.config.keys import find_key
from sweeper.config.settings import LoraSettings, SweepSettings, TrainSettings
from sweeper.config.values import ParamValue

__all__ = ["Hyperparameters", "without_head_keys"]

T = TypeVar("T")
_HEAD_KEYS = "train.head_"
"""Start of the keys of the task's head, which not every task has."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """One configuration: the adapter and its training."""

    lora: LoraSettings
    train: TrainSettings

    @classmethod
    def of(cls, settings: SweepSettings) -> Hyperparameters:
        """Return the values of the settings, which trials use for the keys that do not vary."""
        return cls(dataclasses.replace(settings.lora), dataclasses.replace(settings.train))

    def with_params(self, params: Mapping[str, ParamValue]) -> Hyperparameters:
        """Return this configuration with some values replaced.

        Args:
            params: Values by dotted key, e.g. ``{"lora.r": 8}``.

        Raises:
            TypeError: A key is not under ``lora`` or ``train``.
        """
        changed: dict[str, dict[str, Any]] = {"lora": {}, "train": {}}
        for key, value in params.items():
            section, _, name = key.partition(".")
            if section not in changed:
                raise TypeError(f"{key} is not a hyperparameter: its key must be under lora or train")
            changed[section][name] = find_key(key).cast(value)
        lora = dataclasses.replace(self.lora, **changed["lora"])
        return Hyperparameters(lora, dataclasses.replace(self.train, **changed["train"]))

    def by_key(self) -> dict[str, ParamValue]:
        """Return every value by dotted key, in the order of the dataclasses."""
        sections = (("lora", self.lora), ("train", self.train))
        return {f"{name}.{f.name}": getattr(section, f.name) for name, section in sections for f in fields(section)}


def without_head_keys(values: Mapping[str, T]) -> dict[str, T]:
    """Return values by dotted key without those of the task's head."""
    return {key: value for key, value in values.items() if not key.startswith(_HEAD_KEYS)}

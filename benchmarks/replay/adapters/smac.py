"""SMAC3: its multi-fidelity facade, that is, Hyperband whose configurations a random forest proposes, like BOHB."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from ConfigSpace import CategoricalHyperparameter, Configuration, ConfigurationSpace, Float, Integer
from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialInfo, TrialValue

from benchmarks.replay.adapters.protocol import Message

_NUM_TRIALS = 60
"""About as many as fit into the budget; SMAC takes the size of its initial design from it, a quarter."""


class Smac:
    """The facade, asked and told. A configuration that is promoted goes on from its checkpoint."""

    def __init__(self, message: Message) -> None:
        logging.disable(logging.CRITICAL)
        self._num_chunks = message["num_chunks"]
        space = ConfigurationSpace(seed=message["seed"])
        space.add([_hyperparameter(entry, message["default"][entry["key"]]) for entry in message["space"]])
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            space,
            output_directory=Path(self._folder.name),
            deterministic=True,
            n_trials=_NUM_TRIALS,
            min_budget=1,
            max_budget=self._num_chunks,
            seed=message["seed"],
        )
        design = MultiFidelityFacade.get_initial_design(
            scenario, additional_configs=[space.get_default_configuration()]
        )
        self._facade = MultiFidelityFacade(
            scenario, _never_called, initial_design=design, logging_level=False, overwrite=True
        )
        self._ids: dict[Configuration, str] = {}
        self._running: dict[str, TrialInfo] = {}

    def ask(self) -> Message:
        """Return a configuration and its budget, in whole chunks."""
        info = self._facade.ask()
        trial = self._ids.setdefault(info.config, str(len(self._ids)))
        self._running[trial] = info
        values = {key: _plain(value) for key, value in dict(info.config).items()}
        return {"trial": trial, "values": values, "until": max(1, round(info.budget))}

    def tell(self, trial: str, chunk: int, score: float) -> int:  # noqa: ARG002  the budget is known
        """Report a cost. A promotion is asked for again."""
        self._facade.tell(self._running.pop(trial), TrialValue(cost=-score), save=False)
        return 0


def _never_called(config: Configuration, seed: int = 0, budget: float = 0) -> float:
    raise NotImplementedError


def _hyperparameter(entry: Message, default: Any) -> Any:
    if entry["kind"] == "choice":
        return CategoricalHyperparameter(entry["key"], entry["choices"], default_value=default)
    kind = Integer if entry["kind"] == "int" else Float
    return kind(entry["key"], (entry["low"], entry["high"]), default=default, log=entry["log"])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


SEARCH = Smac

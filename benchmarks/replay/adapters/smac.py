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
        self._trials: dict[Configuration, list[str]] = {}
        self._reached: dict[str, int] = {}
        self._running: dict[str, TrialInfo] = {}

    def ask(self) -> Message:
        """Return a configuration and its budget, in whole chunks."""
        info = self._facade.ask()
        until = max(1, round(info.budget))
        trial = self._trial(info.config, until)
        self._running[trial] = info
        values = {key: _plain(value) for key, value in dict(info.config).items()}
        return {"trial": trial, "values": values, "until": until}

    def tell(self, trial: str, chunk: int, score: float) -> int:
        """Report a cost. A promotion is asked for again."""
        self._reached[trial] = chunk
        self._facade.tell(self._running.pop(trial), TrialValue(cost=-score), save=False)
        return 0

    def _trial(self, config: Configuration, until: int) -> str:
        """Return the checkpoint to go on from, or a new trial: brackets may ask for the same configuration at once."""
        trials = self._trials.setdefault(config, [])
        for trial in trials:
            if trial not in self._running and self._reached[trial] < until:
                return trial
        trials.append(f"{len(self._trials)}.{len(trials)}")
        return trials[-1]


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

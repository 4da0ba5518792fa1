"""PriorBand of neural-pipeline-search: Hyperband that samples around a prior, here the default recipe, and the best."""

from __future__ import annotations

import random
from typing import Any

import neps
import numpy as np
import torch

from benchmarks.replay.adapters.protocol import Message


class PriorBand:
    """The optimizer, asked and told. A configuration that is promoted goes on from its checkpoint."""

    def __init__(self, message: Message) -> None:
        torch.set_num_threads(1)
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(message["seed"])
        self._keys = [entry["key"] for entry in message["space"]]
        # Names must be attributes.
        self._names = {key: key.replace(".", "__") for key in self._keys}
        elements = {
            self._names[entry["key"]]: _parameter(entry, message["default"][entry["key"]]) for entry in message["space"]
        }
        fidelity = neps.HPOInteger(1, message["num_chunks"], is_fidelity=True)
        space = neps.SearchSpace({**elements, "chunks": fidelity})
        self._search = neps.AskAndTell(neps.algorithms.priorband(space))
        self._running: dict[str, Any] = {}

    def ask(self) -> Message:
        """Return a configuration and its fidelity."""
        asked = self._search.ask()
        trial = asked.metadata.id.split("_rung_")[0]
        self._running[trial] = asked
        values = {key: _plain(asked.config[self._names[key]]) for key in self._keys}
        return {"trial": trial, "values": values, "until": int(asked.config["chunks"])}

    def tell(self, trial: str, chunk: int, score: float) -> int:  # noqa: ARG002  the fidelity is known
        """Report an objective. A promotion is asked for again."""
        self._search.tell(self._running.pop(trial), -score)
        return 0


def _parameter(entry: Message, default: Any) -> Any:
    if entry["kind"] == "choice":
        return neps.HPOCategorical(entry["choices"], prior=default)
    kind = neps.HPOInteger if entry["kind"] == "int" else neps.HPOFloat
    return kind(entry["low"], entry["high"], log=entry["log"], prior=default)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


SEARCH = PriorBand

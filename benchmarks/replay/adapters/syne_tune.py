"""Syne Tune: ASHA (stopping) and MOBSTER, which is the same with a Gaussian process over settings and rungs."""

from __future__ import annotations

import datetime
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, MOBSTER
from syne_tune.optimizer.scheduler import SchedulerDecision

from benchmarks.replay.adapters.protocol import Message


class SyneTune:
    """A scheduler, told at its rung levels only: a score costs time."""

    def __init__(self, message: Message) -> None:
        self._num_chunks, self._trials = message["num_chunks"], dict[str, Trial]()
        kind = ASHA if message["options"]["searcher"] == "random" else MOBSTER
        eta = message["options"]["eta"]
        self._scheduler = kind(
            {entry["key"]: _domain(entry) for entry in message["space"]},
            metric="score",
            mode="max",
            resource_attr="chunk",
            max_t=self._num_chunks,
            grace_period=1,
            reduction_factor=eta,
            random_seed=message["seed"],
            points_to_evaluate=[message["default"]],
            search_options={"debug_log": False},
        )
        levels = {eta**power for power in range(self._num_chunks) if eta**power < self._num_chunks}
        self._levels = [*sorted(levels), self._num_chunks]

    def ask(self) -> Message:
        """Return a new trial; the stopping variant resumes none."""
        number = len(self._trials)
        suggestion = self._scheduler.suggest(number)
        if suggestion is None:
            return {"trial": None}
        trial = Trial(trial_id=number, config=suggestion.config, creation_time=datetime.datetime.now(datetime.UTC))
        self._trials[str(number)] = trial
        self._scheduler.on_trial_add(trial)
        values = {key: _plain(value) for key, value in suggestion.config.items()}
        return {"trial": str(number), "values": values, "until": self._levels[0]}

    def tell(self, trial: str, chunk: int, score: float) -> int:
        """Report a score at a rung level."""
        found, result = self._trials[trial], {"score": score, "chunk": chunk}
        decision = self._scheduler.on_trial_result(found, result)
        if chunk == self._num_chunks:
            self._scheduler.on_trial_complete(found, result)
            return 0
        if decision != SchedulerDecision.CONTINUE:
            self._scheduler.on_trial_remove(found)
            return 0
        return next(level for level in self._levels if level > chunk)


def _domain(entry: Message) -> Any:
    if entry["kind"] == "choice":
        return choice(entry["choices"])
    kinds = {("int", False): randint, ("int", True): lograndint, ("float", False): uniform, ("float", True): loguniform}
    return kinds[entry["kind"], entry["log"]](entry["low"], entry["high"])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


SEARCH = SyneTune

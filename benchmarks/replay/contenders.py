"""The searches that are compared, each with its authors' defaults unless its text says otherwise.

Random search and Optuna run here. The others have requirements that conflict with ours and with each other, so each has
a virtual environment and answers an adapter's questions there (`adapters`).
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.replay.declared import declare, default_recipe, to_params, to_values
from benchmarks.replay.driver import Assignment, Contender, CpuTimer
from sweeper.config.space import SearchSpace

__all__ = ["CONTENDERS", "PEERS", "Entry", "Peer", "Start"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a search is started with."""

    space: SearchSpace
    num_chunks: int
    num_lanes: int
    seed: int


class RandomSearch:
    """Trains uniform draws to the end, and scores them at half of it, too, as scripts do after each of two epochs."""

    def __init__(self, start: Start) -> None:
        self._start, self._random, self._count = start, np.random.default_rng(start.seed), 0
        self._timer = CpuTimer()

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far."""
        return self._timer.total_s

    def ask(self) -> Assignment:
        """Return a uniform draw."""
        with self._timer:
            self._count += 1
            units = self._random.random(len(self._start.space))
            params = self._start.space.point(tuple(units.tolist()))
            return Assignment(trial=str(self._count), until=self._start.num_chunks // 2, params=params)

    def tell(self, trial: str, chunk: int, score: float, loss: float) -> int:  # noqa: ARG002  learns nothing
        """Go on to the end."""
        return self._start.num_chunks


class OptunaSearch:
    """A study that is asked and told, and a pruner that is asked at its rungs only, since every score costs time.

    Args:
        start: What it is started with.
        sampler: Makes the sampler from the seed.
        pruner: Makes the pruner from the number of chunks.
        rungs: The chunks at which the pruner may stop a trial.
        knows_recipe: Whether the default recipe is its first trial.
    """

    def __init__(
        self,
        start: Start,
        *,
        sampler: Callable[[Start], optuna.samplers.BaseSampler],
        pruner: Callable[[int], optuna.pruners.BasePruner],
        rungs: Sequence[int],
        knows_recipe: bool = True,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._start, self._timer = start, CpuTimer()
        self._rungs = [*(rung for rung in rungs if rung < start.num_chunks), start.num_chunks]
        self._trials: dict[str, optuna.Trial] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                direction="maximize", sampler=sampler(start), pruner=pruner(start.num_chunks)
            )
        self._num_given = int(knows_recipe)
        if knows_recipe:
            self._study.enqueue_trial(to_values(start.space, default_recipe(start.space)))

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far."""
        return self._timer.total_s

    def ask(self) -> Assignment:
        """Return the study's next trial."""
        with self._timer:
            trial = self._study.ask()
            values = {entry["key"]: _suggest(trial, entry) for entry in declare(self._start.space)}
        self._trials[str(trial.number)] = trial
        return Assignment(
            trial=str(trial.number),
            until=self._rungs[0],
            params=to_params(self._start.space, values),
            is_given=trial.number < self._num_given,
        )

    def tell(self, trial: str, chunk: int, score: float, loss: float) -> int:  # noqa: ARG002  knows no loss
        """Report a score and ask the pruner."""
        with self._timer:
            found = self._trials[trial]
            found.report(score, chunk)
            if chunk == self._start.num_chunks:
                self._study.tell(found, score)
                return 0
            if found.should_prune():
                self._study.tell(found, state=optuna.trial.TrialState.PRUNED)
                return 0
        return next(rung for rung in self._rungs if rung > chunk)


def _suggest(trial: optuna.Trial, entry: Mapping[str, Any]) -> Any:
    if entry["kind"] == "choice":
        return trial.suggest_categorical(entry["key"], entry["choices"])
    suggest = trial.suggest_int if entry["kind"] == "int" else trial.suggest_float
    return suggest(entry["key"], entry["low"], entry["high"], log=entry["log"])


def _tpe(start: Start) -> optuna.samplers.BaseSampler:
    # Optuna's documentation tells users of parallel trials to set this.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=start.seed, constant_liar=start.num_lanes > 1)


def _gp(start: Start) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=start.seed)


def _uniform(start: Start) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=start.seed)


def _halving(factor: int) -> Callable[[int], optuna.pruners.BasePruner]:
    return lambda _: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)


def _hyperband(num_chunks: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=num_chunks)


class Peer:
    """A process in a peer's environment. It answers lines of JSON, and is kept for the next search.

    Args:
        command: Runs its adapter with its environment's interpreter.
    """

    def __init__(self, command: Sequence[str]) -> None:
        # One thread: a search may share the machine, and its CPU seconds are compared.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": "", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(  # noqa: S603  the environment that make replay made
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def request(self, **message: object) -> dict[str, Any]:
        """Return the answer to a message.

        Raises:
            RuntimeError: The peer raised an error, or ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"the peer failed:\n{answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class PeerSearch:
    """A search in a peer's process."""

    def __init__(self, start: Start, peer: Peer, options: Mapping[str, object]) -> None:
        self._space, self._peer, self.cpu_s = start.space, peer, 0.0
        self._request(
            do="start",
            space=declare(start.space),
            default=to_values(start.space, default_recipe(start.space)),
            num_chunks=start.num_chunks,
            num_lanes=start.num_lanes,
            seed=start.seed,
            options=dict(options),
        )

    def ask(self) -> Assignment | None:
        """Return the peer's next trial."""
        answer = self._request(do="ask")
        if answer["trial"] is None:
            return None
        params = to_params(self._space, answer["values"])
        return Assignment(
            trial=answer["trial"], until=answer["until"], params=params, is_given=params == default_recipe(self._space)
        )

    def tell(self, trial: str, chunk: int, score: float, loss: float) -> int:  # noqa: ARG002  peers know no loss
        """Report a score and return the peer's decision."""
        return int(self._request(do="tell", trial=trial, chunk=chunk, score=score)["until"])

    def _request(self, **message: object) -> dict[str, Any]:
        answer = self._peer.request(**message)
        self.cpu_s += answer["cpu_s"]
        return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A contender."""

    name: str
    text: str
    """Its name in tables."""
    make: Callable[[Start], Contender] | None = None
    """Starts it in this process; None if it runs in a peer's, or is our own."""
    peer: str = ""
    """Name of the peer's environment and adapter."""
    sampler: str = ""
    """``search.sampler`` of this project's own search; empty for other searches."""
    knows_recipes: bool = True
    """Whether this project's own search starts with all its recipes, or with the default one only."""
    overrides: tuple[str, ...] = ()
    """Hydra overrides of this project's own search."""
    options: Mapping[str, object] = field(default_factory=dict)
    is_slow: bool = False
    """Whether its proposals take so long that it is compared on the tables only, and with one lane on few seeds."""


def _optuna(name: str, text: str, **options: Any) -> Entry:
    return Entry(name=name, text=text, make=lambda start: OptunaSearch(start, **options))


PEERS: Mapping[str, str] = {"syne_tune": "Syne Tune", "smac": "SMAC3", "neps": "neural-pipeline-search"}
"""Peers with an environment of their own."""

_ETA_2, _ETA_3, _ETA_4 = (1, 2, 4, 8), (1, 3, 9), (1, 4)

CONTENDERS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="sweeper_default", text="sweeper, told the default recipe only", sampler="auto", knows_recipes=False
        ),
        Entry(
            name="sweeper_startup_8",
            text="sweeper, 8 startup trials",
            sampler="auto",
            overrides=("search.num_startup_trials=8",),
        ),
        Entry(name="sweeper_tpe", text="sweeper, search=tpe", sampler="tpe"),
        Entry(name="sweeper_random", text="sweeper, search=random", sampler="random"),
        Entry(name="random", text="random, full trials", make=RandomSearch),
        _optuna(
            "random_asha",
            "random, ASHA (eta 2)",
            sampler=_uniform,
            pruner=_halving(2),
            rungs=_ETA_2,
            knows_recipe=False,
        ),
        _optuna("optuna_tpe_sh", "Optuna TPE, SuccessiveHalving", sampler=_tpe, pruner=_halving(4), rungs=_ETA_4),
        _optuna("optuna_tpe_hb", "Optuna TPE, Hyperband", sampler=_tpe, pruner=_hyperband, rungs=_ETA_3),
        _optuna("optuna_gp_sh", "Optuna GP, SuccessiveHalving", sampler=_gp, pruner=_halving(4), rungs=_ETA_4),
        _optuna("optuna_gp_hb", "Optuna GP, Hyperband", sampler=_gp, pruner=_hyperband, rungs=_ETA_3),
        Entry(name="syne_asha", text="Syne Tune ASHA", peer="syne_tune", options={"searcher": "random", "eta": 3}),
        Entry(
            name="syne_asha_2",
            text="Syne Tune ASHA (eta 2)",
            peer="syne_tune",
            options={"searcher": "random", "eta": 2},
        ),
        Entry(
            name="syne_mobster",
            text="Syne Tune MOBSTER",
            peer="syne_tune",
            options={"searcher": "bayesopt", "eta": 3},
            is_slow=True,
        ),
        Entry(name="smac_hb", text="SMAC3 multi-fidelity", peer="smac", is_slow=True),
        Entry(name="priorband", text="PriorBand", peer="neps"),
    )
}

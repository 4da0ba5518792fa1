"""A toy study with a known objective: the best learning rate is 2e-3, and ranks of 32 or more are infeasible."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import yaml

from sweeper.config.settings import Recipe, SearchSettings
from sweeper.config.space import EPOCHS, Dimension, Scale, SearchSpace
from sweeper.config.trial_length import trial_rungs
from sweeper.figures.pareto import rung_costs
from sweeper.search.proposals import Proposal
from sweeper.search.study import Search
from sweeper.types import Decision, TrialRecord, TrialState
from tests.builders import make_measurement, make_spec, make_trial

CONF = Path(__file__).parents[2] / "conf" / "search"
RUNGS = (3, 6, 12)
METRIC = "validation/accuracy"
START = datetime(2026, 1, 1, tzinfo=UTC)
SPACE = SearchSpace(
    (
        Dimension(key="lora.r", scale=Scale.LOG2, low=1, high=64, text="tag(log2,interval(1,64))"),
        Dimension(key="lora.alpha_ratio", scale=Scale.LOG, low=0.25, high=8, text="tag(log,interval(0.25,8))"),
        Dimension(key="train.learning_rate", scale=Scale.LOG, low=1e-4, high=1e-2, text="tag(log,interval(1e-4,1e-2))"),
    )
)
FIXED = {"lora.dropout": 0.0}
LENGTHS = SearchSpace(
    (*SPACE.dimensions, Dimension(key=EPOCHS, scale=Scale.ORDERED, choices=(1, 2, 4), text="choice(1,2,4)"))
)
"""The space with trials of 3, 6 and 12 chunks."""


def preset(name: str, **changes: object) -> SearchSettings:
    """Return the settings of a file in conf/search, with its first three recipes and at most 4 startup trials."""
    recipes = yaml.safe_load((CONF.parent / "recipes" / "encoder.yaml").read_text())["recipes"]
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    content.pop("defaults", None)
    content["recipes"] = [Recipe(**recipe) for recipe in recipes[:3]]
    content["num_startup_trials"] = min(content.get("num_startup_trials", 0), 4)
    return SearchSettings(**{**content, **changes})


def open_toy(folder: Path, settings: SearchSettings, **changes: object) -> Search:
    options = {"direction": "maximize", "seed": 1, "rungs": RUNGS, "fixed": FIXED}
    options["storage_url"] = f"sqlite:///{folder}/optuna.db"
    return Search.open("sweep/toy", changes.pop("space", SPACE), settings, **{**options, **changes})


def stored_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that the database of a toy study has."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    try:
        return optuna.load_study(study_name="sweep/toy", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def value_at(params, chunk: int) -> float:
    return (1 - abs(math.log(params["train.learning_rate"] / 2e-3)) / 5) * (0.5 + chunk / 24)


def value_of(record: TrialRecord) -> float | None:
    return record.last_rung.metrics[METRIC] if record.last_rung else None


@dataclass
class Driver:
    """A controller without training: a few lanes, one rung of one lane at a time, records as in the store."""

    lanes: int = 3
    records: dict[int, TrialRecord] = field(default_factory=dict)

    def run(self, search: Search, num_trials: int, *, until: int | None = None) -> None:
        """Run ``num_trials`` trials; or return, as if killed, as soon as ``until`` of them were proposed."""
        while until is None or len(self.records) < until:
            running = [number for number, record in self.records.items() if not record.state.is_finished]
            if len(running) < self.lanes and len(self.records) < num_trials and not search.is_exhausted:
                self.admit(search.ask())
            elif running:
                self.advance(search, running[0])
            else:
                return

    def admit(self, proposal: Proposal) -> None:
        spec = make_spec(proposal.number, params=proposal.params, study="toy", origin=proposal.origin)
        trial = make_trial(spec=spec, state=TrialState.RUNNING, chunks=0, notes=proposal.notes)
        self.records[proposal.number] = trial

    def advance(self, search: Search, number: int) -> None:
        record = self.records[number]
        if record.spec.params["lora.r"] >= 32:
            self.finish(search, number, TrialState.INFEASIBLE)
            return
        rungs = trial_rungs(RUNGS, 3 * record.spec.train.epochs or RUNGS[-1])
        chunk = rungs[len(record.measurements)]
        value = value_at(record.spec.params, chunk)
        elapsed_s = chunk * (1 + record.spec.params["lora.r"] / 64)
        measurement = make_measurement(chunk, value, elapsed_s=elapsed_s)
        record = self.records[number] = replace(record, measurements=(*record.measurements, measurement))
        if search.report(number, chunk=chunk, value=value, costs=rung_costs(record)) is Decision.STOP:
            self.finish(search, number, TrialState.PRUNED)
        elif chunk == rungs[-1]:
            self.finish(search, number, TrialState.COMPLETE)

    def finish(self, search: Search, number: int, state: TrialState) -> None:
        finished_at = START + timedelta(seconds=sum(record.state.is_finished for record in self.records.values()))
        record = replace(self.records[number], state=state, finished_at=finished_at.isoformat())
        self.records[number] = record
        search.tell(number, state=state, value=value_of(record), finished_at=finished_at)

    @property
    def proposals(self) -> list[tuple[int, str, dict[str, object]]]:
        return [(r.spec.number, r.spec.origin, dict(r.spec.params)) for r in self.records.values()]

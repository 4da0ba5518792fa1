"""A sweep on disk as an object for programs and notebooks: `sweeper.load` returns it, and so does `sweeper.run`.

It only reads, so it may be used while the sweep runs. docs/api.md explains every column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sweeper.analysis.best import best_configurations
from sweeper.analysis.frames import measurement_frame, outcome_frame, trial_frame, verdict_frame
from sweeper.errors import SweeperError, did_you_mean
from sweeper.figures.confirmation import recommended_trial
from sweeper.figures.rungs import better_rung
from sweeper.store.damage import is_adapter_intact
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState

__all__ = ["Sweep", "load_sweep"]

_ADAPTERS = ("recommended", "best_rung", "final")


class Sweep(Mapping[str, Any]):
    """A sweep: a mapping with the content of best.json, and its tables as pandas frames.

    Everything is read when it is first used, and then kept. Load the sweep again to see what happened since.

    Args:
        store: The sweep.
    """

    def __init__(self, store: TrialStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    def __getitem__(self, key: str) -> Any:
        return self._best[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._best)

    def __len__(self) -> int:
        return len(self._best)

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        return self._store.root

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial of every study: hyperparameters, latest metrics, cost."""
        return trial_frame(self._store)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """One row per trial and chunk: the metrics after it."""
        return measurement_frame(self._store)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per study and candidate: its score on fresh seeds, and its comparison with the default recipe."""
        return verdict_frame(self)

    def outcomes(self, *, chunk: int | None = None, split: str = "validation") -> pd.DataFrame:
        """Return one row per trial and scored row: its loss, and what was predicted.

        Args:
            chunk: The rung; the latest one of each trial if None.
            split: ``validation``, or ``test`` for the candidates that were scored on the test rows.

        Raises:
            ValueError: The split is another one, or a rung is asked for on the test rows.
        """
        return outcome_frame(self._store, chunk=chunk, split=split)

    def study(self, name: str = "") -> Mapping[str, Any]:
        """Return what best.json has of a study.

        Args:
            name: Its name, or that of its dataset; may be empty if the sweep has one study.

        Raises:
            SweeperError: There is no such study, or several if the name is empty.
        """
        studies: list[Mapping[str, Any]] = self["studies"]
        found = [study for study in studies if not name or name in (study["name"], study["dataset"])]
        if len(found) == 1:
            return found[0]
        known = ", ".join(study["name"] for study in studies) or "none yet"
        names = [text for study in studies for text in (study["name"], study["dataset"])]
        problem = f"has no study '{name}'" if name else f"has {len(studies)} studies, so one must be named"
        raise SweeperError(
            _sentences(f"sweep {self.path.name} {problem}.", did_you_mean(name, names), f"Its studies: {known}.")
        )

    def adapter(self, study: str = "", *, which: str = "recommended") -> Path:
        """Return the folder of an adapter of a study, in PEFT's format.

        Args:
            study: Its name, or that of its dataset; may be empty if the sweep has one study.
            which: ``recommended``, of the last epoch of the trial that best.json calls ``recommended_adapter``;
                ``best_rung``, of the epoch of this trial that scored best, which may be the last; or ``final``, of the
                latest final training (`sweeper train`).

        Raises:
            SweeperError: There is no such study, or its adapter is not on disk.
            ValueError: ``which`` is something else.
        """
        if which not in _ADAPTERS:
            raise ValueError(f"which={which!r}: must be one of {', '.join(_ADAPTERS)}")
        content = self.study(study)
        if which == "final":
            return self._final_adapter(content)
        number = recommended_trial(content["confirmation"], content["best"])
        folder = None if number is None else self._adapter_of(content["name"], number, is_best=which == "best_rung")
        if folder is None or not is_adapter_intact(folder):
            problem, remedy = "no trial is complete yet", "Run the sweep to its end."
            if number is not None:
                problem = f"the adapter of trial {number} is missing or damaged"
                remedy = f"Run sweeper reconcile {self._store.root.name}; if there is no copy, add --retrain."
            raise SweeperError(f"study {content['name']} has no recommended adapter: {problem}. {remedy}")
        return folder

    def _adapter_of(self, study: str, number: int, *, is_best: bool) -> Path:
        """Return the folder of a trial's adapter, of its last rung or of its best one; from the store, as in `adapter`.

        The paths in best.json are those of the sweep's folder when it was written, which may have been moved since.
        """
        rung = better_rung(self._store.read_study(study), self._store.read_trial(study, number)) if is_best else None
        if rung is None:
            return self._store.adapter_dir(study, number)
        return self._store.rung_adapter_dir(study, number, rung.chunk)

    def _final_adapter(self, study: Mapping[str, Any]) -> Path:
        complete = [each for each in study.get("final", []) if each["state"] == TrialState.COMPLETE]
        latest = max(complete, key=lambda each: each["finished_at"], default=None)
        finals = self._store.finals
        folder = finals.adapter_dir(latest["study"], latest["trial"]) if latest else None
        if folder is None or not is_adapter_intact(folder):
            problem = "its adapter is missing or damaged" if latest else "there is none that is complete"
            command = f"sweeper train {self._store.root.name}/{study['name']}"
            raise SweeperError(f"study {study['name']} has no adapter of a final training: {problem}. Run: {command}")
        return folder

    @cached_property
    def _best(self) -> Mapping[str, Any]:
        """Content of best.json, which each session writes at its end; computed if that cannot be read."""
        try:
            best: Mapping[str, Any] = json.loads(self._store.paths.best.read_text())
        except (FileNotFoundError, ValueError):  # there is none yet, or it is torn
            return best_configurations(self._store)
        return best


def load_sweep(path: str | Path) -> Sweep:
    """Return the sweep in a folder.

    Args:
        path: Its folder, e.g. ``outputs/<sweep>``.

    Raises:
        SweeperError: The folder contains no sweep.
    """
    folder = Path(path).expanduser()
    store = TrialStore(folder)
    if store.exists:
        return Sweep(store)
    outputs = OutputsPaths(folder if OutputsPaths(folder).sweeps() else folder.parent)
    names = [sweep.root.name for sweep in outputs.sweeps()]
    known = f"Sweeps in {outputs.root}: {', '.join(names)}." if names else f"{outputs.root} contains no sweep."
    problem = "has no sweep.json" if folder.is_dir() else "does not exist"
    remedy = "Give the folder of a sweep, e.g. outputs/<sweep>."
    raise SweeperError(_sentences(f"{folder} {problem}.", did_you_mean(folder.name, names), known, remedy))


def _sentences(*texts: str) -> str:
    """Join the sentences that are not empty."""
    return " ".join(filter(None, texts))

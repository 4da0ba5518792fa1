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
from sweeper.figures.confirmation import recommended_seed
from sweeper.store.damage import intact_adapter
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore

__all__ = ["Sweep", "load_sweep"]


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

    def adapter(self, study: str = "") -> Path:
        """Return the folder of the recommended adapter of a study, in PEFT's format.

        Args:
            study: Its name, or that of its dataset; may be empty if the sweep has one study.

        Raises:
            SweeperError: There is no such study, or its adapter is not on disk.
        """
        content = self.study(study)
        number = _recommended_trial(content)
        folder = None if number is None else intact_adapter(self._store, content["name"], number)
        if folder is None:
            problem = "no trial is complete yet"
            remedy = "Run the sweep to its end."
            if number is not None:
                problem = f"the adapter of trial {number} is missing or damaged"
                remedy = f"Run sweeper reconcile {self._store.root.name}; if there is no copy, add --retrain."
            raise SweeperError(f"study {content['name']} has no recommended adapter: {problem}. {remedy}")
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


def _recommended_trial(study: Mapping[str, Any]) -> int | None:
    """Return the trial whose adapter is recommended; without a confirmation, the best trial of the search."""
    confirmation = study["confirmation"]
    seed = recommended_seed(confirmation) if confirmation else None
    if seed is not None:
        return int(seed["trial"])
    return int(study["best"]["trial"]) if study["best"] else None


def _sentences(*texts: str) -> str:
    """Join the sentences that are not empty."""
    return " ".join(filter(None, texts))

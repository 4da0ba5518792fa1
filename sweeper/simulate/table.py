"""Recorded trials that a search can be replayed on: a Parquet file of `benchmarks/tables`, or a study of a sweep.

A table has the curve of every trial by chunk. Trials of a sweep may have been pruned, and are only scored at rungs;
what is missing is NaN here, and `response` fills it in.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sweeper.config.dimensions import parse_space
from sweeper.config.keys import find_key
from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.trial_length import FullLength, longest_epochs, trial_chunks
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError
from sweeper.figures.rungs import has_all_rows
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["MIN_SETTINGS", "Table", "TableTrial", "own_chunks", "places"]

Array = NDArray[np.float64]

MIN_SETTINGS = 12
"""Fewest configurations with a score at the full length: with fewer, a surface would be a guess."""
_METADATA = b"sweeper"
_MEASURED = ("score", "loss", "half_score", "half_loss")
_ABOUT = ("dataset", "metric", "direction", "num_chunks", "rows", "space", "fixed")
_MIN_TIES = 3
"""Least number of chunks over which a score must have stood still to be taken for the majority share."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TableTrial:
    """A recorded trial; its arrays have an entry for each chunk of the longest trial, NaN where nothing was measured.

    What a trial of fewer epochs measured is where the longest is after the same share of its training. There,
    ``train_s`` are the seconds of one of its own chunks.
    """

    params: Mapping[str, ParamValue]
    """Values of the keys of the space."""
    seed: int
    score: Array
    loss: Array
    half_score: Array
    half_loss: Array
    train_s: Array
    """Device seconds of each chunk's training."""
    score_s: float
    """Device seconds to score all validation rows once; NaN if unknown."""
    has_failed: bool = False
    """Whether its configuration cannot be trained to the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Recorded trials of one study."""

    name: str
    space: SearchSpace
    fixed: Mapping[str, ParamValue]
    """Values of the keys outside the space."""
    num_chunks: int
    """Of the longest trial."""
    maximize: bool
    is_share: bool
    """Whether a score is a share of the validation rows."""
    num_rows: int
    """Validation rows."""
    majority: float
    """Score of always predicting the commonest label; NaN if unknown."""
    half_majority: float
    """The same on the first half of the rows."""
    trials: tuple[TableTrial, ...]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a Parquet file of `benchmarks/tables`.

        Raises:
            ConfigError: The file is missing, is no such table, or has too few trials.
        """
        try:
            content = pq.read_table(path)
        except FileNotFoundError:
            raise _error(path, "there is no such file", "Give the path of a table, or the name of a sweep.") from None
        except (OSError, pa.ArrowException) as error:
            raise _error(path, f"the file cannot be read ({error})", _REMEDY) from error
        about = _about(content, path)
        columns = {name: content.column(name).to_pylist() for name in content.column_names}
        space = parse_space(about["space"])
        needed = ("setting", "seed", "chunk", *space.keys, *_MEASURED, "train_s", "score_s")
        missing = [name for name in needed if name not in columns]
        if missing:
            raise _error(path, f"the table has no column {missing[0]}", _REMEDY)
        num_chunks, metric = int(about["num_chunks"]), str(about["metric"])
        trials = _parquet_trials(columns, space, num_chunks)
        rows = about["rows"]
        majority, half_majority = about.get("majority") or _repeated_scores(trials)
        return cls(
            name=path.stem,
            space=space,
            fixed=about["fixed"],
            num_chunks=num_chunks,
            maximize=about["direction"] == "maximize",
            is_share=metric.rpartition("/")[2] == "accuracy",
            num_rows=int(rows["validation"]),
            majority=majority,
            half_majority=half_majority,
            trials=trials,
        ).checked(path)

    @classmethod
    def of_study(cls, study: StudyRecord, trials: Iterable[TrialRecord]) -> Table:
        """Make a table of the trials of a sweep's study.

        Raises:
            ConfigError: It has too few complete trials.
        """
        space = parse_space(study.space)
        found = [trial for trial in trials if trial.measurements or trial.state is TrialState.INFEASIBLE]
        usual = Counter(_fixed(trial, space) for trial in found).most_common(1)
        fixed = usual[0][0] if usual else ()
        # Trials that differ in a key that is not searched, e.g. some recipes, have no place in the space.
        recorded = tuple(_study_trial(study, trial, space) for trial in found if _fixed(trial, space) == fixed)
        majority, half_majority = _repeated_scores(recorded)
        if study.majority:
            # The first rung scores half of the rows if any does.
            half_majority, majority = study.majority[0], study.majority[-1]
        return cls(
            name=study.name,
            space=space,
            fixed=dict(fixed),
            num_chunks=study.num_chunks,
            maximize=study.direction == "maximize",
            is_share=study.metric.rpartition("/")[2] == "accuracy",
            num_rows=study.num_rows.get("validation", 0),
            majority=majority,
            half_majority=half_majority,
            trials=recorded,
        ).checked(study.name)

    def checked(self, source: object) -> Table:
        """Return the table itself.

        Raises:
            ConfigError: Too few configurations have a score at the full length.
        """
        complete = {tuple(trial.params.items()) for trial in self.trials if math.isfinite(trial.score[-1])}
        if len(complete) < MIN_SETTINGS:
            rule = f"only {len(complete)} configurations were trained to the end; at least {MIN_SETTINGS} are needed"
            raise _error(source, rule, "Choose a table or a sweep with more complete trials.")
        return self


_REMEDY = "Give a table made by `make tables`, or the name of a sweep."


def _error(source: object, rule: str, remedy: str) -> ConfigError:
    return ConfigError("table", source, rule, remedy)


def _about(content: pa.Table, path: Path) -> dict[str, Any]:
    try:
        about = json.loads((content.schema.metadata or {})[_METADATA])
        missing = [name for name in _ABOUT if name not in about]
    except (KeyError, ValueError, TypeError) as error:
        raise _error(path, "the file does not say what it is a table of", _REMEDY) from error
    if missing:
        raise _error(path, f"the description in the file has no entry {missing[0]}", _REMEDY)
    return dict(about)


def _parquet_trials(columns: Mapping[str, list[Any]], space: SearchSpace, num_chunks: int) -> tuple[TableTrial, ...]:
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(columns["seed"], columns["setting"], strict=True)):
        rows_of.setdefault(key, []).append(row)
    failures = columns.get("failure") or [""] * len(columns["seed"])
    found = []
    for (seed, _), rows in sorted(rows_of.items()):
        params = {key: _value(space, key, columns[key][rows[0]]) for key in space.keys}
        own = own_chunks(space, num_chunks, params)
        measured = {name: np.full(own, math.nan) for name in (*_MEASURED, "train_s", "score_s")}
        for row in rows:
            for name, array in measured.items():
                value, chunk = columns[name][row], columns["chunk"][row]
                if value is not None and not failures[row] and 1 <= chunk <= own:
                    array[chunk - 1] = value
        # The file has the seconds since the start of the trial, and it was scored after every chunk.
        total_s, spent_s = measured.pop("score_s"), measured.pop("train_s")
        found.append(
            TableTrial(
                params=params,
                seed=int(seed),
                **{name: _placed(array, num_chunks) for name, array in measured.items()},
                train_s=_spread(np.diff(spent_s, prepend=0.0), num_chunks),
                score_s=float(np.nanmean(np.diff(total_s, prepend=0.0))) if np.isfinite(total_s).any() else math.nan,
                has_failed=any(failures[row] for row in rows),
            )
        )
    return tuple(found)


def _value(space: SearchSpace, key: str, number: float) -> ParamValue:
    """Return the value that a number in the file stands for: numbers are kept as they are, whatever the key's type."""
    dimension = next(dimension for dimension in space.dimensions if dimension.key == key)
    if dimension.choices:
        return next((choice for choice in dimension.choices if choice == number), number)
    return find_key(key).cast(number)


def _fixed(trial: TrialRecord, space: SearchSpace) -> tuple[tuple[str, ParamValue], ...]:
    return tuple((key, value) for key, value in trial.spec.by_key().items() if key not in space.keys)


def _study_trial(study: StudyRecord, trial: TrialRecord, space: SearchSpace) -> TableTrial:
    own = trial_chunks(study, trial.spec.train.epochs)
    arrays = {name: np.full(own, math.nan) for name in (*_MEASURED, "spent_s")}
    half_rows = study.num_rows.get("validation", 0) // 2
    for measurement in trial.measurements:
        at = measurement.chunk - 1
        score, loss = (measurement.metrics.get(name, math.nan) for name in (study.metric, "validation/loss"))
        arrays["spent_s"][at] = measurement.elapsed_s
        # A rung scored half of the rows or all of them; the other one is the best estimate that there is.
        for name, value in zip(_MEASURED, (score, loss, score, loss), strict=True):
            arrays[name][at] = value
    chunk_s = np.diff(arrays.pop("spent_s"), prepend=0.0)
    is_rung = np.isfinite(arrays["score"])
    whole = [m.chunk - 1 for m in trial.measurements if m.is_rung and has_all_rows(study, m)]
    plain_s = float(np.nanmedian(chunk_s[~is_rung])) if np.isfinite(chunk_s[~is_rung]).any() else math.nan
    score_s = float(np.nanmedian(chunk_s[whole])) - plain_s if whole else math.nan
    score_s = max(score_s, 0.0) if math.isfinite(score_s) else math.nan
    share = np.array([1.0 if at in whole or not half_rows else 0.5 for at in range(own)])
    train_s = np.maximum(chunk_s - np.where(is_rung, share * np.nan_to_num(score_s), 0.0), 0.0)
    return TableTrial(
        params={key: trial.spec.by_key()[key] for key in space.keys},
        seed=trial.spec.seed,
        **{name: _placed(array, study.num_chunks) for name, array in arrays.items()},
        train_s=_spread(train_s, study.num_chunks),
        score_s=score_s,
        has_failed=trial.state is TrialState.INFEASIBLE,
    )


def own_chunks(space: SearchSpace, num_chunks: int, params: Mapping[str, ParamValue]) -> int:
    """Return the chunks of a configuration's trial, where the longest has ``num_chunks``."""
    return trial_chunks(FullLength(num_chunks, longest_epochs(space) or 1), int(params.get(EPOCHS, 0)))


def places(own: int, num_chunks: int) -> NDArray[np.int64]:
    """Return where the chunks of a trial are among those of the longest: after the same share of the training."""
    return np.asarray(-(-np.arange(1, own + 1) * num_chunks // own) - 1)


def _placed(values: Array, num_chunks: int) -> Array:
    """Return what a trial measured after its chunks, at their `places`."""
    found = np.full(num_chunks, math.nan)
    found[places(len(values), num_chunks)] = values
    return found


def _spread(values: Array, num_chunks: int) -> Array:
    """Return what holds for a chunk of a trial, over all that the longest trains in the same share."""
    return np.asarray(values[np.searchsorted(places(len(values), num_chunks), np.arange(num_chunks))])


def _repeated_scores(trials: Iterable[TableTrial]) -> tuple[float, float]:
    """Return the scores, on all rows and on half, at which most trials stand still over chunks; NaN without such.

    A model that has collapsed predicts one label for every row, so its score is the same on all rows and on half of
    them. A model that learns hardly ever keeps both.
    """
    still: Counter[tuple[float, float]] = Counter()
    for trial in trials:
        both = list(zip(trial.score.tolist(), trial.half_score.tolist(), strict=True))
        still.update(now for before, now in pairwise(both) if now == before)
    both_scores, count = still.most_common(1)[0] if still else ((math.nan, math.nan), 0)
    return both_scores if count >= _MIN_TIES else (math.nan, math.nan)

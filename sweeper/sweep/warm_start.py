"""Chooses a new study's first proposals from sweeper's own portfolios and from the user's earlier sweeps.

Called once, when a study is planned; the choice is recorded in its `StudyRecord`, so a resumed study makes the same
proposals whatever has changed in the outputs folder since.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.config.compose import SweepConfig
from sweeper.config.keys import searchable_keys
from sweeper.config.settings import SearchSettings
from sweeper.config.space import EPOCHS
from sweeper.config.trial_length import trial_chunks
from sweeper.config.values import ParamValue
from sweeper.errors import StoreError, first_line
from sweeper.search.portfolio import (
    Ranking,
    choose_portfolio,
    fit_points,
    read_portfolio,
    shipped_portfolio,
    to_quantiles,
)
from sweeper.search.proposals import fit_recipes
from sweeper.store.damage import readable_trials
from sweeper.store.paths import OutputsPaths, SweepPaths
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import fixed_values
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["check_warm_start", "earlier_rankings", "num_portfolio_points", "with_portfolios"]

_SAMPLERS = ("tpe", "gp", "auto")
"""Samplers with a model to warm up. The others study the space, and CMA-ES draws whole generations."""
_MAX_STUDIES = 50
_MAX_SWEEPS = 200
"""Latest sweeps that are searched for studies of the same model and task, and most such studies that are read."""
_MAX_TRIALS = 2000
_MAX_TRIALS_OF_STUDY = 200
"""Most trials that are read, in all and of one study."""
_MIN_TRIALS = 8
"""Least number of trials of a study whose order says something."""
_RANKED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE)

logger = logging.getLogger(__name__)


def check_warm_start(search: SearchSettings) -> None:
    """Check the portfolio file that the settings name, if they name one.

    Raises:
        ConfigError: It cannot be read, or is not a portfolio.
    """
    if search.warm_start not in ("auto", "none"):
        read_portfolio(Path(search.warm_start).expanduser())


def with_portfolios(
    records: Sequence[StudyRecord], config: SweepConfig, *, model_dir: Path, sweep: Path
) -> list[StudyRecord]:
    """Return the records of new studies with their first proposals.

    Args:
        records: The planned studies.
        config: The configuration.
        model_dir: Folder of the base model.
        sweep: Folder of the sweep; earlier sweeps are beside it.

    Raises:
        ConfigError: The portfolio file that the settings name cannot be used.
    """
    search = config.settings.search
    limit = num_portfolio_points(search)
    if not limit or not records:
        return list(records)
    fixed = [fixed_values(config.settings, record) for record in records]
    known = [[params for _, params in fit_recipes(search.recipes, config.space, values)] for values in fixed]
    if search.warm_start == "auto":
        architecture = json.loads((model_dir / "config.json").read_text())
        earlier = earlier_rankings(sweep, records)
        chosen = [
            choose_portfolio(
                _weighted(record, earlier, architecture), config.space, fixed=values, known=tried, limit=limit
            )
            for record, values, tried in zip(records, fixed, known, strict=True)
        ]
    else:
        portfolio = read_portfolio(Path(search.warm_start).expanduser())
        chosen = [
            fit_points(portfolio, config.space, fixed=values, known=tried, limit=limit)
            for values, tried in zip(fixed, known, strict=True)
        ]
    for record, points in zip(records, chosen, strict=True):
        sources = ", ".join(sorted({point.source for point in points})) or "nowhere"
        logger.info("%s: %d startup trials come from %s", record.name, len(points), sources)
    return [dataclasses.replace(record, portfolio=points) for record, points in zip(records, chosen, strict=True)]


def earlier_rankings(sweep: Path, records: Sequence[StudyRecord]) -> list[tuple[StudyRecord, Ranking]]:
    """Return what earlier studies have found of the model, the task and the objective of a new one.

    Reading stops after `_MAX_STUDIES` such studies or `_MAX_TRIALS` trials: 1,200 trials take two to three seconds.

    Args:
        sweep: Folder of the new sweep; earlier sweeps are beside it, finished or not.
        records: The new studies.

    Returns:
        The record and the ranking of each study, those of the latest sweep first. What is damaged is left out, with a
        line in the log.
    """
    found: list[tuple[StudyRecord, Ranking]] = []
    num_left = _MAX_TRIALS
    for paths in _latest_sweeps(sweep):
        store = TrialStore(paths.root)
        for folder in paths.studies():
            try:
                study = store.read_study(folder.name)
                if not any(_is_comparable(study, record) for record in records):
                    continue
                trials = readable_trials(store, study.name, limit=min(num_left, _MAX_TRIALS_OF_STUDY))
            except (StoreError, OSError) as error:
                logger.warning("%s is not used for a warm start: %s", folder, first_line(error))
                continue
            num_left -= len(trials)
            # Where only one of the two searches epochs, their numbers say nothing about the other's configurations.
            left_out = set() if all(EPOCHS in each.space for each in (study, *records)) else {EPOCHS}
            if ranking := _ranking(f"{paths.root.name}/{study.dataset}", study, trials, left_out=left_out):
                found.append((study, ranking))
            if len(found) == _MAX_STUDIES or num_left <= 0:
                return found
    return found


def num_portfolio_points(search: SearchSettings) -> int:
    """Return how many startup trials come from a portfolio: all but a quarter, which covers the space evenly."""
    if search.warm_start == "none" or search.sampler not in _SAMPLERS:
        return 0
    return search.num_startup_trials - search.num_startup_trials // 4


def _latest_sweeps(sweep: Path) -> list[SweepPaths]:
    others = [paths for paths in OutputsPaths(sweep.parent).sweeps() if paths.root != sweep.absolute()]
    return sorted(others, key=_written_at, reverse=True)[:_MAX_SWEEPS]


def _written_at(paths: SweepPaths) -> tuple[float, str]:
    files = (paths.sweep, paths.sweep_backup)
    return max(path.stat().st_mtime for path in files if path.exists()), paths.root.name


def _is_comparable(study: StudyRecord, new: StudyRecord) -> bool:
    if study.model_ref is None or new.model_ref is None or study.model_ref.digest != new.model_ref.digest:
        return False
    return (study.task, study.metric, study.direction) == (new.task, new.metric, new.direction)


def _ranking(
    source: str, study: StudyRecord, trials: Sequence[TrialRecord], *, left_out: Collection[str]
) -> Ranking | None:
    """Return the order of a study's trials, without some keys; None if too few of them have ended."""
    ended = [trial for trial in trials if trial.spec.phase is Phase.SEARCH and trial.state in _RANKED]
    if len(ended) < _MIN_TRIALS:
        return None
    return Ranking(
        source=source,
        configurations=tuple(_searchable(trial, left_out) for trial in ended),
        quantiles=to_quantiles([_rank(study, trial) for trial in ended]),
    )


def _searchable(trial: TrialRecord, left_out: Collection[str]) -> dict[str, ParamValue]:
    values = trial.spec.by_key()
    return {key: values[key] for key in searchable_keys() if key not in left_out}


def _rank(study: StudyRecord, trial: TrialRecord) -> tuple[float, float]:
    """Return what to compare trials by: how far a trial got, then its score there; a failed one is below all others."""
    value = study.value(trial)
    if trial.state is TrialState.INFEASIBLE or value is None or not math.isfinite(value):
        return -1.0, 0.0
    share = trial.last_rung.chunk / trial_chunks(study, trial.spec.train.epochs) if trial.last_rung else 0.0
    return share, value if study.direction == "maximize" else -value


def _weighted(
    record: StudyRecord, earlier: Sequence[tuple[StudyRecord, Ranking]], architecture: Mapping[str, Any]
) -> list[Ranking]:
    """Return all rankings that are useful for a new study, with their weights.

    Each dataset counts once, like a table of a shipped portfolio, however many studies of it there are. Studies of the
    very rows of the new one count as much as all others together.
    """
    shipped = shipped_portfolio(architecture, record.task)
    tables = shipped.rankings if shipped else ()
    found = [(study.fingerprint, ranking) for study, ranking in earlier if _is_comparable(study, record)]
    studies = Counter(fingerprint for fingerprint, _ in found)
    others = len(studies.keys() - {record.fingerprint}) + len(tables)
    totals = dict.fromkeys(studies, 1.0) | {record.fingerprint: max(1.0, float(others))}
    own = [dataclasses.replace(r, weight=totals[fingerprint] / studies[fingerprint]) for fingerprint, r in found]
    return [*own, *tables]

"""The effects of settings and the folklore in best.json, from the records of a sweep.

`sweeper.statistics` computes them; this module chooses the trials, the default and the best, and names rungs by their
chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.statistics.effects import study_effects
from sweeper.statistics.folklore import Claim, claim_json, combine, study_claims
from sweeper.statistics.landscape import Landscape
from sweeper.statistics.surrogate import MIN_TRIALS, Surrogate, fit_study
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["StudyAnalysis", "analyse_study", "folklore_over_studies"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAnalysis:
    """What the trials of a study tell about its settings."""

    effects: dict[str, Any] | None
    """``effects`` in best.json; None with too few trials."""
    claims: Sequence[Claim]
    surrogate: Surrogate

    @property
    def folklore(self) -> list[dict[str, Any]]:
        """``folklore`` of the study in best.json."""
        return [claim_json(claim) for claim in self.claims]


def analyse_study(
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    space: SearchSpace,
    *,
    default: TrialRecord | None = None,
    best: TrialRecord | None = None,
) -> StudyAnalysis:
    """Return the effects and claims of a study.

    Args:
        study: The study.
        trials: All of its trials, of any phase and state.
        space: Its search space.
        default: The trial of the default recipe; without it, the effects have no path.
        best: The trial with the best configuration; without it, the effects have no path.
    """
    surrogate = fit_study(study, trials, space)
    landscape = Landscape(surrogate) if surrogate.quality.is_sufficient else None
    fixed = trials[0].spec.by_key() if trials else {}
    effects = None
    if surrogate.quality.num_trials >= MIN_TRIALS:
        effects = study_effects(
            surrogate,
            fixed={key: value for key, value in fixed.items() if key not in space.keys},
            default=_searched(default, space),
            best=_searched(best, space),
            landscape=landscape,
        )
        effects["rung_correlation"] = [_at_chunk(entry, study) for entry in effects["rung_correlation"]]
    claims = study_claims(surrogate, num_train_rows=study.num_rows.get("train", 0), landscape=landscape)
    return StudyAnalysis(effects=effects, claims=claims, surrogate=surrogate)


def folklore_over_studies(analyses: Sequence[StudyAnalysis]) -> list[dict[str, Any]]:
    """Return ``folklore`` over all studies in best.json."""
    return [claim_json(claim) for claim in combine([analysis.claims for analysis in analyses])]


def _searched(trial: TrialRecord | None, space: SearchSpace) -> Mapping[str, ParamValue] | None:
    return None if trial is None else {key: trial.spec.by_key()[key] for key in space.keys}


def _at_chunk(entry: Mapping[str, Any], study: StudyRecord) -> dict[str, Any]:
    """Return the correlation of a rung with its chunk instead of its share of the training.

    The rung of a shorter trial is named by where the longest is after that share, which may be between two chunks.
    """
    rest = {key: value for key, value in entry.items() if key != "share"}
    chunk = entry["share"] * study.num_chunks
    return {"chunk": round(chunk) if math.isclose(chunk, round(chunk)) else chunk, **rest}

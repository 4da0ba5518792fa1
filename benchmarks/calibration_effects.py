"""How often are the statistics of effects and folklore wrong on searches whose truth is known?

    python benchmarks/calibration_effects.py [--studies 40] [--trials 24 100]

Simulates searches (`benchmarks.synthetic_sweeps`), judges every claim about each and about groups of eight of them, and
counts verdicts: right, undecided, and wrong (supported although false, refuted although true, or decided although there
is nothing to decide). Also counts how often the bands of the profile over the learning rate contain the truth. Writes
``calibration_effects.jsonl`` and ``.md`` to the results. Takes minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path is set
from benchmarks.synthetic_sweeps import (  # noqa: E402
    NUM_ROWS,
    SPACE,
    Surface,
    additive_surface,
    null_surface,
    ridge_surface,
    simulate,
)
from sweeper.statistics.folklore import MARGIN, combine, study_claims  # noqa: E402
from sweeper.statistics.landscape import Landscape, interval_of  # noqa: E402
from sweeper.statistics.surrogate import Surrogate, fit_surrogate  # noqa: E402

SURFACES: dict[str, tuple[Surface, float | None]] = {
    "null": (null_surface, None),
    "additive": (additive_surface, None),
    "ridge 0": (ridge_surface(0.0), 0.0),
    "ridge -1/2": (ridge_surface(-0.5), -0.5),
    "ridge -1": (ridge_surface(-1.0), -1.0),
}
"""Surfaces by name, and the exponent of their ridge; None if they have none."""
GROUP = 8
_CLAIMED = {"alpha = c r": 0.0, "alpha grows with sqrt(r)": -0.5, "constant alpha": -1.0}
_RANKS = (1, 2, 4, 8, 16, 32, 64)
_RATIOS = tuple(np.geomspace(0.25, 8, 25))
_RATES = tuple(np.geomspace(1e-4, 1e-2, 41))


def truths(surface: Surface, exponent: float | None) -> Mapping[str, bool | None]:
    """Return whether each claim is true; None if there is nothing to decide."""
    best = {
        (r, a): max(surface(dict(zip(SPACE.keys, (r, a, 0.0, rate, 30.0), strict=True))) for rate in _RATES)
        for r, a in itertools.product(_RANKS, (*_RATIOS, 2.0))
    }
    top = max(best.values())
    is_null = surface is null_surface
    return {
        "alpha = 2r": top - max(best[r, 2.0] for r in _RANKS) < MARGIN,
        **{name: None if exponent is None else claimed == exponent for name, claimed in _CLAIMED.items()},
        "learning rate independent of rank": None if is_null else True,
        "low rank suffices": top - max(value for (r, _), value in best.items() if r <= 8) < MARGIN,
        "dropout does not matter": True,
        "r = 8, alpha = 16": top - best[8, 2.0] < MARGIN,
        "high alpha overfits small data": None,
    }


def outcome(verdict: str, truth: bool | None) -> str:
    """Return whether a verdict is right, wrong or undecided."""
    if verdict == "undecided":
        return verdict
    return "right" if truth is not None and (verdict == "supported") == truth else "wrong"


def covers(surrogate: Surrogate, landscape: Landscape, surface: Surface) -> list[bool]:
    """Return whether the bands of the profile over the learning rate contain the truth, at five values."""
    rates = [float(rate) for rate in np.geomspace(2e-4, 5e-3, 5)]
    draws = surrogate.values(landscape.profile("train.learning_rate", rates))
    true = [
        max(
            surface(dict(zip(SPACE.keys, (r, a, 0.0, rate, 30.0), strict=True)))
            for r, a in itertools.product(_RANKS, _RATIOS)
        )
        for rate in rates
    ]
    bands = [interval_of(column) for column in draws.T]
    return [band.low <= value <= band.high for band, value in zip(bands, true, strict=True)]


def calibrate(name: str, num_trials: int, repetitions: int) -> list[dict[str, object]]:
    """Return the counts of verdicts for a surface: one row for each claim, about one search and about eight."""
    surface, exponent = SURFACES[name]
    truth = truths(surface, exponent)
    counts: dict[tuple[int, str], Counter[str]] = {}
    claims, covered, sufficient = [], [], 0
    for seed in range(repetitions):
        surrogate = fit_surrogate(SPACE, simulate(surface, num_trials=num_trials, seed=seed), num_rows=NUM_ROWS)
        landscape = Landscape(surrogate) if surrogate.quality.is_sufficient else None
        claims.append(study_claims(surrogate, num_train_rows=1000, landscape=landscape))
        if landscape is not None:
            sufficient += 1
            covered += covers(surrogate, landscape, surface)
    groups = [combine(claims[start : start + GROUP]) for start in range(0, repetitions - GROUP + 1, GROUP)]
    for size, found in ((1, claims), (GROUP, groups)):
        for claim in itertools.chain.from_iterable(found):
            counts.setdefault((size, claim.name), Counter())[outcome(claim.verdict, truth[claim.name])] += 1
    return [
        {
            "surface": name,
            "trials": num_trials,
            "studies": size,
            "claim": claim,
            "truth": truth[claim],
            **{kind: count[kind] for kind in ("right", "wrong", "undecided")},
            "sufficient": sufficient / repetitions,
            "coverage": float(np.mean(covered)) if covered else None,
        }
        for (size, claim), count in counts.items()
    ]


def summary(rows: list[dict[str, object]]) -> str:
    """Return the counts by surface, trials and number of studies as a table."""
    lines = [["surface", "trials", "studies", "wrong", "right", "undecided", "surrogate sufficient", "band covers"]]
    key = ("surface", "trials", "studies")
    for names, group in itertools.groupby(rows, key=lambda row: tuple(row[k] for k in key)):
        found = list(group)
        kinds = [sum(int(str(row[kind])) for row in found) for kind in ("wrong", "right", "undecided")]
        total = sum(kinds)
        coverage = found[0]["coverage"]
        lines.append(
            [
                *map(str, names),
                *(f"{kind / total:.1%}" for kind in kinds),
                f"{float(str(found[0]['sufficient'])):.0%}",
                "" if coverage is None else f"{float(str(coverage)):.0%}",
            ]
        )
    return table(lines[0], lines[1:])


def main() -> None:
    """Calibrate all surfaces and record the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40, help="searches of each kind")
    parser.add_argument("--trials", type=int, nargs="+", default=[24, 100])
    parser.add_argument("--surfaces", nargs="+", default=list(SURFACES), choices=list(SURFACES))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    rows = []
    for num_trials, name in itertools.product(asked.trials, asked.surfaces):
        rows += sorted(calibrate(name, num_trials, asked.studies), key=lambda row: int(str(row["studies"])))
    text = summary(rows)
    print(text)
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "calibration_effects.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (asked.results / "calibration_effects.md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

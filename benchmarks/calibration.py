"""Are the verdicts of a confirmation right as often as they say? Simulates whole confirmations whose truth is known.

    python benchmarks/calibration.py             several minutes on one core, seeded
    python benchmarks/calibration.py --studies 50 --results /tmp/short

A row is right if its latent value is positive: the sum of a row effect, a row effect of the candidate, a seed effect of
the candidate, a row effect of the seed, and a residual, all normal. Their variances come from what
`benchmarks/noise.py` and `benchmarks/recipes.py` recorded. Writes <results>/calibration.jsonl and calibration.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path
from sweeper.config.settings import ConfirmSettings  # noqa: E402
from sweeper.statistics.comparison import compare_candidates  # noqa: E402
from sweeper.statistics.outcomes import CandidateOutcomes  # noqa: E402
from sweeper.statistics.results import CandidateResult, Verdict  # noqa: E402

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """How outcomes vary. The shares are of a latent variance of 1."""

    name: str
    accuracy: float
    """Of the default."""
    row: float
    """Rows that are hard for every candidate and seed."""
    candidate_row: float
    """Rows that are hard for a candidate, with any seed."""
    seed_row: float
    """Rows that are hard with a seed, for any candidate."""
    seed_error: float
    """Standard deviation of a candidate's true accuracy between seeds."""
    uneven: float = 1.0
    """Factor of it for the last candidate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of confirmation."""

    noise: Noise
    gains: tuple[float, ...]
    """True gains in accuracy of all candidates but the default."""
    num_rows: int
    looks: tuple[int, ...]
    """Numbers of seeds at which undecided comparisons are looked at."""


def simulate(scenario: Scenario, generator: np.random.Generator) -> list[CandidateOutcomes]:
    """Return outcomes of the default and all other candidates, with as many seeds as the last look."""
    noise, (C, S, N) = scenario.noise, (1 + len(scenario.gains), scenario.looks[-1], scenario.num_rows)
    truth_C = special.ndtri(noise.accuracy + np.array([0.0, *scenario.gains]))
    # A small shift of the latent mean changes the accuracy by the density at its threshold.
    seed = (noise.seed_error / np.exp(-(truth_C[0] ** 2) / 2) * np.sqrt(2 * np.pi)) ** 2
    rest = 1 - noise.row - noise.candidate_row - noise.seed_row - seed
    latent_CSN = (
        truth_C[:, None, None]
        + _normal(generator, noise.row, N)
        + _normal(generator, noise.candidate_row, C, 1, N)
        + _normal(generator, seed, C, S, 1) * np.where(np.arange(C) == C - 1, noise.uneven, 1.0)[:, None, None]
        + _normal(generator, noise.seed_row, S, N)
        + _normal(generator, rest, C, S, N)
    )
    # Labels as unequal as TREC's. A wrong prediction is any other label.
    target_N = generator.choice(6, N, p=(0.02, 0.22, 0.23, 0.21, 0.16, 0.16))
    wrong_CSN = (target_N + generator.integers(1, 6, (C, S, N))) % 6
    predicted_CSN = np.where(latent_CSN > 0, target_N, wrong_CSN)
    return [
        CandidateOutcomes(
            name=f"candidate {c}" if c else "default",
            seeds=tuple(range(S)),
            loss_SN=np.logaddexp(0, -3 * latent_CSN[c]),
            predicted_SN=predicted_CSN[c],
            target_N=target_N,
        )
        for c in range(C)
    ]


def _normal(generator: np.random.Generator, variance: float, *shape: int) -> Floats:
    return np.sqrt(max(variance, 0.0)) * generator.standard_normal(shape)


def confirm(
    outcomes: Sequence[CandidateOutcomes],
    settings: ConfirmSettings,
    looks: Sequence[int],
    other_metrics: Sequence[str] = (),
) -> list[CandidateResult]:
    """Confirm as `sweeper run` does: further seeds only for undecided candidates, and for the default."""
    seeds = {candidate.name: looks[0] for candidate in outcomes}
    for look in looks:
        found = compare_candidates(
            [_first_seeds(candidate, seeds[candidate.name]) for candidate in outcomes],
            default=outcomes[0].name,
            metric="accuracy",
            maximize=True,
            settings=settings,
            other_metrics=other_metrics if look == looks[-1] else (),
        )
        undecided = [r.name for r in found if r.against_default and r.against_default.verdict is Verdict.UNDECIDED]
        if not undecided or look == looks[-1]:
            return found
        seeds |= dict.fromkeys([outcomes[0].name, *undecided], looks[looks.index(look) + 1])
    raise AssertionError("the last look returns")


def _first_seeds(candidate: CandidateOutcomes, number: int) -> CandidateOutcomes:
    assert candidate.predicted_SN is not None
    return dataclasses.replace(
        candidate,
        seeds=candidate.seeds[:number],
        loss_SN=candidate.loss_SN[:number],
        predicted_SN=candidate.predicted_SN[:number],
    )


def run(scenario: Scenario, studies: int, *, seed: int = 0, metrics: bool = False) -> dict[str, float]:
    """Simulate confirmations.

    Args:
        scenario: What is true, and how it is confirmed.
        studies: How many.
        seed: Of the simulation.
        metrics: Whether the other metrics are compared, too. Without a true gain, their differences are 0 as well.

    Returns:
        Means over studies. ``wrong``, ``wrong_best``: whether any verdict against the default, or the best, is wrong.
        ``covered``, ``covered_score``: share of gains, and of scores, whose interval holds the truth.
        ``better``: share of the candidates with the largest gain that are called better; ``equivalent``: share of all.
    """
    generator = np.random.default_rng(seed)
    settings = ConfirmSettings(seeds=scenario.looks[0], max_seeds=scenario.looks[-1])
    truth = {"default": 0.0} | {f"candidate {c}": gain for c, gain in enumerate(scenario.gains, start=1)}
    studied = [
        _judge(
            confirm(simulate(scenario, generator), settings, scenario.looks, _OTHERS if metrics else ()),
            truth,
            scenario.noise.accuracy,
            settings,
        )
        for _ in range(studies)
    ]
    return {name: round(float(np.mean([found[name] for found in studied])), 4) for name in studied[0]}


_OTHERS = ("macro_f1", "mcc", "loss")


def _judge(
    found: Sequence[CandidateResult], truth: Mapping[str, float], accuracy: float, settings: ConfirmSettings
) -> dict[str, float]:
    best = next(truth[result.name] for result in found if result.against_best is None)
    gains = [(r.against_default, truth[r.name]) for r in found if r.against_default]
    behind = [(r.against_best, truth[r.name] - best) for r in found if r.against_best]
    scores = [(r.metrics["validation/accuracy"], accuracy + truth[r.name]) for r in found]
    best_gain = max(truth.values())
    values: dict[str, Any] = {
        "wrong": any(_is_wrong(d.verdict, value, settings) for d, value in gains),
        "wrong_best": any(_is_wrong(d.verdict, value, settings) for d, value in behind),
        "covered": np.mean([d.gain.low <= value <= d.gain.high for d, value in gains]),
        "covered_score": np.mean([i.low <= value <= i.high for i, value in scores]),
        "better": np.mean([d.verdict is Verdict.BETTER for d, value in gains if value == best_gain]),
        "equivalent": np.mean([d.verdict is Verdict.EQUIVALENT for d, _ in gains]),
        "half_width": np.mean([(d.gain.high - d.gain.low) / 2 for d, _ in gains]),
        "trials": sum(result.num_seeds for result in found),
    }
    for name in _OTHERS:
        others = [r.differences[key] for r in found if (key := f"validation/{name}") in r.differences]
        if others:
            values[f"wrong_{name}"] = any(gain.low > 0 or gain.high < 0 for gain in others)
    return {name: float(value) for name, value in values.items()}


def _is_wrong(verdict: Verdict, truth: float, settings: ConfirmSettings) -> bool:
    return {
        Verdict.BETTER: truth <= 0,
        Verdict.WORSE: truth >= 0,
        Verdict.EQUIVALENT: abs(truth) >= settings.margin,
        Verdict.UNDECIDED: False,
    }[verdict]


# The alternatives, each as estimates and half widths of the candidates against the default.


def independent_rows(right_CSN: Floats) -> Floats:
    """Binomial errors, as if every candidate had been scored on rows of its own, once."""
    accuracy_C = right_CSN.mean(axis=(1, 2))
    variance_C = accuracy_C * (1 - accuracy_C) / right_CSN.shape[2]
    return _Z * np.sqrt(variance_C[1:] + variance_C[0])


def rows_only(right_CSN: Floats) -> Floats:
    """Paired rows of the mean over seeds; seeds are forgotten."""
    difference_PN = (right_CSN[1:] - right_CSN[0]).mean(axis=1)
    return _Z * difference_PN.std(axis=1, ddof=1) / np.sqrt(right_CSN.shape[2])


def seeds_only(right_CSN: Floats) -> Floats:
    """Paired t-test over seeds; rows are forgotten."""
    difference_PS = (right_CSN[1:] - right_CSN[0]).mean(axis=2)
    num_seeds = right_CSN.shape[1]
    return -special.stdtrit(num_seeds - 1, 0.025) * difference_PS.std(axis=1, ddof=1) / np.sqrt(num_seeds)


@functools.cache
def _resampled(number: int) -> Floats:
    """Return weights of things drawn with replacement, ``[draws, number]``."""
    return np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), _DRAWS) / number


def pigeonhole(right_CSN: Floats) -> Floats:
    """Bootstrap of seeds and rows (Owen 2007), max-T; deviations of seeds are scaled by sqrt(S / (S - 1))."""
    difference_PSN = right_CSN[1:] - right_CSN[0]
    _, num_seeds, num_rows = difference_PSN.shape
    rows_DN, seeds_DS = _resampled(num_rows), _resampled(num_seeds)
    seeds_DS = 1 / num_seeds + (seeds_DS - 1 / num_seeds) * np.sqrt(num_seeds / (num_seeds - 1))
    drawn_PD = np.einsum("ds,psd->pd", seeds_DS, difference_PSN @ rows_DN.T)
    deviation_PD = np.abs(drawn_PD - difference_PSN.mean(axis=(1, 2))[:, None])
    error_P1 = drawn_PD.std(axis=1, keepdims=True)
    limit = np.quantile((deviation_PD / error_P1).max(axis=0), 0.95)
    return limit * error_P1[:, 0]


_Z = 1.96
_DRAWS = 500
ALTERNATIVES: Mapping[str, Callable[[Floats], Floats]] = {
    "independent rows, seeds forgotten": independent_rows,
    "paired rows, seeds forgotten": rows_only,
    "paired seeds, rows forgotten": seeds_only,
    "pigeonhole bootstrap, max-T": pigeonhole,
}


def run_alternatives(scenario: Scenario, studies: int, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the share of studies with a wrong verdict, and the mean half width, without any true gain."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[tuple[bool, float]]] = {name: [] for name in ALTERNATIVES}
    for _ in range(studies):
        right_CSN = np.stack([o.predicted_SN == o.target_N for o in simulate(scenario, generator)]).astype(float)
        gain_P = right_CSN[1:].mean(axis=(1, 2)) - right_CSN[0].mean()
        for name, half_width in ALTERNATIVES.items():
            half_P = half_width(right_CSN)
            found[name].append((bool((np.abs(gain_P) > half_P).any()), float(half_P.mean())))
    return {
        name: {"wrong": round(float(wrong), 4), "half_width": round(float(half), 4)}
        for name, rows in found.items()
        for wrong, half in [np.mean(rows, axis=0)]
    }


def noises(results: Path) -> list[Noise]:
    """Return the noise to simulate: as measured, and that of harder data with few rows, where seeds vary more."""
    found = json.loads((results / "noise.json").read_text(encoding="utf-8"))["trec"]
    correlation = found["latent_correlation"]
    neither = correlation["neither"]
    shares = {
        "row": neither,
        "candidate_row": max(0.0, correlation["setting"] - neither),
        "seed_row": max(0.0, correlation["seed"] - neither),
    }
    variance = max(0.0, found["components"]["right"]["of a difference"]["seed"]) / 2
    measured = Noise(
        name="measured",
        accuracy=round(float(np.mean(found["accuracy"])), 3),
        seed_error=round(max(variance**0.5, _LEAST_SEED_ERROR), 4),
        **shares,
    )
    return [measured, Noise(name="hard", accuracy=0.8, seed_error=_HARD_SEED_ERROR, **shares)]


_LEAST_SEED_ERROR = 0.003
"""Four seeds cannot show that seeds do not vary at all."""
_HARD_SEED_ERROR = 0.01
"""In recipes.jsonl, settings of a dataset vary by 0.001 to 0.011 between two seeds, on 1,000 test rows, and by 0.019 on
one with 250 training rows. That includes the noise of the rows."""

_NULL = (0.0,) * 5
_MIXED = (0.0, 0.01, 0.02, 0.04, -0.02)
_ONE_BETTER = (0.02, 0.0, 0.0, 0.0, 0.0)
_ROWS = (400, 1000, 2000)
_LOOKS = (3, 6, 12)


def measure(noise: Noise, studies: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of all tables for one kind of noise."""

    def row(kind: str, scenario: Scenario, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"table": kind, "studies": studies, **dataclasses.asdict(scenario), **values}

    for seeds in (3, 12):
        scenario = Scenario(noise=noise, gains=_NULL, num_rows=400, looks=(seeds,))
        found = run_alternatives(scenario, studies // 4)
        found["crossed, max-T"] = run(scenario, studies)
        for name, values in found.items():
            yield row("model", scenario, {"model": name, **values})
    for num_rows in (400, 2000):
        scenario = Scenario(noise=noise, gains=_NULL, num_rows=num_rows, looks=_LOOKS)
        yield row("null", scenario, run(scenario, studies, metrics=True))
        scenario = dataclasses.replace(scenario, noise=dataclasses.replace(noise, uneven=2.0))
        yield row("null", scenario, run(scenario, studies))
        scenario = Scenario(noise=noise, gains=_MIXED, num_rows=num_rows, looks=_LOOKS)
        yield row("mixed", scenario, run(scenario, studies))
    for num_rows in _ROWS:
        for looks in ((3,), (4,), (6,), (12,), _LOOKS):
            scenario = Scenario(noise=noise, gains=_ONE_BETTER, num_rows=num_rows, looks=looks)
            yield row("power", scenario, run(scenario, studies))


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return calibration.md."""
    parts = [_INTRODUCTION]
    for name in dict.fromkeys(row["noise"]["name"] for row in rows):
        of_noise = [row for row in rows if row["noise"]["name"] == name]
        noise = of_noise[0]["noise"]
        parts += [
            f"# Noise: {name}",
            f"Accuracy {noise['accuracy']}; a candidate's true accuracy varies by {noise['seed_error']} between seeds. "
            f"Shares of the latent variance: rows {noise['row']:.3f}, rows of a candidate "
            f"{noise['candidate_row']:.3f}, rows of a seed {noise['seed_row']:.3f}.",
            *_tables(of_noise),
        ]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Calibration

Made by `make calibration`: simulated confirmations of the default and five other candidates, whose truth is known.
Confidence 95 %, margin 0.005. "Wrong" is the share of studies with any wrong verdict: better or worse than what is
equal, or equivalent with a true difference of at least the margin. Over 400 studies, a share of 5 % has a standard
error of 1.1 points, and one of 80 % of 2 points."""


def _tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Error models, without any true gain, 400 rows"
    yield table(
        ("error model", "seeds", "wrong", "half width"),
        [
            (r["model"], r["looks"][-1], _percent(r["wrong"]), f"{r['half_width']:.4f}")
            for r in rows
            if r["table"] == "model"
        ],
    )
    yield "## Further seeds for undecided comparisons"
    yield table(
        (
            "true gains",
            "rows",
            "seeds of the last vary",
            "wrong",
            "wrong, against best",
            "gains covered",
            "scores covered",
            "trials",
        ),
        [
            (
                ", ".join(f"{gain:g}" for gain in r["gains"]),
                r["num_rows"],
                f"x {r['noise']['uneven']:g}",
                *(_percent(r[key]) for key in ("wrong", "wrong_best", "covered", "covered_score")),
                round(r["trials"]),
            )
            for r in rows
            if r["table"] in ("null", "mixed")
        ],
    )
    yield "Other metrics, without any true gain: share of studies in which an interval excludes 0."
    yield table(
        ("rows", *_OTHERS),
        [(r["num_rows"], *(_percent(r[f"wrong_{name}"]) for name in _OTHERS)) for r in rows if "wrong_mcc" in r],
    )
    yield "## Power: one candidate is 0.02 better"
    yield "Share of studies that call it better, half the width of an interval, and trials of all six candidates."
    power = [r for r in rows if r["table"] == "power"]
    plans = dict.fromkeys(tuple(r["looks"]) for r in power)
    yield table(
        ("rows", *(" or ".join(map(str, looks)) + " seeds" for looks in plans)),
        [
            (
                number,
                *(
                    f"{_percent(r['better'])} (±{r['half_width']:.4f}, {r['trials']:.0f})"
                    for r in power
                    if r["num_rows"] == number
                ),
            )
            for number in dict.fromkeys(r["num_rows"] for r in power)
        ],
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--render", action="store_true", help="only write calibration.md again")
    asked = parser.parse_args()
    path = asked.results / "calibration.jsonl"
    if not asked.render:
        asked.results.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for noise in noises(ROOT / "benchmarks" / "results"):
                for row in measure(noise, asked.studies):
                    print(json.dumps(row), file=file, flush=True)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (asked.results / "calibration.md").write_text(render(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

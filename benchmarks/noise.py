"""How much do outcomes vary between seeds, rows and settings? Trains a few settings with the same fresh seeds each.

    python benchmarks/noise.py                   four settings of TREC with four seeds: five minutes on one core

Rows stay the same for all trials, as in a confirmation: validation and test rows of one split. Writes variance
components into <results>/noise.json, from which `benchmarks/calibration.py` simulates.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from sweeper.config.compose import compose  # noqa: E402  after the path
from sweeper.config.hyperparameters import Hyperparameters  # noqa: E402
from sweeper.execute.base import WorkerSetup  # noqa: E402
from sweeper.statistics.crossed import Crossed  # noqa: E402
from sweeper.sweep.plan import plan_model, plan_study  # noqa: E402
from sweeper.train.lane import Lane  # noqa: E402
from sweeper.train.worker import TrainingWorker  # noqa: E402
from sweeper.types import Admission, ChunkReport, ChunkRequest, TrialTemplate  # noqa: E402

_RATE, _RANK, _RATIO = "train.learning_rate", "lora.r", "lora.alpha_ratio"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "r=8, alpha=8": {_RANK: 8, _RATIO: 1.0, _RATE: 1e-3},
    "r=8, alpha=16": {_RANK: 8, _RATIO: 2.0, _RATE: 1e-3},
    "r=32, alpha=32": {_RANK: 32, _RATIO: 1.0, _RATE: 1e-3},
    "twice the learning rate": {_RANK: 8, _RATIO: 1.0, _RATE: 2e-3},
}
_FIRST_SEED = 1000

Floats = NDArray[np.float64]


def train(dataset: str, num_seeds: int, cache: Path) -> tuple[Floats, Floats]:
    """Train every setting with every seed; return whether rows are right, 0 or 1, and losses, ``[C, S, N]`` each."""
    config = compose([f"dataset={dataset}", f"cache={cache}"])
    folder = plan_model(config.settings)
    setup = WorkerSetup(model=config.settings.model, model_dir=folder, cache=cache, device="cpu", threads=1)
    worker = _Worker(setup)
    worker.start()
    plan = plan_study(config, config.settings.dataset[dataset], model_dir=folder)
    opening = dataclasses.replace(plan.opening, rungs=(plan.record.num_chunks,))
    found = []
    for params in SETTINGS.values():
        worker.answer(opening)
        specs = [
            TrialTemplate("noise", Hyperparameters.of(config.settings), _FIRST_SEED + k).spec(k, params, "bench")
            for k in range(num_seeds)
        ]
        found.append(worker.outcomes(worker.train(specs, plan.record.num_chunks)))
    right, losses = zip(*found, strict=True)
    return np.stack(right).astype(float), np.stack(losses).astype(float)


class _Worker(TrainingWorker):
    """A worker that returns the outcomes of validation and test rows."""

    def train(self, specs: Sequence[Any], num_chunks: int) -> list[Lane]:
        """Train trials to their end; return their lanes."""
        lanes: list[Lane] = []
        request = ChunkRequest(admit=tuple(Admission(spec=spec) for spec in specs))
        for _ in range(num_chunks):
            report = self.answer(request)
            if not isinstance(report, ChunkReport) or report.failures:
                raise RuntimeError(f"the worker failed: {report}")
            # A complete trial leaves its pack, so its lane is taken before.
            request, lanes = ChunkRequest(), lanes or list(self._lanes.values())
        return sorted(lanes, key=lambda lane: lane.spec.number)

    def outcomes(self, lanes: Sequence[Lane]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return which rows are right, and losses, ``[lanes, rows]`` each."""
        from torch.nn import functional as F

        study = self._study
        assert study is not None
        right, losses = [], []
        for split in ("validation", "test"):
            rows = self._evaluation_batches(study.task.examples(study.tokens, split), study.tokens.pad_token_id)
            logits_KNF = study.pack.predict(lanes, rows, study.task.outputs)
            targets_KN = rows.targets.expand(len(lanes), -1)
            right.append((logits_KNF.argmax(-1) == targets_KN).numpy())
            losses.append(F.cross_entropy(logits_KNF.transpose(1, 2), targets_KN, reduction="none").numpy())
        return np.concatenate(right, axis=1), np.concatenate(losses, axis=1)


def summary(right_CSN: Floats, loss_CSN: Floats) -> dict[str, Any]:
    """Return accuracies, how often outcomes disagree, and variance components, of settings and of their differences."""
    pairs = _pairs(right_CSN)
    return {
        "settings": list(SETTINGS),
        "accuracy": right_CSN.mean(axis=2).round(4).tolist(),
        "num_seeds": right_CSN.shape[1],
        "num_rows": right_CSN.shape[2],
        "disagreement": {
            name: round(float(np.mean([abs(a - b).mean() for a, b in p])), 4) for name, p in pairs.items()
        },
        "latent_correlation": {name: round(_latent_correlation(p), 4) for name, p in pairs.items()},
        "components": {
            "right": _components(right_CSN),
            "loss": _components(loss_CSN),
        },
    }


def _pairs(right_CSN: Floats) -> dict[str, list[tuple[Floats, Floats]]]:
    """Return pairs of trials by what they share."""
    num_candidates, num_seeds, _ = right_CSN.shape
    trials = list(itertools.product(range(num_candidates), range(num_seeds)))
    found: dict[str, list[tuple[Floats, Floats]]] = {"setting": [], "seed": [], "neither": []}
    for one, other in itertools.combinations(trials, 2):
        shared = "setting" if one[0] == other[0] else "seed" if one[1] == other[1] else "neither"
        found[shared].append((right_CSN[one], right_CSN[other]))
    return found


def _latent_correlation(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    """Return the tetrachoric correlation: that of two normal variables whose signs agree as often as the outcomes."""
    both = float(np.mean([(a * b).mean() for a, b in pairs]))
    threshold = special.ndtri(np.mean([a.mean() + b.mean() for a, b in pairs]) / 2)

    def excess(correlation: float) -> float:
        return float(stats.multivariate_normal.cdf([threshold] * 2, cov=[[1, correlation], [correlation, 1]])) - both

    return float(optimize.brentq(excess, 0, 0.9999))


def _components(values_CSN: Floats) -> dict[str, dict[str, float]]:
    own = [Crossed.of(values_SN) for values_SN in values_CSN]
    differences = [Crossed.of(a - b) for a, b in itertools.combinations(values_CSN, 2)]
    return {
        name: {part: float(f"{np.mean([getattr(c, part) for c in parts]):.4g}") for part in ("seed", "row", "residual")}
        for name, parts in (("of a setting", own), ("of a difference", differences))
    }


def main() -> None:
    """Train, and write the components."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="trec")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_args()
    started = time.process_time()
    found = summary(*train(asked.dataset, asked.seeds, asked.cache.expanduser()))
    path = asked.results / "noise.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[asked.dataset] = found | {"cpu_s": round(time.process_time() - started, 1)}
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A response with a known truth, and tables recorded from it: a ridge with a cliff, noise with memory, ties."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeper.config.dimensions import parse_space
from sweeper.search.proposals import sobol_point
from sweeper.simulate.base import Curve

NUM_ROWS = 400
NUM_CHUNKS = 12
MAJORITY = 0.25
METRIC = "validation/accuracy"
NOISE = 0.01
SPACE = parse_space(
    {
        "lora.r": "tag(log2,interval(1,64))",
        "lora.alpha_ratio": "tag(log,interval(0.25,8))",
        "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
    }
)


def truth(params) -> float:
    """The mean final score: best where learning rate x alpha ratio is 3e-3; collapsed where it is far too large."""
    step = math.log(params["train.learning_rate"] * params["lora.alpha_ratio"] / 3e-3)
    return MAJORITY if step > 2 else max(0.3, 0.9 - (0.08 if step > 0 else 0.05) * step**2)


def recorded_curve(params, rng) -> dict[str, np.ndarray]:
    """Return a trial's score, loss and the same on half of the rows by chunk; its noise lasts over chunks."""
    final, progress = truth(params), 1 - np.exp(-np.arange(1, NUM_CHUNKS + 1) / 3)
    noise = np.zeros(NUM_CHUNKS)
    for chunk in range(NUM_CHUNKS):
        before = noise[chunk - 1] if chunk else rng.normal(0, NOISE)
        noise[chunk] = 0.8 * before + 0.6 * rng.normal(0, NOISE)
    score = MAJORITY + (final - MAJORITY) * progress + noise
    score = np.full(NUM_CHUNKS, MAJORITY) if final == MAJORITY else np.rint(score * NUM_ROWS) / NUM_ROWS
    half = score if final == MAJORITY else np.rint((score + rng.normal(0, 0.005, NUM_CHUNKS)) * 200) / 200
    return {"score": score, "half_score": half, "loss": 1.5 - score, "half_loss": 1.5 - half}


def write_table(
    path: Path, *, settings: int = 64, seeds: int = 4, repeated: int = 16, epochs: tuple[int, ...] = (), **about
) -> Path:
    """Write a table in the format of benchmarks/tables; ``repeated`` settings have further seeds.

    With ``epochs``, trials have these in turn, and so many parts of `NUM_CHUNKS`; curves run over a trial's own length.
    """
    rows, rng = [], np.random.default_rng(0)
    space = {**SPACE.texts, **({"train.epochs": f"choice({','.join(map(str, epochs))})"} if epochs else {})}
    for setting in range(settings):
        own = epochs[setting % len(epochs)] if epochs else 0
        length = NUM_CHUNKS * own // max(epochs) if epochs else NUM_CHUNKS
        params = {**sobol_point(SPACE, 0, setting), **({"train.epochs": own} if own else {})}
        for seed in range(seeds if setting < repeated else 1):
            curve = recorded_curve(params, rng)
            for chunk in range(1, length + 1):
                own = {name: float(values[chunk * NUM_CHUNKS // length - 1]) for name, values in curve.items()}
                seconds = {"train_s": 0.5 * chunk, "score_s": 0.4 * chunk}
                numbers = {key: float(value) for key, value in params.items()}
                rows.append(
                    {"setting": setting, "seed": seed, "chunk": chunk, **numbers, "failure": ""} | own | seconds
                )
    known = {
        "dataset": "toy",
        "metric": METRIC,
        "direction": "maximize",
        "num_chunks": NUM_CHUNKS,
        "rows": {"validation": NUM_ROWS},
        "space": space,
        "fixed": {"lora.dropout": 0.0},
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"sweeper": json.dumps({**known, **about})})
    pq.write_table(table, path)
    return path


@dataclass
class FormulaResponse:
    """A response without noise; a trial's score rises to the truth, and its half score is 0.1 lower."""

    name: str = "formula"
    space: object = SPACE
    fixed: dict = field(default_factory=lambda: {"lora.dropout": 0.0})
    num_chunks: int = NUM_CHUNKS
    num_rows: int = NUM_ROWS
    maximize: bool = True
    majority: float = MAJORITY
    half_majority: float = MAJORITY - 0.1
    best_mean: float = 0.9
    asked: list = field(default_factory=list)
    """Configuration and seed of every curve."""

    def curve(self, params, seed) -> Curve:
        self.asked.append((dict(params), seed))
        score = tuple(truth(params) * chunk / NUM_CHUNKS for chunk in range(1, NUM_CHUNKS + 1))
        return Curve(
            score=score,
            loss=tuple(1 - value for value in score),
            half_score=tuple(value - 0.1 for value in score),
            half_loss=tuple(1.1 - value for value in score),
            train_s=tuple(0.5 + 0.1 * chunk for chunk in range(NUM_CHUNKS)),
            score_s=0.4,
        )

    def mean_score(self, params) -> float:
        return truth(params)

    def is_good(self, params) -> bool:
        return truth(params) > 0.8

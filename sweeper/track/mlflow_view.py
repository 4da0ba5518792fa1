"""What MLflow shows of a trial and a study: names, tags, params, metrics, and the note of an experiment.

Pure functions of records; `mlflow_runs` sends what they return. Imports no mlflow and reads no clock: the same record
always gives the same view, so a point that is sent twice is the same point, which MLflow's database keeps once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sweeper.config.space import EPOCHS
from sweeper.figures.baselines import reference_label
from sweeper.figures.hyperparameters import ALPHA, alpha, params_text, shown_params
from sweeper.figures.recipes import candidate_name, recipe_name
from sweeper.figures.rungs import best_rung, best_rung_text
from sweeper.figures.text import markdown_block, markdown_code, markdown_text
from sweeper.figures.training_rows import capped_rows, length_sentence
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = [
    "CHUNKS",
    "Point",
    "axis_params",
    "experiment_note",
    "millis",
    "points_after",
    "run_name",
    "run_params",
    "run_status",
    "run_tags",
    "summary",
]

CHUNKS = "cost/chunks"
"""Metric from which a later session knows how far a run was shown; its value is its step."""

_LOGARITHMS = {"log2": math.log2, "log10": math.log10}
_MAX_TAG = 4000
"""Characters; MLflow refuses tags of more than 8,000 and shows far fewer."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    step: int
    millis: int


def run_name(trial: TrialRecord) -> str:
    """Return e.g. ``0007 r=8 alpha=16 dropout=0 lr=0.001``; a recipe or candidate has its name: charts show no more."""
    spec = trial.spec
    name = recipe_name(spec) or candidate_name(spec)
    parts = (f"{spec.number:04d}", name, params_text(shown_params(spec, spec.params)))
    return " ".join(part for part in parts if part)


def axis_params(study: StudyRecord) -> list[str]:
    """Return the param to plot for each dimension: its logarithm if it is searched on that scale.

    MLflow plots params on linear axes only, on which learning rates from 1e-4 to 1e-2 cannot be told apart.
    """
    return [f"{_scale(text)}.{key}" if _scale(text) else key for key, text in study.space.items()]


def run_params(study: StudyRecord, trial: TrialRecord) -> dict[str, str]:
    """Return every hyperparameter, the searched ones first, and what is derived from them for plots and comparisons."""
    spec, values = trial.spec, trial.spec.by_key()
    keys = [*spec.params, *(key for key in sorted(values) if key not in spec.params)]
    params = {key: _text(values[key]) for key in keys}
    params[ALPHA] = _text(alpha(spec.lora))
    for key, text in study.space.items():
        if _scale(text) and float(values[key]) > 0:
            params[f"{_scale(text)}.{key}"] = _text(_LOGARITHMS[_scale(text)](float(values[key])))
    if trial.num_parameters:
        params["num_parameters"] = str(trial.num_parameters)
    return params


def run_tags(study: StudyRecord, trial: TrialRecord, sweep: str) -> dict[str, str]:
    """Return the tags of a trial: what it is, its state, and its failure."""
    spec = trial.spec
    tags = {
        "sweep": sweep,
        "study": study.name,
        "dataset": study.dataset,
        "model": study.model,
        "method": study.method,
        "task": study.task,
        "trial": str(spec.number),
        "state": trial.state.value,
        "seed": str(spec.seed),
        "phase": spec.phase.value,
        "origin": spec.origin,
        "dataset_fingerprint": study.fingerprint,
        "initial_hash": trial.initial_hash,
        "num_retries": str(trial.num_retries) if trial.num_retries else "",
        "best_rung": best_rung_text(study, trial) if trial.state is TrialState.COMPLETE else "",
    }
    if trial.failure is not None:
        kind, message = trial.failure.kind.value, trial.failure.message[:_MAX_TAG]
        note = f"**{trial.state.value}: {kind}** after {trial.chunks_done} chunks\n\n{markdown_block(message)}"
        tags |= {"sweeper.failure.kind": kind, "sweeper.failure.message": message, "mlflow.note.content": note}
    return {key: value for key, value in tags.items() if value}


def run_status(state: TrialState) -> str:
    """Return MLflow's status: a pruned trial is finished, a trial without a score has failed."""
    if state is TrialState.RUNNING:
        return "RUNNING"
    return "FINISHED" if state in (TrialState.COMPLETE, TrialState.PRUNED) else "FAILED"


def points_after(trial: TrialRecord, chunk: int) -> list[Point]:
    """Return the points after ``chunk``; the last point of a chunk is its `CHUNKS`.

    The time of a point is the trial's start plus the device seconds used: MLflow's relative time axis then compares
    trials by their cost, whatever the size of their packs.
    """
    start = millis(trial.started_at)
    points = []
    for measurement in trial.measurements:
        if measurement.chunk > chunk:
            at = start + round(measurement.elapsed_s * 1000)
            values = {**_finite(measurement.metrics), CHUNKS: float(measurement.chunk)}
            points += [Point(key, value, measurement.chunk, at) for key, value in values.items()]
    return points


def summary(study: StudyRecord, trial: TrialRecord) -> list[Point]:
    """Return the one-value metrics of a finished trial: ``best/*``, ``final/*`` and ``cost/*``."""
    values: dict[str, float] = {
        "cost/device_s": round(trial.cost.device_s, 3),
        "cost/rows": float(trial.cost.rows),
        "cost/tokens": float(trial.cost.tokens),
    }
    for prefix, rung in (("best", best_rung(study, trial)), ("final", trial.last_rung)):
        if rung is not None:
            scores = {k.removeprefix("validation/"): v for k, v in rung.metrics.items() if k.startswith("validation/")}
            values |= {f"{prefix}/{name}": value for name, value in scores.items()}
    at = millis(trial.finished_at)
    return [Point(key, value, 0, at) for key, value in _finite(values).items()]


def experiment_note(study: StudyRecord, sweep: str, link: str, report: str = "") -> str:
    """Return Markdown that describes the study and how to read its runs.

    Args:
        study: The study.
        sweep: Name of the sweep.
        link: Opens the prepared view.
        report: Opens the sweep's report; empty before there is one.
    """
    rows = ", ".join(f"{count} {split}" for split, count in study.num_rows.items())
    capped = capped_rows(study)
    rows += f" (training uses {capped}: train_rows caps them)" if capped else ""
    cells = ((markdown_code(key), markdown_code(text).replace("|", "\\|")) for key, text in study.space.items())
    space = "\n".join(f"| {key} | {text} |" for key, text in cells)
    metric = study.metric.removeprefix("validation/")
    better = "higher" if study.direction == "maximize" else "lower"
    references = "".join(f"\n- {_reference_text(name, values)}" for name, values in study.references.items())
    longest = "The longest trial" if EPOCHS in study.space else "A full trial"
    verdicts = f" **[Read the report]({report})** for verdicts and effects." if report else ""
    return f"""\
## {markdown_text(study.dataset)}: LoRA hyperparameters of {markdown_text(study.model)}

Study {markdown_code(study.name)} of sweep {markdown_code(sweep)}. Rows: {rows}; {len(study.labels)} labels.
{length_sentence(study)}
Objective: **{study.metric}**, {better} is better. {longest} has {study.num_chunks} chunks of
{study.rows_per_chunk} rows and is scored after chunks {", ".join(map(str, study.rungs))}.{references}

**[Open the best trials first, with charts]({link})**, or choose *Views*, *Best trials first*.{verdicts}

| searched | values |
| --- | --- |
{space}

### How to read the runs
- One run is one trial; only {markdown_code(f"report: {sweep}")} has the sweep's report instead.
- **`final/{metric}`** is the score that the search uses, `best/{metric}` that of the best rung.
  Early rungs score half of the validation rows if there are many; the best rung is one that scored all.
  `tags.best_rung` names the best rung of a complete trial if an earlier one scored higher than the last.
- Filter: `tags.state = 'complete'`; other states are `running`, `pruned` (stopped early for a low score),
  `infeasible` (the configuration cannot work: out of memory, or a loss that is not finite), `failed` (another cause).
- `tags.origin` is the source of the configuration: `recipe:<name>`, `portfolio:<source>`, `sobol`, the sampler, or
  `confirm:<name>` for a candidate that was trained again with a fresh seed.
- Steps are chunks. Relative time is device time, so curves compare the cost of trials.
- To compare runs, select them and press *Compare*. Its axes are linear: use the `log10.*` and `log2.*` params.
- The *Models* tab has the adapters in PEFT's format. Params have four digits; `trial.json` of a run has all.
"""


def _reference_text(name: str, values: Mapping[str, float]) -> str:
    scores = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
    return f"**{reference_label(name)}**, without any adapter: {scores}"


def millis(iso: str) -> int:
    """Return milliseconds since 1970 of an ISO 8601 time; 0 for none."""
    return round(datetime.fromisoformat(iso).timestamp() * 1000) if iso else 0


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def _scale(text: str) -> str:
    """Return ``log10`` or ``log2`` for a dimension on that scale."""
    return "log2" if "log2," in text else "log10" if "log," in text else ""


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

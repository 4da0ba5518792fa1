"""Three small sweeps on tiny random models, and what is recorded of them: every number that a refactoring must keep."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sweeper.store.trials import TrialStore
from sweeper.sweep.run import run_sweep
from sweeper.types import TrialRecord
from tests.doubles import save_tiny_bert, save_tiny_llama, write_rows

RECORDED = Path(__file__).parent / "losses.json"
COMMON = {
    "dataset": "files",
    "dataset.files.name": "tiny",
    "dataset.files.train_rows": 64,
    "dataset.files.validation_rows": 30,
    "dataset.files.test_rows": 30,
    "model": "hub",
    "model.dtype": "float32",
    "model.attention": "eager",
    "train.epochs": 2,
    "train.chunks_per_epoch": 2,
    "train.batch_size": 8,
    "search.min_chunks": 1,
    "search.num_startup_trials": 2,
    "executor": "inline",
    "executor.lanes": 3,
    "tracker": "none",
    "budget.trials": 10,
}
SWEEPS = {
    "classification": {
        "model.name": "tinybert",
        "seed": 3,
        "lora.use_rslora": "choice(false,true)",
        "train.lr_schedule": "choice(linear,cosine,constant)",
        "train.batch_size": "choice(8,16)",
        "train.warmup_ratio": "interval(0,0.2)",
        "train.weight_decay": 0.01,
    },
    "default_space_gp": {
        "model.name": "tinybert",
        "model.dropout": 0.1,
        "seed": 1,
        "search": "gp",
        "search.num_startup_trials": 3,
        "search.pruner": "median",
    },
    "language_model": {
        "model.name": "tinyllama",
        "model.max_length": 64,
        "space": "default",
        "recipes": "encoder",
        "seed": 2,
        "task": "causal_lm",
        "dataset.files.prompt_template": "'{text} is'",
    },
}


def run(name: str, folder: Path) -> list[dict[str, object]]:
    """Run a sweep in an empty folder; return what is recorded of each of its trials."""
    model = save_tiny_bert(folder / "bert")
    if SWEEPS[name]["model.name"] == "tinyllama":
        model = save_tiny_llama(folder / "llama", model)
    places = {
        "name": name,
        "outputs": folder / "outputs",
        "cache": folder / "cache",
        "dataset.files.path": write_rows(folder / "rows.jsonl"),
        "model.id": model,
    }
    overrides = [f"{key}={value}" for key, value in {**COMMON, **SWEEPS[name], **places}.items()]
    run_sweep(overrides, console=Console(file=io.StringIO()))
    store = TrialStore(folder / "outputs" / name)
    return [_recorded(trial) for study in store.studies() for trial in store.trials(study.name)]


def _recorded(trial: TrialRecord) -> dict[str, object]:
    return {
        "number": trial.spec.number,
        "params": dict(trial.spec.params),
        "seed": trial.spec.seed,
        "origin": trial.spec.origin,
        "phase": str(trial.spec.phase),
        "state": str(trial.state),
        "measurements": [{"chunk": m.chunk, "rows": m.rows, "metrics": dict(m.metrics)} for m in trial.measurements],
        "rows": trial.cost.rows,
        "tokens": trial.cost.tokens,
        "num_parameters": trial.num_parameters,
    }

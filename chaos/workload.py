"""The sweep that is disturbed: a tiny random model, and trials of a fraction of a second. Needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeper.store.paths import OutputsPaths
from sweeper.track.mlflow import prepare_database, set_environment
from tests.doubles import save_tiny_bert, write_rows

__all__ = ["HANG_S", "KEEP_ADAPTERS", "STARTUP_TIMEOUT_S", "STUDY", "SWEEP", "WINDOW", "Workload"]

SWEEP = "chaos"
KEEP_ADAPTERS = 5
STUDY = "tiny-tinybert-lora"
HANG_S = 4.0
"""The watchdog kills a worker after this time. A chunk takes a tenth of it, even on a busy machine."""
STARTUP_TIMEOUT_S = 25.0
"""A start without the fork server imports for ten seconds if another sweep is running."""
WINDOW = "22:00-07:00"
"""In the time of the suite's own clock (`clock`), which the sweeps use."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A sweep in its own folder.

    Attributes:
        inputs: The folder of the model and the rows, shared by all sweeps of a run.
        outputs: The folder of the sweep and of MLflow's database, and of nothing else.
    """

    inputs: Path
    outputs: Path
    trials: int
    workers: int
    seed: int
    window: str = WINDOW
    more: tuple[str, ...] = ()

    @staticmethod
    def write_inputs(folder: Path) -> Path:
        """Write the model, the rows and an empty MLflow database, unless they exist."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "rows.jsonl").exists():
            save_tiny_bert(folder / "tiny-bert")
            write_rows(folder / "rows.jsonl")
            set_environment()
            prepare_database(f"sqlite:///{OutputsPaths(folder).mlflow_db}")
        return folder

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command, the same at every start."""
        dataset = {"path": self.inputs / "rows.jsonl", "name": "tiny", "train_rows": 48, "validation_rows": 30}
        settings = {
            "model": "hub",
            "model.id": self.inputs / "tiny-bert",
            "model.name": "tinybert",
            "model.dtype": "float32",
            "model.max_length": 32,
            "lora.r": "choice(2,4,8,16)",
            "lora.alpha_ratio": "choice(0.5,1,2,4)",
            "train.epochs": 2,
            "train.chunks_per_epoch": 3,
            "train.batch_size": 8,
            "train.micro_batch": 8,
            "search.min_chunks": 2,
            "search.num_startup_trials": 4,
            "search.references": "[]",
            "executor": "process",
            "executor.workers": self.workers,
            "executor.lanes": 4,
            "executor.shutdown_grace_s": 3,
            "executor.max_retries": 1000,  # kills by the suite must not make a trial fail
            "executor.retry_s": 0.02,
            "executor.min_free_mb": 0,  # the disk is small, and `fill_disk` fills it
            "executor.hang_timeout_factor": 5,
            "executor.hang_timeout_min_s": HANG_S,
            "executor.startup_timeout_s": STARTUP_TIMEOUT_S,
            "budget.window": self.window,
            "budget.time_zone": "UTC",
            "confirm.seeds": 2,
            "confirm.max_seeds": 2,
            "store.keep_adapters": KEEP_ADAPTERS,
            "budget.trials": self.trials,
            "seed": self.seed,
            "name": SWEEP,
            "outputs": self.outputs,
            "cache": self.inputs / "cache",
        }
        files = ["dataset=files", *(f"dataset.files.{key}={value}" for key, value in dataset.items())]
        return [*files, "dataset.files.test_rows=30", *(f"{k}={v}" for k, v in settings.items()), *self.more]

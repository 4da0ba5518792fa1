"""The sweeps that are disturbed: tiny random models, and trials of a fraction of a second. Needs no network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sweeper.models.load import quiet
from sweeper.store.paths import OutputsPaths
from sweeper.track.mlflow import prepare_database, set_environment
from tests.doubles import save_tiny_bert, save_tiny_llama, write_rows

__all__ = [
    "HANG_S",
    "KEEP_ADAPTERS",
    "KINDS",
    "SHORT_KIND",
    "STARTUP_TIMEOUT_S",
    "STUDY",
    "SWEEP",
    "WINDOW",
    "Workload",
]

SWEEP = "chaos"
TWIN = "twin"
"""The sweep that runs beside `SWEEP` in the same folder, and so on the same MLflow database."""
KEEP_ADAPTERS = 5
_SIZES = {"train_rows": 48, "validation_rows": 30, "test_rows": 30}
STUDY = "tiny-tinybert-lora"
_OTHER_STUDY = "other-tinybert-lora"
_LANGUAGE_STUDY = "tiny-tinyllama-lora"
KINDS = ("classifier", "two_datasets", "language_model", "shared_mlflow", "large_checkpoints")
"""Kinds of sweeps. The last two are classifiers: one has a twin, in the other every checkpoint is a large one."""
HANG_S = 4.0
"""The watchdog kills a worker after this time. A chunk takes a tenth of it, even on a busy machine."""
STARTUP_TIMEOUT_S = 25.0
"""A start without the fork server imports for ten seconds if another sweep is running."""
SHORT_KIND = "large_checkpoints"
"""Kind of the sweep of the short form."""
_CHECKPOINT_EVERY_S = 0.5
"""A chunk takes about as long, so that some are saved between rungs, and some are not."""
WINDOW = "22:00-07:00"
"""In the time of the suite's own clock (`clock`), which the sweeps use."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A sweep in its own folder.

    Attributes:
        inputs: The folder of models and caches, shared by all sweeps of a run.
        outputs: The folder of the sweep and of MLflow's database, and of nothing else.
        kind: One of `KINDS`.
        mutant: A bug that is planted in the controllers and their workers (see `mutants`); empty for none.
    """

    inputs: Path
    outputs: Path
    trials: int
    workers: int
    seed: int
    kind: str = KINDS[0]
    sweep: str = SWEEP
    window: str = WINDOW
    mutant: str = ""
    more: tuple[str, ...] = ()

    @staticmethod
    def write_inputs(folder: Path) -> Path:
        """Write models, rows, the configuration of a second dataset and an empty MLflow database, unless they exist."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "rows.jsonl").exists():
            with quiet():
                save_tiny_bert(folder / "tiny-bert")
                save_tiny_llama(folder / "tiny-llama", folder / "tiny-bert")
            write_rows(folder / "other.jsonl", seed=1)
            (folder / "conf" / "dataset").mkdir(parents=True)
            other = {"source": "files", "name": "other", "path": str(folder / "other.jsonl"), **_SIZES}
            content = "# @package dataset.other\n" + json.dumps(other)  # JSON is YAML
            (folder / "conf" / "dataset" / "other.yaml").write_text(content)
            set_environment()
            prepare_database(f"sqlite:///{OutputsPaths(folder).mlflow_db}")
            write_rows(folder / "rows.jsonl")
        return folder

    def write_rows(self) -> None:
        """Write the rows of the sweep, which are its own, since `edit_data` changes them."""
        shutil.copy(self.inputs / "rows.jsonl", self.rows)

    @property
    def rows(self) -> Path:
        """The file with the rows."""
        return self.outputs.parent / "rows.jsonl"

    @property
    def config_dir(self) -> Path:
        """The folder with the configuration of the second dataset."""
        return self.inputs / "conf"

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the studies."""
        if self.kind == "language_model":
            return (_LANGUAGE_STUDY,)
        return (STUDY, _OTHER_STUDY) if self.kind == "two_datasets" else (STUDY,)

    @property
    def twin(self) -> Workload | None:
        """The sweep that must run beside this one, undisturbed; None if there is none."""
        if self.kind != "shared_mlflow":
            return None
        return dataclasses.replace(self, kind=KINDS[0], sweep=TWIN, trials=self.trials // 2, workers=1, window="")

    @property
    def arguments(self) -> list[str]:
        """The arguments of the command, the same at every start."""
        return ["run", *self.overrides, "--config-dir", str(self.config_dir)]

    @property
    def overrides(self) -> list[str]:
        """Its overrides."""
        dataset = {"path": self.rows, "name": "tiny", **_SIZES}
        settings = {
            "model": "hub",
            **self._model,
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
            "executor.max_retries": 100,  # kills by the suite must not make a trial fail
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
            "name": self.sweep,
            "outputs": self.outputs,
            "cache": self.inputs / "cache",
        }
        datasets = "dataset=[files,other]" if self.kind == "two_datasets" else "dataset=files"
        files = [datasets, *(f"dataset.files.{key}={value}" for key, value in dataset.items())]
        if self.kind == "large_checkpoints":
            settings |= {"executor.checkpoint_file_mb": 0, "store.checkpoint_every_s": _CHECKPOINT_EVERY_S}
        return [*files, *(f"{k}={v}" for k, v in settings.items()), *self.more]

    @property
    def _model(self) -> dict[str, object]:
        if self.kind != "language_model":
            # The losses of two trials differ; their accuracies are often equal, so that any would be the best one.
            return {"model.id": self.inputs / "tiny-bert", "model.name": "tinybert", "task.metric": "loss"}
        template = {"task": "causal_lm", "dataset.files.prompt_template": "'{text} is'"}
        return {"model.id": self.inputs / "tiny-llama", "model.name": "tinyllama", **template}

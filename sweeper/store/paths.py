"""The path of every file of a sweep. Lists folders, but reads and writes no files.

::

    <outputs>/
        mlflow.db  mlartifacts/         MLflow's database and files, unless a server is used
        jobs/<name>.log                 output of a job that cron starts
        <sweep>/
            sweep.json                  resolved settings and provenance, written once
            sweep.backup.json           its copy, which is read if it is damaged
            ledger.json                 what the sweep has spent
            optuna.db                   Optuna's studies, unless another database is used
            health.json                 current problems: disabled workers, aborted studies, a tracker that is behind
            sweep.lock  holder.json     the lock, and its holder
            report.lock                 the lock of the report's files
            sweep.log  logs/            log of the controller; logs of the workers
            sessions/0003.json .md      record and summary of each session
            summary.md                  summary of the latest session
            report.html report.md best.json trials.csv
            studies/<study>/study.json  StudyRecord; study.backup.json is its copy
            studies/<study>/confirmation.json  ConfirmationRecord, once the search is over
            studies/<study>/incoming/0/  large checkpoints that worker 0 has written, until a record refers to them
            studies/<study>/trials/0007/
                trial.json              TrialRecord, with the checksums of its checkpoints
                checkpoint-4.safetensors  checkpoint-5.safetensors
                adapter/                of the last chunk, in PEFT's format
                adapter-chunk-4/        of the best rung, while no later one scores as high
                outcomes-4.safetensors  prediction and loss of each validation row after chunk 4, a rung
                outcomes-test.safetensors  the same of the test rows, of confirmed trials
            final/studies/<study>-all-rows/   what `sweeper train` trained, laid out like studies/<study>; beside it:
                trials/0000/adapter/README.md   the model card
            damaged/<stamp>/            files that `reconcile` moved aside, under their former paths

A hidden name that ends in ``.tmp`` marks an unfinished file: everything is written under such a name first.
"""

from __future__ import annotations

from pathlib import Path

from sweeper.disk.atomic import is_unfinished

__all__ = ["TRIAL_FILE", "OutputsPaths", "SweepPaths", "TrialPaths"]

TRIAL_FILE = "trial.json"
"""Name of a trial's record; the tracker's copy has the same name."""
_SWEEP_FILE = "sweep.json"
_SWEEP_BACKUP = "sweep.backup.json"


class TrialPaths:
    """Files of one trial.

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / TRIAL_FILE
        self.adapter = folder / "adapter"
        self.model_card = self.adapter / "README.md"
        self.test_outcomes = folder / "outcomes-test.safetensors"

    @property
    def number(self) -> int:
        """The trial's number."""
        return int(self.folder.name)

    def checkpoint(self, chunk: int) -> Path:
        """Return the checkpoint taken after ``chunk`` chunks."""
        return self.folder / f"checkpoint-{chunk}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that exist."""
        return sorted(self.folder.glob("checkpoint-*.safetensors"))

    def rung_adapter(self, chunk: int) -> Path:
        """Return the folder of the adapter of the rung after ``chunk`` chunks."""
        return self.folder / f"adapter-chunk-{chunk}"

    def rung_adapters(self) -> list[Path]:
        """Return the folders of rungs' adapters that exist."""
        return sorted(self.folder.glob("adapter-chunk-*"))

    def outcomes(self, chunk: int) -> Path:
        """Return the row outcomes of the rung after ``chunk`` chunks."""
        return self.folder / f"outcomes-{chunk}.safetensors"

    def all_outcomes(self) -> list[Path]:
        """Return the files of row outcomes that exist, those of the test rows included."""
        return sorted(self.folder.glob("outcomes-*.safetensors"))

    def unfinished(self) -> list[Path]:
        """Return the unfinished files and folders that a killed process left."""
        return [path for path in self.folder.glob(".*") if is_unfinished(path)]


class SweepPaths:
    """Files of one sweep.

    Args:
        root: The sweep's folder; its name is the sweep's name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.sweep = self.root / _SWEEP_FILE
        self.sweep_backup = self.root / _SWEEP_BACKUP
        self.ledger = self.root / "ledger.json"
        self.optuna_db = self.root / "optuna.db"
        self.health = self.root / "health.json"
        self.lock = self.root / "sweep.lock"
        self.report_lock = self.root / "report.lock"
        self.holder = self.root / "holder.json"
        self.log = self.root / "sweep.log"
        self.worker_logs = self.root / "logs"
        self.sessions = self.root / "sessions"
        self.summary = self.root / "summary.md"
        self.report = self.root / "report.md"
        self.report_html = self.root / "report.html"
        self.best = self.root / "best.json"
        self.trials_csv = self.root / "trials.csv"
        self.final = self.root / "final"

    def study(self, name: str) -> Path:
        """Return the folder of a study."""
        return self.root / "studies" / name

    def study_record(self, name: str) -> Path:
        """Return the record of a study."""
        return self.study(name) / "study.json"

    def study_backup(self, name: str) -> Path:
        """Return the copy of a study's record."""
        return self.study(name) / "study.backup.json"

    def confirmation(self, name: str) -> Path:
        """Return the record of a study's confirmation."""
        return self.study(name) / "confirmation.json"

    def incoming(self, name: str) -> Path:
        """Return the folder of the checkpoints that workers have written and no record refers to yet."""
        return self.study(name) / "incoming"

    def studies(self) -> list[Path]:
        """Return the existing study folders, readable or not, by name."""
        return sorted(self.root.glob("studies/*"))

    def trial(self, study: str, number: int) -> TrialPaths:
        """Return the files of a trial."""
        return TrialPaths(self.study(study) / "trials" / f"{number:04d}")

    def trials(self, study: str) -> list[TrialPaths]:
        """Return the trials of a study whose folders exist, by number; their records may be missing or damaged."""
        folders = self.study(study).glob("trials/*")
        found = [TrialPaths(folder) for folder in folders if folder.name.isdigit() and folder.is_dir()]
        return sorted(found, key=lambda paths: paths.number)

    def session(self, number: int, suffix: str = ".json") -> Path:
        """Return the record of a session, or its summary with the suffix ``.md``."""
        return self.sessions / f"{number:04d}{suffix}"

    def session_records(self) -> list[Path]:
        """Return the records of sessions that exist, by number."""
        return sorted(self.sessions.glob("[0-9]*.json"))

    def damaged(self, stamp: str, path: Path) -> Path:
        """Return the path to which a damaged file or folder is moved; its former path if that was in the sweep."""
        inside = path.absolute()
        former = inside.relative_to(self.root) if inside.is_relative_to(self.root) else Path(path.name)
        return self.root / "damaged" / stamp / former


class OutputsPaths:
    """Files that the sweeps of one folder share.

    Args:
        root: Folder of all sweeps.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.mlflow_db = self.root / "mlflow.db"
        self.mlflow_artifacts = self.root / "mlartifacts"

    def sweep(self, name: str) -> Path:
        """Return the folder of a sweep."""
        return self.root / name

    def sweeps(self) -> list[SweepPaths]:
        """Return the sweeps that exist, by name."""
        folders = {path.parent for name in (_SWEEP_FILE, _SWEEP_BACKUP) for path in self.root.glob(f"*/{name}")}
        return [SweepPaths(folder) for folder in sorted(folders)]

    def job_log(self, name: str) -> Path:
        """Return the log of a job that cron starts."""
        return self.root / "jobs" / f"{name}.log"

"""Sessions for `crash_points`: small sweeps with real stores, databases and commands, but workers that train nothing.

A session is a process that is forked from one that has imported everything, so it costs a few tenths of a second.
`Bench` owns a folder, in which it restores the start of a scenario and runs sessions under a `DiskShim`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.disk_shim import DiskShim, Fault
from chaos.fork_server import _run_child
from chaos.power_loss import Flushed
from sweeper.config.compose import compose
from sweeper.types import ChunkReport, Failure, FailureKind, Phase, TrialSpec
from tests.doubles import FakeWorker, save_tiny_bert, write_rows

if TYPE_CHECKING:
    from chaos.disk_shim import Operation
    from sweeper.execute.base import Reply, Request, WorkerReady, WorkerSetup

__all__ = ["SCENARIOS", "STUDY", "SWEEP", "Bench", "Ended", "Mutant", "Scenario", "warm_up", "write_inputs"]

SWEEP = "crash"
STUDY = "tiny-tinybert-lora"
NUM_CHUNKS = 2
CHUNK_S = 1.0
"""Device seconds that a chunk of a trial costs."""
_INFEASIBLE, _FAILED = 2, 3
"""The numbers of the trials that end so."""
_PATIENCE_S = 120.0
Mutant = Callable[[], None]
"""Plants a bug: changes the product in the present process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A command whose operations are disturbed.

    Attributes:
        name: Its name in results.
        settings: Overrides beside those that all scenarios share.
        lanes: Trials in a pack.
        reconciles: Whether the command is ``sweeper reconcile`` of a damaged sweep, instead of ``sweeper run``.
        has_cache: Whether the rows are in the cache at the start.
        writes_files: Whether the worker writes checkpoints itself, as it does with large ones.
    """

    name: str
    settings: tuple[str, ...]
    lanes: int
    reconciles: bool = False
    has_cache: bool = True
    writes_files: bool = False


_ALONE = (
    "search=tpe",
    "search.pruner=successive_halving",
    "search.num_startup_trials=2",
    "tracker=none",
    "confirm=none",
    "budget.trials=4",
)
# Proposals of `random` depend on the trial's number alone, so that the order in which trials of a pack end is of no
# consequence, and any disturbed sweep must end like the undisturbed one.
_PACK = ("search=random", "search.pruner=none", "tracker=mlflow", "budget.trials=2")
_FILES = ("search=random", "search.pruner=none", "tracker=none", "budget.trials=2", "executor.checkpoint_file_mb=0")
SCENARIOS = {
    each.name: each
    for each in (
        Scenario(name="alone", settings=_ALONE, lanes=1, has_cache=False),
        Scenario(name="pack", settings=_PACK, lanes=3),
        Scenario(name="files", settings=_FILES, lanes=2, writes_files=True),
        Scenario(name="reconcile", settings=(*_PACK, "store.keep_adapters=0"), lanes=3, reconciles=True),
    )
}
"""One trial after the other, with pruning and an empty cache; packs, with MLflow; packs whose worker writes large
checkpoints itself; the repair of a sweep of packs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a session ended.

    Attributes:
        code: Its exit code; negative after a signal; None if it did not end and was killed.
        output: What it printed.
        operations: What it did to the disk.
        failed: Paths of the operations that the fault made fail.
        reported: Trials as (study, number) whose records it had written, with their numbers of chunks and states; and
            ``charged``, the device seconds in the ledger.
        flushed: What the disk had promised.
        states: Checksums of what a kill or a power failure would have left, if they were asked for.
    """

    code: int | None
    output: str
    operations: list[Operation]
    failed: list[str]
    reported: Mapping[Any, Any]
    flushed: Flushed | None
    states: list[tuple[Operation, str, dict[str, str]]]


class ScriptedWorker:
    """Trains nothing. One configuration is infeasible, another one always fails; files are real safetensors."""

    def __init__(self, _setup: WorkerSetup | None, index: int, *, writes_files: bool = False) -> None:
        self._worker = FakeWorker(
            num_chunks=NUM_CHUNKS,
            rungs=(1, NUM_CHUNKS),
            index=index,
            fails=_failure,
            device_s=CHUNK_S,
            writes_files=writes_files,
        )

    def start(self) -> WorkerReady:
        """Start."""
        return self._worker.start()

    def answer(self, request: Request) -> Reply:
        """Answer a request."""
        reply = self._worker.answer(request)
        if isinstance(reply, ChunkReport):
            adapters = {number: _adapter(number, NUM_CHUNKS) for number in reply.adapters}
            rungs = {number: _adapter(number, reply.measurements[number].chunk) for number in reply.rung_adapters}
            return dataclasses.replace(reply, adapters=adapters, rung_adapters=rungs)
        return reply


class Bench:
    """A folder in which the sessions of a scenario run, one at a time.

    Args:
        folder: The folder; must not exist.
        inputs: The folder that `write_inputs` filled.
        scenario: The scenario.
        mutant: A planted bug.
    """

    def __init__(self, folder: Path, inputs: Path, scenario: Scenario, mutant: Mutant | None = None) -> None:
        self.folder, self.scenario = folder, scenario
        self.disk = folder / "disk"
        self.outputs, self.cache = self.disk / "outputs", self.disk / "cache"
        self._inputs, self.mutant = inputs, mutant
        self._start = folder / "start"
        self._notes, self.log = folder / "notes.pickle", folder / "log"
        # Composing takes half of the time of a session, and is not what is disturbed.
        self._config = compose(self.overrides)
        self._prepare()

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command."""
        dataset = {"path": self._inputs / "rows.jsonl", "name": "tiny", "train_rows": 48, "validation_rows": 30}
        settings = {
            "model": "hub",
            "model.id": self._inputs / "tiny-bert",
            "model.name": "tinybert",
            "model.kind": "encoder",  # `auto` would compose again
            "model.dtype": "float32",
            "model.max_length": 32,
            "train.epochs": NUM_CHUNKS,
            "train.chunks_per_epoch": 1,
            "train.batch_size": 8,
            "train.micro_batch": 8,
            "search.min_chunks": 1,
            "search.recipes": "[{name:default,params:{lora.r:8,train.learning_rate:0.0002}}]",
            "search.references": "[]",
            "executor": "inline",
            "executor.lanes": self.scenario.lanes,
            "executor.max_retries": 1,
            "executor.retry_s": 0.001,
            "executor.min_free_mb": 0,
            "confirm.seeds": 2,
            "confirm.max_seeds": 2,
            "confirm.max_candidates": 2,
            "store.keep_adapters": 1,
            "name": SWEEP,
            "outputs": self.outputs,
            "cache": self.cache,
        }
        files = ["dataset=files", *(f"dataset.files.{key}={value}" for key, value in dataset.items())]
        given = [*files, "dataset.files.test_rows=30", *(f"{key}={value}" for key, value in settings.items())]
        return [*given, *self.scenario.settings]

    @property
    def command(self) -> list[str]:
        """The command that is disturbed and then repeated."""
        return self.reconcile if self.scenario.reconciles else ["run", *self.overrides]

    @property
    def reconcile(self) -> list[str]:
        """The command that repairs the sweep."""
        return ["reconcile", SWEEP, "--outputs", str(self.outputs)]

    def restore(self) -> None:
        """Bring the disk to the start of the scenario."""
        self.replace_disk(self._start)

    def replace_disk(self, source: Path) -> None:
        """Replace the disk with a copy of a folder."""
        shutil.rmtree(self.disk, ignore_errors=True)
        shutil.copytree(source, self.disk)

    def run(
        self,
        command: list[str] | None = None,
        *,
        fault: Fault | None = None,
        watches: bool = False,
        shimmed: bool = True,
    ) -> Ended:
        """Run a session until it ends.

        Args:
            command: The command; that of the scenario if None.
            fault: What to inject.
            watches: Whether `Ended.states` is filled.
            shimmed: Whether operations are recorded.
        """
        self._notes.unlink(missing_ok=True)
        self.log.write_bytes(b"")
        words = command or self.command
        code = fork(lambda: self.session(words, fault, watches=watches, shimmed=shimmed), self.log)
        seen = pickle.loads(self._notes.read_bytes()) if self._notes.exists() else {}  # noqa: S301  written by us
        return Ended(
            code=code,
            output=self.log.read_text(errors="replace"),
            operations=seen.get("operations", []),
            failed=seen.get("failed", []),
            reported=seen.get("reported", {}),
            flushed=seen.get("flushed"),
            states=seen.get("states", []),
        )

    def call(self, work: Callable[[], Any]) -> Any:
        """Call a function in a forked process, so that this one opens no database, and return its result."""
        result = self.folder / "result.pickle"
        result.unlink(missing_ok=True)
        code = fork(lambda: result.write_bytes(pickle.dumps(work())), self.log)
        if code != 0:
            raise RuntimeError(f"exit code {code}: {self.log.read_text()}")
        return pickle.loads(result.read_bytes())  # noqa: S301  written by us

    def session(
        self, words: list[str], fault: Fault | None = None, *, watches: bool = False, shimmed: bool = False
    ) -> None:
        """Run the command line in this process."""
        import sweeper.sweep.factory
        import sweeper.sweep.run
        from sweeper.cli import main

        make = functools.partial(ScriptedWorker, writes_files=self.scenario.writes_files)
        setattr(sweeper.sweep.factory, "make_worker", make)  # noqa: B010  mypy knows it as a function
        setattr(sweeper.sweep.run, "compose", lambda *_, **__: copy.deepcopy(self._config))  # noqa: B010
        sys.argv = ["sweeper", *words]
        if not shimmed:
            main()
            return
        shim = DiskShim(self.disk, self._notes, fault, watches=watches)
        shim.install()
        _note_what_is_saved(shim)
        if self.mutant is not None:
            self.mutant()
        try:
            main()
        finally:
            shim.save()

    def _prepare(self) -> None:
        """Make the state at the start of the scenario."""
        self.outputs.mkdir(parents=True)
        self.cache.mkdir()
        shutil.copyfile(self._inputs / "mlflow.db", self.outputs / "mlflow.db")
        if self.scenario.has_cache:
            ended = self.run(["run", *self.overrides], shimmed=False)
            assert ended.code == 0, ended.output
            if self.scenario.reconciles:
                self.call(self._damage)
            else:
                shutil.rmtree(self.outputs)
                self.outputs.mkdir()
                shutil.copyfile(self._inputs / "mlflow.db", self.outputs / "mlflow.db")
        shutil.copytree(self.disk, self._start)

    def _damage(self) -> None:
        from chaos.crash_damage import damage_sweep

        damage_sweep(self.outputs / SWEEP)


def fork(work: Callable[[], Any], log: Path) -> int | None:
    """Call a function in a forked process; return its exit code, or None if it had to be killed."""
    pid = os.fork()
    if not pid:
        os.setsid()
        os.chdir(log.parent)
        _run_child(work, os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND))
    end = time.monotonic() + _PATIENCE_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def write_inputs(folder: Path) -> None:
    """Write the model, the rows and an empty MLflow database; in a process of its own, since it opens databases."""
    from sweeper.track.mlflow import prepare_database, set_environment

    set_environment()
    save_tiny_bert(folder / "tiny-bert")
    write_rows(folder / "rows.jsonl")
    prepare_database(f"sqlite:///{folder / 'mlflow.db'}")


def warm_up(bench: Bench) -> None:
    """Run a session and a repair in this process, so that those that it forks find everything imported and cached.

    Afterwards, this process must again have one thread and no open database.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    from sweeper.track.mlflow import set_environment

    set_environment()
    tqdm.monitor_interval = 0  # a thread that only watches progress bars
    words_before = sys.argv
    with (
        bench.log.open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        for words in (["run", *bench.overrides], [*bench.reconcile, "--dry-run"]):
            with contextlib.suppress(SystemExit):
                bench.session(words)
    sys.argv = words_before
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    while SqlAlchemyStore._engine_map:
        SqlAlchemyStore._engine_map.popitem()[1].dispose()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()


def _note_what_is_saved(shim: DiskShim) -> None:
    """Note each trial and charge that the session knows to be saved, since it must survive anything from then on."""
    from sweeper.store.ledger import Ledger
    from sweeper.store.trials import TrialStore

    write_trial, charge = TrialStore.write_trial, Ledger.charge

    def noted_trial(store: TrialStore, record: Any, *args: Any, **more: Any) -> None:
        write_trial(store, record, *args, **more)
        shim.reported[record.spec.study, record.spec.number] = (record.chunks_done, record.state.value)

    def noted_charge(ledger: Ledger, cost: Any) -> None:
        charge(ledger, cost)
        shim.reported["charged"] = ledger.cost.device_s

    setattr(TrialStore, "write_trial", noted_trial)  # noqa: B010  mypy knows it as a method
    setattr(Ledger, "charge", noted_charge)  # noqa: B010


def _failure(spec: TrialSpec, chunk: int) -> Failure | None:
    if spec.phase is not Phase.SEARCH or chunk != NUM_CHUNKS:
        return None
    if spec.number == _INFEASIBLE:
        return Failure(kind=FailureKind.NON_FINITE, message="the loss became NaN")
    return Failure(kind=FailureKind.ERROR, message="a bug in the task") if spec.number == _FAILED else None


def _adapter(number: int, chunk: int) -> dict[str, bytes]:
    import numpy as np
    from safetensors.numpy import save

    return {"adapter_config.json": b"{}", "adapter_model.safetensors": save({"weights": np.array([number, chunk])})}

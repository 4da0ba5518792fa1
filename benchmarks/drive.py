"""Drives a training worker without controller, store or tracker, to measure the engine alone.

The worker has its own process, which reads commands as JSON lines from its standard input, so that two workers can run
in parallel. `Driver` is the client. All lanes train `CONFIGURATION`, unless a command names others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import LinearShape, forward_and_backward_flops, product_flops
from benchmarks.record import Row
from sweeper.execute.process import worker_environment

__all__ = ["Driver", "main"]

CONFIGURATION: Mapping[str, Any] = {
    "lora.r": 8,
    "lora.alpha_ratio": 2.0,
    "lora.dropout": 0.1,
    "train.learning_rate": 1e-3,
}
_COUNTED = "bert"
"""The only type of model whose operations are counted."""


class Driver:
    """A worker in its own process.

    Args:
        opening: Arguments of `_Worker`. ``cuda`` is its device as in CUDA_VISIBLE_DEVICES, empty for the CPU.
        scratch: Folder for its output.
    """

    def __init__(self, opening: Mapping[str, Any], scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._errors = scratch / f"driver-{time.monotonic_ns()}.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.drive"],
                env=worker_environment(str(opening.get("cuda", "")), int(opening["threads"])),
                cwd=scratch,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.send(opening)
        self.receive()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a command without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Row:
        """Return the answer to the last command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver exited:\n{self._errors.read_text(encoding='utf-8')[-3000:]}")
        answer: Row = json.loads(line)
        return answer


class _Worker:
    """The worker in the driven process; its public methods are the commands."""

    def __init__(
        self,
        *,
        dataset: str,
        cache: str,
        threads: int,
        overrides: Sequence[str] = (),
        dtype: str = "auto",
        cuda: str = "",
    ) -> None:
        from benchmarks.inputs import load_inputs
        from sweeper.execute.base import WorkerSetup
        from sweeper.train import make_worker

        self._inputs = load_inputs(dataset, Path(cache), overrides)
        settings = self._inputs.config.settings
        settings.model.dtype = dtype
        setup = WorkerSetup(
            model=settings.model,
            model_dir=self._inputs.model_dir,
            cache=Path(cache),
            device="cuda" if cuda else "cpu",
            threads=threads,
        )
        self._worker: Any = make_worker(setup, 0)
        self.notes = self._worker.start().notes
        self._num_chunks = self._inputs.plan.record.num_chunks
        self._lengths = list(self._inputs.rows.train["length"])
        self._padded = self._inputs.padded_lengths()
        self._next = 0
        self._rungs: tuple[int, ...] | None = None
        self._held: tuple[int, ...] = ()

    def train(self, *, lanes: int, chunks: int) -> Row:
        """Train new lanes for some chunks, without evaluation; return time, rows, tokens and, for BERT, operations."""
        from sweeper.types import ChunkRequest

        self._open(rungs=())
        request = ChunkRequest(admit=self._admissions([dict(CONFIGURATION)] * lanes, seed=0), evict=self._held)
        self._held = tuple(admission.spec.number for admission in request.admit)
        measured: list[Row] = []
        reset_peak()
        for _ in range(chunks):
            started = time.perf_counter()
            report = self._worker.answer(request)
            elapsed_s = time.perf_counter() - started
            _check(report)
            request = ChunkRequest()
            measured.append(
                {
                    "elapsed_s": elapsed_s,
                    "rows": sum(cost.rows for cost in report.costs.values()),
                    "tokens": sum(cost.tokens for cost in report.costs.values()),
                }
            )
            if self._model_config()["model_type"] == _COUNTED:
                performed = {"flops_needed": self._needed_flops(), "flops_performed": self._flops(self._padded)}
                measured[-1] |= {name: lanes * flops for name, flops in performed.items()}
        return {"chunks": measured, "tokens_per_step": self._rows_per_step(lanes), "peak_bytes": peak_bytes()}

    def profile(self, *, ranks: Sequence[int]) -> Row:
        """Train a lane of each rank; return the time of a chunk, and that of its operators by kind."""
        from benchmarks.operators import KINDS, OperatorTimes
        from sweeper.types import ChunkRequest

        self._open(rungs=())
        configurations = [dict(CONFIGURATION) | {"lora.r": rank} for rank in ranks]
        self._replace_lanes(configurations)
        started = time.perf_counter()
        _check(self._worker.answer(ChunkRequest()))
        elapsed_s = time.perf_counter() - started
        self._replace_lanes(configurations)
        with OperatorTimes(len(ranks)) as times:
            report = self._worker.answer(ChunkRequest())
        _check(report)
        return {
            "kinds": {kind: {"seconds": times.seconds[kind], "calls": times.calls[kind]} for kind in KINDS},
            "elapsed_s": elapsed_s,
            "rows": sum(cost.rows for cost in report.costs.values()),
        }

    def _replace_lanes(self, configurations: Sequence[Mapping[str, Any]]) -> None:
        """Replace all lanes by new ones and train their first chunk, in which products are compiled."""
        from sweeper.types import ChunkRequest

        admitted = self._admissions(configurations, seed=0)
        _check(self._worker.answer(ChunkRequest(admit=admitted, evict=self._held)))
        self._held = tuple(admission.spec.number for admission in admitted)

    def products(self, *, lanes: int, seconds: float) -> Row:
        """Return the rate of plain matrix products in the engine's shapes and number type, one after the other."""
        import torch

        dtype = torch.bfloat16 if self.notes[0].split(": ")[1].startswith("bfloat16") else torch.float32
        num_rows = int(self._rows_per_step(lanes))
        layers = [layer for layer in self._layers() if not layer.first_token_only]
        weights = [torch.randn(layer.num_out, layer.num_in).to(dtype) for layer in layers]
        inputs = {size: torch.randn(num_rows, size).to(dtype) for layer in layers for size in layer_sizes(layer)}
        flops, started, rounds = sum(product_flops(layer, num_rows) for layer in layers), time.perf_counter(), 0
        while time.perf_counter() - started < seconds or rounds == 0:
            for layer, weight in zip(layers, weights, strict=True):
                torch.mm(inputs[layer.num_in], weight.T)
                if layer.needs_input_gradient:
                    torch.mm(inputs[layer.num_out], weight)
            rounds += 1
        elapsed_s = time.perf_counter() - started
        return {"flops": flops * rounds, "elapsed_s": elapsed_s, "dtype": str(dtype).removeprefix("torch.")}

    def trials(self, *, configurations: Sequence[Mapping[str, Any]], seed: int, lanes: int) -> Row:
        """Train complete trials in packs, and return their final validation accuracies."""
        from sweeper.types import ChunkRequest

        self._open(rungs=(self._num_chunks,))
        scores: list[float] = []
        for first in range(0, len(configurations), lanes):
            request = ChunkRequest(admit=self._admissions(configurations[first : first + lanes], seed=seed))
            numbers = [admission.spec.number for admission in request.admit]
            for _ in range(self._num_chunks):
                report = self._worker.answer(request)
                _check(report)
                request = ChunkRequest()
            scores += [report.measurements[number].metrics["validation/accuracy"] for number in numbers]
        return {"scores": scores}

    def _open(self, rungs: tuple[int, ...]) -> None:
        """Open the study with these rungs, which takes seconds, unless it is already open with them."""
        if rungs != self._rungs:
            self._worker.answer(replace(self._inputs.plan.opening, rungs=rungs))
            self._rungs, self._held = rungs, ()

    def _admissions(self, configurations: Sequence[Mapping[str, Any]], *, seed: int) -> tuple[Any, ...]:
        from sweeper.config.hyperparameters import Hyperparameters
        from sweeper.types import Admission, TrialTemplate

        defaults = Hyperparameters.of(self._inputs.config.settings)
        template = TrialTemplate(study="bench", defaults=defaults, seed=seed)
        first = self._next
        self._next += len(configurations)
        specs = (template.spec(number, params, "bench") for number, params in enumerate(configurations, start=first))
        return tuple(Admission(spec=spec) for spec in specs)

    def _rows_per_step(self, lanes: int) -> float:
        """Return the padded tokens of an average step, which are the rows of its products."""
        return lanes * self._inputs.plan.record.micro_batch * sum(self._padded) / len(self._padded)

    def _needed_flops(self) -> float:
        """Return the operations of an average chunk of a lane; each chunk is a stratified part of the training rows."""
        return len(self._padded) / len(self._lengths) * self._flops(self._lengths)

    def _flops(self, lengths: Sequence[int]) -> float:
        config = self._model_config()
        return forward_and_backward_flops(
            self._layers(),
            lengths,
            rank=int(CONFIGURATION["lora.r"]),
            num_blocks=config["num_hidden_layers"],
            width=config["hidden_size"],
        )

    def _layers(self) -> list[LinearShape]:
        """Return the adapted layers of a BERT classifier in order."""
        config = self._model_config()
        if config["model_type"] != _COUNTED:
            raise ValueError(f"operations are counted for BERT encoders, not for {config['model_type']}")
        width, inner = config["hidden_size"], config["intermediate_size"]
        sizes = {
            "query": (width, width),
            "key": (width, width),
            "value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (width, inner),
            "output.dense": (inner, width),
        }
        last = config["num_hidden_layers"] - 1
        return [
            LinearShape(
                *size,
                needs_input_gradient=block > 0 or not re.fullmatch("query|key|value", name),
                first_token_only=block == last and name not in {"key", "value"},
            )
            for block in range(last + 1)
            for name, size in sizes.items()
        ]

    def _model_config(self) -> Row:
        config: Row = json.loads((self._inputs.model_dir / "config.json").read_text(encoding="utf-8"))
        return config


def reset_peak() -> None:
    """Begin to measure the most memory that is in use on the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Return the most memory that was in use on the device since `reset_peak`; 0 on a CPU."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


def layer_sizes(layer: LinearShape) -> tuple[int, int]:
    """Return both widths of a layer."""
    return layer.num_in, layer.num_out


def _check(report: Any) -> None:
    failures = getattr(report, "failures", None)
    if failures is None or failures:
        raise RuntimeError(f"the worker failed: {failures or report}")


def main() -> None:
    """Answer the commands from standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not mix with answers
    worker = _Worker(**json.loads(sys.stdin.readline()))
    answers.write(json.dumps({"notes": worker.notes}) + "\n")
    answers.flush()
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

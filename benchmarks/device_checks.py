"""The checks of `gpu_check`, each run as a process: ``python -m benchmarks.device_checks --device cuda ladder``.

A check prints its rows as they are measured, and its verdict at the end. All models are random, so none is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks.record import Row
from sweeper.figures.text import plural
from sweeper.models.device_choice import PADDED_SDPA, choose_attention, choose_dtype, type_name

__all__ = ["CHECKS", "NotRun", "Options", "main"]

ROOT = Path(__file__).resolve().parents[1]
_CPU = torch.device("cpu")
_EXACT = 1e-3
"""Largest relative difference of a loss in float32 between devices or packs, after up to 20 micro-batches."""
_ROUGH = 0.05
"""The same in bfloat16 and float16, of the mean loss of a chunk at high learning rates."""
_ROUNDINGS = 4.0
"""Largest error of a kernel that rounds once, as its reference does."""
_CHUNKS = 4


class NotRun(Exception):  # noqa: N818  it is no error
    """The check cannot be made here, and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a check runs."""

    device: torch.device
    emit: Callable[[Row], None]
    """Called with each row of the report."""
    short: bool = False
    """The smallest sizes."""


# The device.


def check_device(options: Options) -> str:
    """Compute on the device, with each number type, and copy the result back."""
    if not torch.cuda.is_available():
        raise AssertionError(
            f"the NVIDIA driver reports a device, but torch {torch.__version__} cannot use it. It needs a build "
            f"for CUDA ({torch.version.cuda or 'this one is for CPUs'}) that the driver supports"
        )
    for index in range(torch.cuda.device_count()):
        torch.cuda.set_device(index)
        properties = torch.cuda.get_device_properties(index)
        for dtype in (torch.float32, torch.float16, *_bfloat16(options.device)):
            one = torch.randn(256, 256, device="cuda").to(dtype)
            error = ((one @ one).float().cpu() - one.float().cpu() @ one.float().cpu()).abs().max().item()
            options.emit({"device": properties.name, "type": type_name(dtype), "largest error of a product": error})
            assert error < (1e-2 if dtype is torch.float32 else 1.0), f"a product in {dtype} is off by {error:.3g}"
    chosen = choose_dtype("auto", options.device)[1], choose_attention("auto", options.device)[1]
    return f"torch {torch.__version__} for CUDA {torch.version.cuda}; sweeper chooses {'; '.join(chosen)}"


def _bfloat16(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return bfloat16 if a GPU computes in it; `sweeper` does not use it on others."""
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return (torch.bfloat16,) if has_it else ()


def check_tests(options: Options) -> str:
    """Run the tests marked gpu with pytest, one row for each."""
    import subprocess

    if options.device.type != "cuda":
        raise NotRun("no CUDA device")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tests.xml"
        command = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={path}"]
        done = subprocess.run(  # noqa: S603  our own tests
            [sys.executable, *command, f"--basetemp={folder}/tests"], cwd=ROOT, stdout=sys.stderr, check=False
        )
        if not path.exists():
            raise AssertionError(f"pytest exited with code {done.returncode} and no results")
        rows = list(_test_rows(path))
    for row in rows:
        options.emit(row)
    failed = [row["test"] for row in rows if row["result"] == "failed"]
    assert not failed, f"failed: {', '.join(failed)}"
    assert rows, "pytest found no test with the mark gpu"
    return f"{plural(len(rows), 'test')}, of which {sum(row['result'] == 'skipped' for row in rows)} skipped"


def _test_rows(path: Path) -> Iterator[Row]:
    """Yield name, result and reason of each test of a JUnit file."""
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314  pytest has just written it
        found = next((child for child in case if child.tag in {"failure", "error", "skipped"}), None)
        kind = "passed" if found is None else "skipped" if found.tag == "skipped" else "failed"
        why = "" if found is None else str(found.get("message", ""))[:300]
        yield {"test": case.get("name"), "result": kind, "why": why, "s": float(case.get("time", 0))}


# Parity.


@dataclass(frozen=True, slots=True)
class _Case:
    """A tiny random model in a pack, with its rows."""

    name: str
    build: Callable[[torch.device, torch.dtype], tuple[Any, Any, Any]]
    """Returns pack, rows and loss for a device and a number type."""


def _cases() -> list[_Case]:
    def classifier(kind: str) -> _Case:
        def build(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
            from sweeper.models.first_token import read_first_token
            from sweeper.train.pack import Pack
            from tests.train.tiny import Data, build_model, layers_of, row_loss

            model = build_model(kind).to(device, dtype)
            _set_attention(model, device, dtype)
            read_first_token(model)
            targets, head = layers_of(model)
            return Pack(model, targets=targets, head=head, dtype=dtype), Data(device=device).rows, row_loss

        return _Case(f"{kind}, classifier", build)

    def language(kind: str, *, is_checkpointed: bool = False) -> _Case:
        def build(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
            from sweeper.models.checkpointing import checkpoint_blocks
            from sweeper.models.fused import fuse_operations
            from sweeper.tasks.causal_lm import Task
            from sweeper.train.pack import Pack
            from tests.tasks.languages import language_model
            from tests.train.languages import targets_of

            model = language_model(kind).to(device, dtype)
            _set_attention(model, device, dtype)
            if device.type != "cpu":
                fuse_operations(model)
            if is_checkpointed:
                checkpoint_blocks(model)
            pack = Pack(model, targets=targets_of(model), head=[], dtype=dtype)
            return pack, _language_rows(device), Task().row_loss

        return _Case(f"{kind}, language model{', checkpointed' if is_checkpointed else ''}", build)

    kinds = [classifier("bert"), classifier("roberta"), language("llama"), language("qwen3")]
    return [*kinds, language("llama", is_checkpointed=True)]


def _set_attention(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Use the attention kernel that `sweeper` would choose."""
    chosen, _ = choose_attention("auto", device, dtype)
    if chosen == PADDED_SDPA:
        from sweeper.models import padded_attention

        padded_attention.register()
        model.set_attn_implementation(chosen)


def _language_rows(device: torch.device) -> Any:
    from sweeper.train.batches import TrainingRows
    from sweeper.train.chunks import ChunkPlan
    from tests.tasks.languages import END, pairs
    from tests.train.languages import examples_of

    plan = ChunkPlan.of(100, micro_batch=4, chunks_per_epoch=5, epochs=2)
    return TrainingRows(examples_of(pairs(100)), plan, seed=7, pad_token_id=END, device=device)


def _trials() -> list[Any]:
    """Return eight trials that differ in everything that a trial may differ in; with dropout."""
    from tests.train.tiny import specs

    return specs(**{"lora.dropout": 0.1})


def _losses(case: _Case, device: torch.device, dtype: torch.dtype, trials: Sequence[Any]) -> dict[int, list[float]]:
    """Train trials in one pack, and return the losses of the chunks of each by its number."""
    from tests.train.tiny import start

    pack, rows, row_loss = case.build(device, dtype)
    lanes = start(pack, trials)
    chunks = [pack.train_chunk(lanes, rows, row_loss) for _ in range(_CHUNKS)]
    return {lane.spec.number: [chunk[place].loss for chunk in chunks] for place, lane in enumerate(lanes)}


def _difference(one: dict[int, list[float]], other: dict[int, list[float]]) -> float:
    """Return the largest relative difference of a loss; infinite if one is not finite."""
    pairs = [(a, b) for number, losses in other.items() for a, b in zip(one[number], losses, strict=True)]
    differences = [abs(a - b) / abs(b) for a, b in pairs]
    return max(d if math.isfinite(d) else math.inf for d in differences)


def _dtypes(device: torch.device) -> list[torch.dtype]:
    return list(dict.fromkeys([torch.float32, choose_dtype("auto", device)[0]]))


def check_device_parity(options: Options) -> str:
    """Train the same pack on the device and on the CPU."""

    def both(case: _Case, dtype: torch.dtype, trials: Sequence[Any]) -> tuple[Any, Any]:
        # The CPU comes first: its model of an architecture must not have the fused operations of the device's.
        expected = _losses(case, _CPU, torch.float32, trials)
        return _losses(case, options.device, dtype, trials), expected

    return _compare(options, "difference from the CPU", both)


def check_pack_parity(options: Options) -> str:
    """Train trials in a pack, and some of them alone."""

    def both(case: _Case, dtype: torch.dtype, trials: Sequence[Any]) -> tuple[Any, Any]:
        alone: dict[int, list[float]] = {}
        for trial in trials[::3]:
            alone |= _losses(case, options.device, dtype, [trial])
        return _losses(case, options.device, dtype, trials), alone

    return _compare(options, "difference from alone", both)


def _compare(options: Options, what: str, both: Callable[[_Case, torch.dtype, Sequence[Any]], tuple[Any, Any]]) -> str:
    cases, trials = _cases(), _trials()
    too_far: list[str] = []
    for case in cases[:1] if options.short else cases:
        for dtype in _dtypes(options.device):
            difference = _difference(*both(case, dtype, trials))
            limit = _EXACT if dtype is torch.float32 else _ROUGH
            options.emit({"model": case.name, "type": type_name(dtype), what: difference, "limit": limit})
            if not difference <= limit:
                too_far.append(f"{case.name} in {type_name(dtype)}: {difference:.3g} > {limit:g}")
    assert not too_far, "; ".join(too_far)
    return f"{plural(len(trials), 'trial')} with dropout, the losses of {_CHUNKS} chunks each"


def check_quantised(options: Options) -> str:
    """Train a pack on a quantised base, and one on a base whose weights are what the quantised ones stand for."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotRun("bitsandbytes is not installed (pip install 'lora-sweeper[quantization]')")
    too_far = []
    for bits in ("nf4", "int8"):
        pairs = [_quantised_losses(options.device, bits, is_plain=is_plain) for is_plain in (False, True)]
        difference = _difference(*pairs)
        options.emit({"base": bits, "difference from dequantised weights": difference, "limit": _EXACT})
        if not difference <= _EXACT:
            too_far.append(f"{bits}: {difference:.3g} > {_EXACT:g}")
    assert not too_far, "; ".join(too_far)
    return "in float32"


def _quantised_losses(device: torch.device, bits: str, *, is_plain: bool) -> dict[int, list[float]]:
    from sweeper.models.load import load_model
    from sweeper.models.quantised_linear import QuantisedLinear
    from sweeper.tasks.causal_lm import Task
    from sweeper.train.pack import Pack
    from tests.tasks.languages import language_model
    from tests.train.languages import targets_of

    with tempfile.TemporaryDirectory() as folder:
        language_model("llama").save_pretrained(folder)
        where: dict[str, Any] = {"kind": "causal_lm", "num_labels": 0, "dtype": torch.float32, "attention": "eager"}
        plain: Any = load_model(Path(folder), device=device, **where)
        quantised: Any = load_model(Path(folder), device=device, quantization=bits, **where)
    targets = targets_of(plain)
    held = {name: module for name, module in quantised.named_modules() if isinstance(module, QuantisedLinear)}
    assert held.keys() >= set(targets), "not all adapted layers were quantised"
    if is_plain:
        for name, module in held.items():
            plain.get_submodule(name).weight.copy_(module.frozen.dequantised())
    case = _Case(
        bits,
        lambda device, dtype: (
            Pack(plain if is_plain else quantised, targets=targets, head=[], dtype=dtype),
            _language_rows(device),
            Task().row_loss,
        ),
    )
    return _losses(case, device, torch.float32, _trials())


def check_triton(options: Options) -> str:
    """Compare the Triton kernels with the reference, dropout bit by bit; on a CPU in Triton's interpreter."""
    import importlib.util

    if importlib.util.find_spec("triton") is None:
        raise NotRun("triton is not installed; it comes with PyTorch's builds for CUDA on Linux")
    on_gpu = options.device.type == "cuda"
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before it is imported
    from sweeper.kernels import operators, triton_kernels

    fast: Any = triton_kernels  # not checked

    # Triton's interpreter cuts bfloat16 off instead of rounding it.
    dtypes = (torch.float32, torch.float16, *_bfloat16(options.device))
    seeds = torch.tensor([5, -(1 << 62), 1 << 61])
    levels = torch.tensor([256, 128, 30], dtype=torch.int32)
    wrong, too_far = 0, list[str]()
    for dtype in dtypes:
        for first, count in ((0, 4096 + 40), (13, 1001), (2048 * 3 + 5, 7), *(((0, 1 << 22),) if on_gpu else ())):
            x = torch.randn(3, count).to(dtype)
            on_device = [tensor.to(options.device) for tensor in (x, seeds, levels)]
            differing = 0
            for scale in (1.0, 1 / 0.9):
                found = fast.drop(*on_device, -(1 << 62) + 77, first, scale)
                differing += int((found.cpu() != operators.drop(x, seeds, levels, -(1 << 62) + 77, first, scale)).sum())
            into = torch.ones_like(x)
            added = fast.add_dropped_(into.to(options.device), *on_device, 77, first)
            differing += int((added.cpu() != operators.add_dropped_(into, x, seeds, levels, 77, first)).sum())
            row: Row = {"kernel": "drop", "type": type_name(dtype), "values": count, "from": first}
            options.emit({**row, "differing values": differing})
            wrong += differing
        for kernel, error in _fused_errors(fast, dtype, options.device).items():
            options.emit({"kernel": kernel, "type": type_name(dtype), "largest error, in roundings": error})
            too_far += [f"{kernel} in {type_name(dtype)}: {error:.3g} roundings"] if not error <= _ROUNDINGS else []
    assert not wrong, f"{wrong} values differ"
    assert not too_far, "; ".join(too_far)
    return "dropout equal bit by bit, the others up to rounding"


def _fused_errors(fast: Any, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Return the largest error of each other kernel, in roundings of the largest value of the reference's result."""
    # As in a model: queries and keys are columns of one product, gates and values of another.
    draw = torch.Generator().manual_seed(0)
    query, key = (
        part.unflatten(-1, (-1, 24)).transpose(1, 2)
        for part in torch.randn(2, 37, 6 * 24, generator=draw).to(dtype).split([4 * 24, 2 * 24], -1)
    )
    angles = torch.randn(1, 37, 12, generator=draw).repeat(1, 1, 2)
    gates, values = torch.randn(2, 37, 2 * 1100, generator=draw).to(dtype).split(1100, -1)
    grad = torch.randn(2, 37, 1100, generator=draw).to(dtype)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    library: Any = torch.ops.sweeper
    arguments: dict[str, Any] = {
        "rotate": (query, key, cos, sin, -1.0),
        "gate": (gates, values),
        "gate_backward": (grad, gates, values),
    }
    errors = {}
    for name, given in arguments.items():
        there = [one.to(device) if isinstance(one, torch.Tensor) else one for one in given]
        found, expected = getattr(fast, name)(*there), getattr(library, name)(*given)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        off = [(one.cpu().float() - other.float()).abs().max() / other.float().abs().max() for one, other in pairs]
        errors[name] = float(max(off)) / torch.finfo(dtype).eps
    return errors


# Memory.


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A pack, trials for it, and what they are trained on."""

    pack: Any
    rows: Any
    row_loss: Any
    trials: Sequence[Any]


def _load_lanes(device: torch.device, *, width: int, blocks: int, length: int, micro_batch: int, lanes: int) -> _Loaded:
    """Load a random Llama, and trials of it with dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from sweeper.tasks.base import Examples
    from sweeper.tasks.causal_lm import Task
    from sweeper.train.batches import TrainingRows
    from sweeper.train.chunks import ChunkPlan
    from sweeper.train.pack import Pack
    from tests.train.languages import targets_of

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=length,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False).to(device)
    _set_attention(model, device, torch.float32)
    num_rows = 2 * micro_batch
    ids = torch.randint(3, 512, (num_rows, length)).tolist()
    half = length // 2
    examples = Examples(ids, [[half, -1]] * num_rows, [float(length - half)] * num_rows, [[(half, length)]] * num_rows)
    plan = ChunkPlan.of(num_rows, micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
    rows = TrainingRows(examples, plan, seed=0, pad_token_id=0, device=device)
    pack = Pack(model, targets=targets_of(model), head=[], dtype=torch.float32)
    return _Loaded(pack, rows, Task().row_loss, _trials()[:lanes])


def check_ladder(options: Options) -> str:
    """Limit the memory that PyTorch may take on the device, more and more."""
    if options.device.type != "cuda":
        raise NotRun("no CUDA device")
    # At full size a chunk takes gigabytes, so that the limits differ by more than PyTorch's blocks.
    width, length = (128, 64) if options.short else (512, 128)
    loaded = _load_lanes(options.device, width=width, blocks=4, length=length, micro_batch=16, lanes=8)
    total = torch.cuda.get_device_properties(options.device).total_memory
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated(options.device)
    torch.cuda.reset_peak_memory_stats(options.device)
    reference = _ladder_step(loaded, loaded.row_loss)
    peak = torch.cuda.max_memory_allocated(options.device)

    @contextlib.contextmanager
    def limited(share: float) -> Iterator[tuple[str, Any]]:
        torch.cuda.empty_cache()
        limit = base + share * (peak - base)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), options.device)
        try:
            yield f"{limit / 2**20:.0f} of {peak / 2**20:.0f} MiB", loaded.row_loss
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, options.device)

    # Under the last one a trial may still fit into blocks that PyTorch holds for the model.
    return _climb(options, loaded, reference, limited, (0.6, 0.3, 0.1, 0.03, 0.01, 0.0))


def check_simulated_ladder(options: Options) -> str:
    """Raise PyTorch's error for passes above a number of tokens, less and less."""
    loaded = _load_lanes(options.device, width=32, blocks=2, length=16, micro_batch=4, lanes=4)
    largest = loaded.rows.largest_pass(len(loaded.trials))

    @contextlib.contextmanager
    def limited(share: float) -> Iterator[tuple[str, Any]]:
        limit = int(share * largest)

        def loss(model: Any, batch: Any) -> Any:
            if batch.ids.numel() > limit:
                raise torch.OutOfMemoryError(f"more than {limit} tokens")
            return loaded.row_loss(model, batch)

        yield f"{limit} of {plural(largest, 'token')}", loss

    reference = _ladder_step(loaded, loaded.row_loss)
    saw = _climb(options, loaded, reference, limited, (0.6, 0.3, 1 / 8, 1 / 16))
    with limited(0.0) as (_, row_loss):
        trained = _ladder_step(loaded, row_loss)["losses"]
    assert not trained, "a trial trained although no pass fits"
    return saw


def _ladder_step(loaded: _Loaded, row_loss: Any) -> Row:
    """Train a chunk of fresh lanes with the fallback; return what it did, and the losses."""
    from sweeper.train.out_of_memory import OutOfMemoryFallback
    from tests.train.tiny import start

    lanes = start(loaded.pack, loaded.trials)
    fallback = OutOfMemoryFallback(device=loaded.pack.device.type)
    attempts = []

    def work(group: Sequence[Any], tokens: int) -> Any:
        attempts.append((len(group), loaded.rows.largest_pass(len(group), tokens)))
        return loaded.pack.train_chunk(group, loaded.rows, row_loss, tokens_per_pass=tokens)

    results, failures = fallback.run(lanes, work, loaded.rows)
    return {
        "losses": {number: [result.loss] for number, result in results.items()},
        "failures": {number: failure.kind.value for number, failure in failures.items()},
        "attempts": attempts,
    }


def _climb(options: Options, loaded: _Loaded, reference: Row, limited: Any, shares: Sequence[float]) -> str:
    """Train under smaller and smaller limits, then without one; check what came out each time."""
    from sweeper.types import FailureKind

    assert not reference["failures"], f"without a limit: {reference['failures']}"
    wrong: list[str] = []
    seen: list[tuple[int, int]] = []
    for share in shares:
        with limited(share) as (limit, row_loss):
            step = _ladder_step(loaded, row_loss)
        difference = _difference(reference["losses"], step["losses"]) if step["losses"] else 0.0
        smallest = min(step["attempts"])
        options.emit(
            {
                "limit": limit,
                "attempts": len(step["attempts"]),
                "fewest lanes": smallest[0],
                "smallest pass, tokens": min(tokens for _, tokens in step["attempts"]),
                "trained": len(step["losses"]),
                "infeasible": len(step["failures"]),
                "difference of losses": difference,
            }
        )
        seen.append((len(step["attempts"]), len(step["losses"])))
        kinds = set(step["failures"].values()) - {FailureKind.OUT_OF_MEMORY.value}
        if kinds:
            wrong.append(f"{limit}: trials failed with {', '.join(sorted(kinds))}")
        if not difference <= _EXACT:
            wrong.append(f"{limit}: losses differ by {difference:.3g}")
    after = _ladder_step(loaded, loaded.row_loss)
    if after["failures"] or not _difference(reference["losses"], after["losses"]) <= _EXACT:
        wrong.append("without a limit again, the trials do not end as before")
    if seen[0][0] < 2 or seen[0][1] < len(loaded.trials):
        wrong.append("the first limit did not make all trials train in smaller passes or groups")
    assert not wrong, "; ".join(wrong)
    return "every trial that fitted ended with the losses that it has without a limit"


# Workers and speed.


def check_two_workers(options: Options) -> str:
    """Run a small sweep on two workers; on GPUs, compare the rate of two with that of one."""
    import io

    from rich.console import Console

    from sweeper.store.trials import TrialStore
    from sweeper.sweep.run import run_sweep
    from sweeper.types import TrialState
    from tests.doubles import save_tiny_bert, write_rows
    from tests.e2e.conftest import overrides_of

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_tiny_bert(folder / "tiny-bert")
        overrides = overrides_of(folder, write_rows(folder / "rows.jsonl"), model, folder / "cache")
        choice = [
            "executor=process",
            f"executor.device={options.device.type}",
            "executor.workers=2",
            "executor.lanes=2",
        ]
        run_sweep([*overrides, *choice, "model.dtype=auto"], console=Console(file=io.StringIO()))
        sweep = folder / "outputs" / "tiny"
        store = TrialStore(sweep)
        (study,) = store.studies()
        trials = store.trials(study.name)
        log = (sweep / "sweep.log").read_text(encoding="utf-8")
    states = [trial.state.value for trial in trials]
    options.emit({"trials": len(trials), "complete": states.count("complete"), "pruned": states.count("pruned")})
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}, f"trials ended as {states}"
    assert "complete" in states
    missing = [index for index in range(2) if f"worker {index} is ready" not in log]
    assert not missing, f"worker {missing} was never ready:\n{log[-2000:]}"
    if options.device.type == "cuda":
        from benchmarks.device_curve import two_devices

        row = two_devices(options.device.type, short=options.short)
        options.emit(row)
        return f"two workers train {row['two workers, rows/s'] / row['one worker, rows/s']:.2f} times the rows of one"
    return ""


def check_curve(options: Options) -> str:
    """Measure sweeper and Trainer + PEFT on random models of known shapes."""
    from benchmarks.device_curve import measure_curve

    return measure_curve(options.device, options.emit, short=options.short)


CHECKS: dict[str, Callable[[Options], str]] = {
    "device": check_device,
    "triton": check_triton,
    "device_parity": check_device_parity,
    "pack_parity": check_pack_parity,
    "quantised": check_quantised,
    "simulated_ladder": check_simulated_ladder,
    "ladder": check_ladder,
    "tests": check_tests,
    "two_workers": check_two_workers,
    "curve": check_curve,
}
"""Each returns a sentence about what was seen; raises AssertionError if the check failed."""


def main() -> None:
    """Run one check, and print rows and verdict as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--short", action="store_true", help="the smallest sizes")
    asked = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not mix with answers

    def answer(content: Row) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    def emit(row: Row) -> None:
        answer({"row": {name: _in_json(value) for name, value in row.items()}})

    if asked.device == "cpu":
        torch.set_num_threads(1)
    device = torch.device("cuda:0" if asked.device == "cuda" else "cpu")
    options = Options(device, emit, short=asked.short)
    try:
        why = CHECKS[asked.name](options)
    except NotRun as reason:
        answer({"status": "not run", "why": str(reason)})
    except Exception as error:  # noqa: BLE001  whatever it raises is its result
        traceback.print_exc()
        text = str(error) if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: {error}"
        lines = text.strip().splitlines()
        # Of the traceback of a driver, the last line is the cause.
        answer({"status": "failed", "why": " ".join(dict.fromkeys([lines[0], lines[-1]]))[:500]})
    else:
        answer({"status": "passed", "why": why})


def _in_json(value: Any) -> Any:
    """Return a value that JSON has: it has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()

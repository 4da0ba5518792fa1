"""Throughput over tokens per step on a device: sweeper with 1 to 16 lanes, and Trainer + PEFT with one trial.

The models are random and have the shapes of published ones, so nothing is downloaded; values do not matter for speed.
All rows have the same length, half prompt and half completion. Rank 8, dropout 0.1 and 16 rows of each trial in a step
are the same for both; the peer is that of the benchmarks (`peers.trial`) in its tuned form. Rows per second count all
trials, without evaluation and without the first chunk or steps. A point that runs out of memory is reported as such.
"""

from __future__ import annotations

import gc
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.drive import CONFIGURATION, Driver
from benchmarks.inputs import load_inputs
from benchmarks.record import Row
from benchmarks.sections.throughput import together
from sweeper.failures import is_out_of_memory
from sweeper.models.device_choice import choose_dtype

__all__ = ["Curve", "curves_of", "measure_curve", "two_devices"]

ROOT = Path(__file__).resolve().parents[1]
_MICRO_BATCH = 16
_SLOW_S = 20.0
"""More lanes are not tried once a chunk takes longer: it would be as fast, and the ten minutes are short."""
_FIRST_STEPS = 3
"""Steps of the peer that do not count."""
_SMOLLM2: Row = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
_TINY: Row = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A model, and the points that are measured."""

    model: str
    config: Row
    length: int
    """Tokens of a row."""
    lanes: Sequence[int]
    micro_batches: int
    """Steps of a chunk."""
    steps: int
    """Steps of the peer."""


def curves_of(device: torch.device, *, short: bool = False) -> list[Curve]:
    """Return what is measured on a device; on a CPU a tiny model, whose numbers say nothing about GPUs."""
    if device.type == "cpu" or short:
        few = (1, 2) if short else (1, 2, 4, 8)
        return [Curve(model="tiny", config=_TINY, length=16, lanes=few, micro_batches=2 if short else 8, steps=6)]
    qwen: Row = json.loads((ROOT / "tests/models/qwen3_0_6b/config.json").read_text(encoding="utf-8"))
    lanes = (1, 2, 4, 8, 16)
    return [
        Curve(model=name, config=config, length=length, lanes=lanes, micro_batches=batches, steps=12)
        for name, config in (("SmolLM2-135M", _SMOLLM2), ("Qwen3-0.6B", qwen))
        for length, batches in ((64, 8), (512, 2))
    ]


def measure_curve(device: torch.device, emit: Callable[[Row], None], *, short: bool = False) -> str:
    """Measure all curves of a device; return the best ratio to the peer as a sentence."""
    ratios = []
    for curve in curves_of(device, short=short):
        with tempfile.TemporaryDirectory() as folder:
            overrides = _prepare(curve, device, Path(folder))
            points = _measure_ours(curve, device, Path(folder), overrides, emit)
            peer = _measure_peer(curve, device, Path(folder), overrides)
        emit(peer)
        if points and peer["rows/s"]:
            ratios.append((max(points) / peer["rows/s"], curve))
    if not ratios:
        return "no point of the peer to compare with"
    ratio, curve = max(ratios, key=lambda pair: pair[0])
    return (
        f"at best {ratio:.2f} times the rows per second of Trainer + PEFT ({curve.model}, {curve.length} tokens a row)"
    )


def two_devices(device: str, *, short: bool = False) -> Row:
    """Return the rows per second of one worker, and of two on devices of their own."""
    curve = curves_of(torch.device(device), short=short)[0]
    lanes = min(4, max(curve.lanes))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device == "cuda" else ["", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = _prepare(curve, torch.device(device), folder)
        with (
            _driver(folder, overrides, names[0]) as first,
            _driver(folder, overrides, names[1]) as second,
        ):
            together([first, second], {"do": "train", "lanes": lanes, "chunks": 1})
            rates = [
                _rate(together(drivers, {"do": "train", "lanes": lanes, "chunks": 3}))
                for drivers in ([first], [first, second])
            ]
    return {"model": curve.model, "lanes": lanes, "one worker, rows/s": rates[0], "two workers, rows/s": rates[1]}


def _prepare(curve: Curve, device: torch.device, folder: Path) -> list[str]:
    """Write model and rows; return the overrides that name them."""
    _save_model(curve, device, folder)
    _write_rows(curve, folder / "rows.jsonl")
    return [
        "task=causal_lm",
        "model=hub",
        f"model.id={folder / 'model'}",
        "model.name=random",
        "model.kind=small_language_model",
        f"model.max_length={curve.length}",
        f"dataset.files.path={folder / 'rows.jsonl'}",
        "dataset.files.name=random",
        "dataset.files.train_rows=0",
        f"train.batch_size={_MICRO_BATCH}",
        "train.epochs=4",
        "train.chunks_per_epoch=1",
        "budget.trials=1",
    ]


def _save_model(curve: Curve, device: torch.device, folder: Path) -> None:
    """Save random weights of the number type that the device computes in, and a tokenizer of a few words."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from tests.doubles import save_tiny_bert

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_bert(folder / "words"))
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.model_max_length = 2 * curve.length
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 2}
    config = AutoConfig.for_model(**{**curve.config, **ends, "max_position_embeddings": 2 * curve.length})
    dtype = choose_dtype("auto", device)[0]
    with torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _write_rows(curve: Curve, path: Path) -> None:
    """Write prompts and completions of half the length each, in all splits."""
    from tests.doubles import FILLER

    draw = random.Random(0)  # noqa: S311  no secret
    num_train = _MICRO_BATCH * curve.micro_batches
    half = curve.length // 2
    lines = []
    for number in range(num_train + 2 * _MICRO_BATCH):
        place = number - num_train
        split = "train" if place < 0 else "validation" if place < _MICRO_BATCH else "test"
        prompt, completion = (" ".join(draw.choices(FILLER, k=count)) for count in (half, half - 1))  # and an end
        lines.append(json.dumps({"prompt": prompt, "completion": completion, "split": split}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _driver(folder: Path, overrides: Sequence[str], cuda: str) -> Driver:
    opening = {"dataset": "files", "cache": str(folder / "cache"), "threads": 1, "overrides": list(overrides)}
    return Driver({**opening, "cuda": cuda}, folder / "drive")


def _measure_ours(
    curve: Curve, device: torch.device, folder: Path, overrides: Sequence[str], emit: Callable[[Row], None]
) -> list[float]:
    """Measure and emit each number of lanes; return the rows per second."""
    cuda = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if device.type == "cuda" else ""
    rates = []
    with _driver(folder, overrides, cuda) as driver:
        for lanes in curve.lanes:
            (answer,) = together([driver], {"do": "train", "lanes": lanes, "chunks": 3})
            expected = lanes * _MICRO_BATCH * curve.length
            assert answer["tokens_per_step"] == expected, f"{answer['tokens_per_step']} tokens, not {expected}"
            rates.append(_rate([answer]))
            emit(_row(curve, "sweeper", lanes, rate=rates[-1], peak_bytes=answer["peak_bytes"]))
            if answer["chunks"][-1]["elapsed_s"] > _SLOW_S:
                break
    return rates


def _rate(answers: Sequence[Row]) -> float:
    """Return the rows per second of all workers, in the time of the slowest; the first chunk does not count."""
    chunks = [answer["chunks"][1:] for answer in answers]
    elapsed_s = max(sum(chunk["elapsed_s"] for chunk in part) for part in chunks)
    return float(sum(chunk["rows"] for part in chunks for chunk in part) / elapsed_s)


class _StepTimes(TrainerCallback):
    """Notes when each step of the peer ended, after the device was done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if len(self.ends) in {_FIRST_STEPS - 1, state.max_steps - 1} and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.ends.append(time.perf_counter())


def _measure_peer(curve: Curve, device: torch.device, folder: Path, overrides: Sequence[str]) -> Row:
    """Measure Trainer + PEFT in this process."""
    import mlflow

    from benchmarks.peers.trial import Form, train

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    inputs = load_inputs("files", folder / "cache", overrides)
    times, dtype = _StepTimes(device), choose_dtype("auto", device)[0]
    # Both are told what they compute in; on a GPU, the peer's form for CPUs does not apply.
    arguments = {
        "use_cpu": device.type == "cpu",
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "per_device_eval_batch_size": 1,
    }
    form = Form(tuned=True, max_steps=curve.steps, all_rows=True, arguments=arguments, callbacks=(times,))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    failure = ""
    try:
        train(dict(CONFIGURATION), inputs, form, name="curve", on_evaluation=lambda _epoch, _accuracy: None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failure = "out of memory"
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    timed = times.ends[_FIRST_STEPS - 1 :]
    rate = (len(timed) - 1) * _MICRO_BATCH / (timed[-1] - timed[0]) if len(timed) > 1 else 0.0
    return {**_row(curve, "Trainer + PEFT", 1, rate=rate, peak_bytes=peak), "note": failure}


def _row(curve: Curve, contender: str, lanes: int, *, rate: float, peak_bytes: int) -> Row:
    return {
        "model": curve.model,
        "contender": contender,
        "trials": lanes,
        "tokens a row": curve.length,
        "tokens per step": lanes * _MICRO_BATCH * curve.length,
        "rows/s": rate,
        "tokens/s": rate * curve.length,
        "peak GiB on the device": peak_bytes / 2**30,
    }

"""Predicted against measured peak memory on the CPU: MiniLM and SmolLM2, four packs each (docs/plan.md).

    python benchmarks/plan_memory.py            # measures all, a few minutes
    python benchmarks/plan_memory.py smollm2    # one model
    python benchmarks/plan_memory.py --predict  # computes the predictions of measured packs again
    python benchmarks/plan_memory.py --sweeps   # runs a short sweep of each model and reads its live line

Every pack has a process of its own. It trains a chunk of two micro-batches and scores some rows, then does the same
again. The peak is the largest resident size during the second round, less that before the model was loaded and less the
products that oneDNN compiled in the first round for these shapes, which stay and have a column of their own. A small
model was trained at first, so that libraries are part of the baseline. Weights are copied from the file that they are
mapped from: its pages count as resident, but the system takes them back when it needs memory. Blocks of 64 kB or more
are returned to the system as soon as they are freed, so the resident size is that of the tensors that exist. The
prediction is that of `sweeper plan`: `sweeper.figures.memory` with the passes of the same rows.

In a sweep all of this adds up, with the memory settings of workers, whose freed blocks stay with the process and are
counted as fragments.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.arithmetic import table  # noqa: E402  after the path is set

RESULTS = ROOT / "benchmarks" / "results"
BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
SEED = 0
NUM_LABELS = 6
MIB = 2**20

SWEEPS: dict[str, list[str]] = {
    # The live line is printed after 30 s without a new score.
    "minilm": ["dataset=trec", "budget.trials=4", "executor.lanes=4", "train.epochs=6", "search.min_chunks=12"],
    "smollm2": [
        "experiment=smollm2_chat",
        "budget.trials=2",
        "train.epochs=1",
        "dataset.chitchat.train_rows=64",
        "dataset.chitchat.validation_rows=96",
        "dataset.chitchat.test_rows=16",
        "dataset.chitchat.confirm_rows=0",
        "search.recipes=[]",
    ],
}
SHOWN = re.compile(r"memory\s+of\s+a\s+worker\s+([\d.]+)\s+([MG])B\s+\(predicted\s+([\d.]+)\s+([MG])B\)")
UNITS = {"M": 10**6, "G": 10**9}

PACKS: dict[str, list[dict[str, Any]]] = {
    "minilm": [
        {"ranks": [8], "lengths": [8, 30], "micro_batch": 16},
        {"ranks": [4, 8, 16, 64], "lengths": [20, 60], "micro_batch": 16, "dropout": 0.1},
        {"ranks": [8] * 8, "lengths": [100, 128], "micro_batch": 8},
        {"ranks": [8] * 4, "lengths": [20, 60], "micro_batch": 16, "dtype": "float32"},
    ],
    "smollm2": [
        {"ranks": [8], "lengths": [40, 80], "micro_batch": 4},
        {"ranks": [8, 16], "lengths": [40, 80], "micro_batch": 4, "dropout": 0.05},
        {"ranks": [4, 8, 16, 32], "lengths": [60, 100], "micro_batch": 2},
        {"ranks": [64] * 2, "lengths": [20, 30], "micro_batch": 2},
    ],
}


def main() -> None:
    """Measure, write the rows and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(PACKS)}; all if none is given")
    parser.add_argument("--predict", action="store_true", help="compute the predictions of measured packs again")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--sweeps", action="store_true", help="run a short sweep of each model")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    path = RESULTS / "plan_memory.jsonl"
    known = {}
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        known = {(row["model"], row["pack"]): row for row in rows}
    path_of_sweeps = RESULTS / "plan_memory_sweeps.jsonl"
    lines = path_of_sweeps.read_text(encoding="utf-8").splitlines() if path_of_sweeps.exists() else []
    sweeps = {row["model"]: row for row in map(json.loads, lines)}
    if arguments.sweeps:
        for model in arguments.models or SWEEPS:
            sweeps[model] = _sweep(model)
            text = "".join(json.dumps(sweeps[key]) + "\n" for key in sorted(sweeps))
            path_of_sweeps.write_text(text, encoding="utf-8")
    for model in [] if arguments.sweeps else arguments.models or PACKS:
        for number, pack in enumerate(PACKS[model]):
            if arguments.predict:
                if (model, number) in known:
                    known[model, number] |= _Case(model, **pack).predicted()
            else:
                known[model, number] = {**_measured(model, pack), "model": model, "pack": number, **pack}
            rows = [known[key] for key in sorted(known)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [known[key] for key in sorted(known)]
    page = _page(rows, [sweeps[key] for key in sorted(sweeps)])
    (RESULTS / "plan_memory.md").write_text(page, encoding="utf-8")
    print(page)


def _sweep(model: str) -> dict[str, Any]:
    """Run a short sweep with one worker, and return what its last live line says of the memory."""
    with tempfile.TemporaryDirectory() as outputs:
        overrides = [*SWEEPS[model], "executor.workers=1", "confirm=none"]
        code = "import sys; from sweeper.cli import main; sys.argv[0] = 'sweeper'; main()"
        command = [sys.executable, "-c", code, "run", *overrides, f"outputs={outputs}", "name=memory"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    text = done.stdout + done.stderr
    shown = SHOWN.findall(text)
    if done.returncode or not shown:
        raise SystemExit(text)
    measured, unit, predicted, unit_predicted = shown[-1]
    return {
        "model": model,
        "overrides": overrides,
        "measured": round(float(measured) * UNITS[unit]),
        "predicted": round(float(predicted) * UNITS[unit_predicted]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _measured(model: str, pack: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps({"name": model, **pack})]
    done = subprocess.run(command, env={**os.environ, **BLOCKS}, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(model, pack, found, flush=True)
    return found


class _Case:
    """A pack with its rows, without the model."""

    def __init__(
        self,
        name: str,
        *,
        ranks: list[int],
        lengths: list[int],
        micro_batch: int,
        dropout: float = 0.0,
        dtype: str = "bfloat16",
    ) -> None:
        import torch

        from sweeper.config.compose import compose
        from sweeper.models import fetch_model
        from sweeper.models.device_choice import choose_attention
        from sweeper.models.shapes import read_shapes
        from sweeper.tasks import make_task
        from sweeper.train.batches import EvaluationBatches, TrainingRows
        from sweeper.train.chunks import ChunkPlan
        from sweeper.train.pack_load import is_reordered

        self.language = name == "smollm2"
        task_name = "causal_lm" if self.language else "text_classification"
        self.task = make_task(task_name)
        settings = compose([f"model={name}", f"task={task_name}"]).settings
        self.folder = fetch_model(settings.model, cache=Path(settings.cache).expanduser())
        self.device, self.dtype = torch.device("cpu"), dtype
        self.attention = choose_attention("auto", self.device, getattr(torch, dtype))[0]
        self.shapes = read_shapes(
            self.folder,
            kind=self.task.model_kind,
            num_labels=NUM_LABELS,
            target_modules=(),
            head_modules=self.task.head_modules,
        )
        plan = ChunkPlan.of(2 * micro_batch, micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
        examples = _examples(2 * micro_batch, lengths, self.language)
        self.rows = TrainingRows(examples, plan, seed=SEED, pad_token_id=0, device=self.device)
        few = _examples(16, lengths, self.language)
        self.scored = EvaluationBatches(few, batch_size=32, pad_token_id=0, device=self.device)
        self.specs = [_spec(number, rank, dropout) for number, rank in enumerate(ranks)]
        self.is_reordered = is_reordered(self.shapes, dtype, self.device)

    def predicted(self) -> dict[str, Any]:
        """Return what the memory model says, in bytes."""
        from sweeper.figures.memory import memory_need
        from sweeper.train.pack_load import cached_products, pack_load

        load = pack_load(
            self.rows,
            [self.scored],
            dtype=self.dtype,
            attention=self.attention,
            ranks=[spec.lora.r for spec in self.specs],
            tokens_per_pass=0,
            has_dropout=any(spec.lora.dropout for spec in self.specs),
            checkpointing=False,
            device=self.device,
            is_reordered=self.is_reordered,
            cached_products=cached_products(os.environ),
        )
        need = memory_need(self.shapes, dataclasses.replace(load, changes=False))  # the same pack again and again
        return {
            "predicted": need.total - need.kernels - need.fragments,
            "base": need.base,
            "lane_state": need.lanes,
            "activations": need.activations,
            "logits": need.logits,
            "predicted_kernels": need.kernels,
            "stage": need.stage,
        }


def measure(name: str, **pack: Any) -> dict[str, Any]:
    """Train and score one pack in this process; return predicted and measured bytes."""
    import torch

    from sweeper.models.first_token import read_first_token
    from sweeper.models.load import load_model
    from sweeper.models.shapes import adapted_layers
    from sweeper.models.targets import targets_for
    from sweeper.train.lane import Lane
    from sweeper.train.pack import Pack, sort_lanes

    torch.set_num_threads(1)
    case = _Case(name, **pack)
    task, kind = case.task, getattr(torch, case.dtype)

    def load_pack(path: Path) -> Pack:
        model: Any = load_model(path, kind=task.model_kind, num_labels=NUM_LABELS, dtype=kind, attention=case.attention)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # else the mapped file is resident, also what was copied from it
        if not case.language:
            read_first_token(model)
        suffixes = targets_for(case.shapes.model_type, ())
        targets, head = adapted_layers(model, suffixes, task.head_modules(model))
        return Pack(model, targets=targets, head=head, dtype=kind)

    def train(pack: Pack) -> None:
        lanes = sort_lanes([Lane.start(spec, pack.shape, case.device) for spec in case.specs])
        pack.train_chunk(lanes, case.rows, task.row_loss)
        pack.predict(lanes, case.scored, task.outputs)

    # A model of the same vocabulary, but two thin blocks, so that libraries and kernels are part of the baseline.
    with tempfile.TemporaryDirectory() as small:
        _shrink(case.folder, Path(small), task.model_kind)
        train(load_pack(Path(small)))
    gc.collect()
    before = _status("VmRSS")
    loaded_pack = load_pack(case.folder)
    loaded = _status("VmRSS")
    train(loaded_pack)  # generates oneDNN's kernels for these shapes, which stay
    gc.collect()
    kernels = _status("VmRSS") - loaded
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak of the resident size
    train(loaded_pack)
    peak = _status("VmHWM") - kernels
    return {
        **case.predicted(),
        "measured": peak - before,
        "kernels": kernels,
        "base_measured": loaded - before,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _examples(number: int, lengths: list[int], language: bool) -> Any:
    from sweeper.tasks.base import Examples

    rng = random.Random(SEED)  # noqa: S311  no secret
    sizes = [rng.randint(*lengths) for _ in range(number)]
    ids = [[rng.randrange(1000, 30_000) for _ in range(size)] for size in sizes]
    if language:
        targets, weights = [[size // 2, 0] for size in sizes], [float(size - size // 2) for size in sizes]
        return Examples(ids, targets, weights, [[(size // 2, size)] for size in sizes])
    return Examples(ids, [rng.randrange(NUM_LABELS) for _ in sizes], [1.0] * number)


def _spec(number: int, rank: int, dropout: float) -> Any:
    from sweeper.config.settings import LoraSettings, TrainSettings
    from sweeper.types import TrialSpec

    lora, train = LoraSettings(r=rank, dropout=dropout), TrainSettings(head_init="random", batch_size=1)
    return TrialSpec(study="memory", number=number, params={}, lora=lora, train=train, seed=number, origin="benchmark")


def _shrink(folder: Path, small: Path, kind: str) -> None:
    """Write a model of the same architecture with two blocks of width 64, and the tokenizer."""
    import transformers

    from sweeper.models.load import KINDS

    config = transformers.AutoConfig.from_pretrained(folder)
    config.update(
        {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 2,
            **({"num_key_value_heads": 1, "head_dim": 32} if kind == "causal_lm" else {}),
        }
    )
    if kind != "causal_lm":
        config.num_labels = NUM_LABELS
    getattr(transformers, KINDS[kind]).from_config(config).save_pretrained(small)
    for path in folder.iterdir():
        if path.suffix != ".safetensors" and path.name != "config.json" and path.is_file():
            shutil.copy(path, small)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _page(rows: list[dict[str, Any]], sweeps: list[dict[str, Any]]) -> str:
    header = [
        "model",
        "lanes",
        "ranks",
        "type",
        "dropout",
        "tokens a row",
        "predicted MiB",
        "measured MiB",
        "error",
        "kernels: predicted MiB",
        "kernels: measured MiB",
    ]
    cells = [
        [
            row["model"],
            str(len(row["ranks"])),
            ", ".join(map(str, sorted(set(row["ranks"])))),
            row.get("dtype", "bfloat16"),
            f"{row.get('dropout', 0):g}",
            "-".join(map(str, row["lengths"])),
            f"{row['predicted'] / MIB:.0f}",
            f"{row['measured'] / MIB:.0f}",
            f"{row['predicted'] / row['measured'] - 1:+.1%}",
            f"{row['predicted_kernels'] / MIB:.0f}",
            f"{row['kernels'] / MIB:.0f}",
        ]
        for row in rows
    ]
    worst = max(abs(row["predicted"] / row["measured"] - 1) for row in rows)
    return (
        "# Predicted and measured peak memory on the CPU\n\n"
        "Made by `python benchmarks/plan_memory.py`, which explains how the peak is measured. Measured: "
        f"{len(rows)} of {sum(map(len, PACKS.values()))} packs. The largest error is {worst:.1%}.\n\n"
        f"{table(header, cells)}\n{_part_on_sweeps(sweeps)}"
    )


def _part_on_sweeps(rows: list[dict[str, Any]]) -> str:
    """Return the part of the page on short sweeps; empty if none was measured."""
    if not rows:
        return ""
    header = ["model", "overrides", "predicted MB", "measured MB", "error"]
    cells = [
        [
            row["model"],
            f"`{' '.join(row['overrides'])}`",
            f"{row['predicted'] / 1e6:.0f}",
            f"{row['measured'] / 1e6:.0f}",
            f"{row['predicted'] / row['measured'] - 1:+.1%}",
        ]
        for row in rows
    ]
    return (
        "\n## Short sweeps\n\nWhat the live line said at the end (`--sweeps`). Both numbers include the compiled "
        f"products.\n\n{table(header, cells)}\n"
    )


if __name__ == "__main__":
    main()

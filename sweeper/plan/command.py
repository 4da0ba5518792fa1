"""The command `sweeper plan`: what a sweep will need, computed before anything runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from rich.console import Console

from sweeper.clock import Clock, utc_now
from sweeper.config.checks import micro_batch
from sweeper.config.compose import SweepConfig, compose
from sweeper.config.settings import DatasetSettings, SweepSettings
from sweeper.control.lane_limits import choose_limits
from sweeper.data import check_source
from sweeper.display.console import print_line
from sweeper.display.downloads import fetch_progress
from sweeper.execute import choose_devices
from sweeper.execute.devices import gpu_bytes
from sweeper.execute.process import worker_environment
from sweeper.fetch.progress import Progress
from sweeper.figures.memory import checkpoint_bytes
from sweeper.figures.model_shapes import ModelShapes
from sweeper.figures.text import plural
from sweeper.models import check_source as check_model_source
from sweeper.models import fetch_config
from sweeper.models.device_choice import (
    check_device,
    choose_attention,
    choose_checkpointing,
    choose_dtype,
    type_name,
)
from sweeper.models.quantization import NONE, choose_quantization
from sweeper.plan.inputs import StudyRows, read_model_shapes, study_rows
from sweeper.plan.prediction import (
    DevicePlan,
    DiskPlan,
    StudyForecast,
    SweepForecast,
    TimePlan,
    check_fits,
    ranks_of,
    study_forecast,
    time_plan,
)
from sweeper.plan.tables import as_jsonable, show
from sweeper.store.paths import OutputsPaths
from sweeper.store.provenance import device_name
from sweeper.store.rates import find_rate
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import sweep_name
from sweeper.sweep.measured_rates import rate_key
from sweeper.sweep.model_kind import settled_by_model, settled_by_record, settled_text
from sweeper.sweep.plan import check_task, most_memory, reference_recipes
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan, plan_chunks
from sweeper.train.pack_load import cached_products, is_reordered, pack_load
from sweeper.train.worker import EVALUATION_ROWS

__all__ = ["forecast_sweep", "plan"]

_USABLE_SHARE = 0.9
"""Share of the memory to plan with; the rest is for fragmentation and what the model of memory leaves out."""
_LIBRARY_BYTES = 500_000_000
"""What a worker needs before it loads a model: libraries on a CPU, the CUDA context on a GPU."""
_DROPOUT = "lora.dropout"
_MANY_ROWS = 1_000_000
"""Stands for an unknown number of training rows: a trial then has the fewest epochs."""


def plan(
    overrides: Sequence[str],
    *,
    console: Console,
    config_dir: Path | None = None,
    is_json: bool = False,
    clock: Clock = utc_now,
) -> None:
    """Print what the sweep of the overrides will need.

    Args:
        overrides: Hydra overrides, those of `sweeper run`.
        console: Where to print.
        config_dir: A folder with more YAML files, laid out like conf/.
        is_json: Whether to print JSON instead of tables.
        clock: The present time.

    Raises:
        ConfigError: A setting is wrong, or a trial cannot fit into the memory.
        SweeperError: Model or data cannot be read.
    """
    config = compose(overrides, config_dir=config_dir)
    with fetch_progress(console) as progress:
        forecast = forecast_sweep(config, clock=clock, progress=progress)
    if is_json:
        print_line(console, json.dumps(as_jsonable(forecast), indent=2))
    else:
        show(forecast, config.settings, console)


def forecast_sweep(config: SweepConfig, *, clock: Clock = utc_now, progress: Progress | None = None) -> SweepForecast:
    """Return what a sweep will need.

    Args:
        config: Its configuration.
        clock: The present time.
        progress: Shows downloads.

    Raises:
        ConfigError: A setting is wrong, or a trial cannot fit into the memory.
        SweeperError: Model or data cannot be read.
    """
    # As a run does: a sweep on disk knows the kind of its model, otherwise the model tells it.
    outputs = OutputsPaths(Path(config.settings.outputs))
    config = settled_by_record(config, TrialStore(outputs.sweep(sweep_name(config.settings))))
    settings = config.settings
    for dataset in settings.dataset.values():
        check_source(dataset)
    check_task(settings)
    check_model_source(settings.model)
    model_dir = fetch_config(settings.model, cache=Path(settings.cache), progress=progress)
    config = settled_by_model(config, model_dir)
    settings = config.settings
    quantization, _ = choose_quantization(settings.model.quantization, model_dir)
    device = _device(settings, quantization)
    studies: list[StudyForecast] = []
    sizes: dict[int, ModelShapes] = {}
    for dataset in settings.dataset.values():
        rows = _rows(config, dataset, model_dir, progress)
        if rows.num_labels not in sizes:
            sizes[rows.num_labels] = read_model_shapes(settings, model_dir, rows.num_labels)
        studies.append(_study(config, rows, sizes[rows.num_labels], device))
        check_fits(sizes[rows.num_labels], studies[-1], device, settings, config.space)
    num_references = len(reference_recipes(settings, config.space))
    time = _time(config, studies, device, model_dir, num_references=num_references, clock=clock)
    disk = _disk(settings, studies, device, num_references=num_references)
    return SweepForecast(
        model=settings.model.name,
        kind=settled_text(config),
        shapes=next(iter(sizes.values())),
        device=device,
        studies=tuple(studies),
        disk=disk,
        time=time,
        price=time.likely_s / 3600 * settings.plan.price_per_hour if time else 0.0,
        notes=tuple(_notes(settings, studies, device, disk)),
    )


def _rows(config: SweepConfig, dataset: DatasetSettings, model_dir: Path, progress: Progress | None) -> StudyRows:
    settings = config.settings
    return study_rows(
        settings,
        dataset,
        model_dir=model_dir,
        micro_batch=micro_batch(settings, config.space),
        progress=progress,
    )


def _device(settings: SweepSettings, quantization: str) -> DevicePlan:
    executor, gb = settings.executor, settings.plan.gpu_gb
    if gb:
        kind, name, workers = "cuda", f"a GPU of {gb:g} GB", executor.workers or 1
        memory, found = gb * 1e9, "plan.gpu_gb"
    else:
        devices = choose_devices(executor)
        check_device(devices.kind)
        kind, workers = devices.kind, devices.num_workers
        name = device_name(kind)
        if kind == "cuda":
            memory, found = float(gpu_bytes()), "the smallest GPU"
        else:
            memory, found = psutil.virtual_memory().available / workers, f"free memory, for {plural(workers, 'worker')}"
    if gb and settings.model.dtype == "auto":
        dtype, why = torch.bfloat16, "bfloat16, which current GPUs support"
    else:
        dtype, why = choose_dtype(settings.model.dtype, kind)
    attention, _ = choose_attention(settings.model.attention, kind, dtype)
    limits = choose_limits(settings, kind)
    return DevicePlan(
        kind=kind,
        name=name,
        workers=workers,
        usable_bytes=max(0, round(_USABLE_SHARE * (memory - _LIBRARY_BYTES))),
        lanes=limits.lanes,
        chooses_lanes=limits.is_measured,
        tokens_per_pass=executor.tokens_per_pass,
        dtype=type_name(dtype),
        quantization=quantization,
        attention=attention,
        why=f"{why}; memory: {found}",
    )


def _study(config: SweepConfig, rows: StudyRows, shapes: ModelShapes, device: DevicePlan) -> StudyForecast:
    settings, space = config.settings, config.space
    size, where = micro_batch(settings, space), torch.device(device.kind)
    num_train = rows.num_train or _MANY_ROWS
    chunks = plan_chunks(settings, space, num_rows=num_train, num_labels=rows.num_labels)
    present = len(rows.train.ids)  # only one micro-batch of assumed rows
    loaded = (
        chunks if present == rows.num_train else ChunkPlan.of(present, micro_batch=size, chunks_per_epoch=1, epochs=1)
    )
    training = TrainingRows(rows.train, loaded, seed=settings.seed, pad_token_id=rows.pad_token_id, device=where)
    scored = EvaluationBatches(
        rows.validation, batch_size=EVALUATION_ROWS, pad_token_id=rows.pad_token_id, device=torch.device("cpu")
    )
    ranks = ranks_of(settings, space)
    checkpointing, _ = choose_checkpointing(settings.model.gradient_checkpointing, where, shapes.parameters)
    load = pack_load(
        training,
        [scored],
        dtype=device.dtype,
        quantization=device.quantization,
        attention=device.attention,
        ranks=ranks[-1:],
        tokens_per_pass=device.tokens_per_pass,
        has_dropout=most_memory(config).get(_DROPOUT, settings.lora.dropout) > 0,
        has_base_dropout=settings.model.dropout > 0,
        checkpointing=checkpointing,
        device=where,
        is_reordered=device.quantization == NONE and is_reordered(shapes, device.dtype, where),
        cached_products=cached_products(worker_environment("", 1, num_workers=device.workers)),
        num_choice_tokens=rows.num_choice_tokens,
    )
    return study_forecast(
        shapes,
        load,
        device,
        ranks=ranks,
        chunks=chunks,
        space=space,
        search=settings.search,
        moments=settings.store.checkpoint_moments,
        dataset=rows.dataset,
        tokens_per_row=rows.tokens_per_row,
        num_train=rows.num_train,
        assumed=rows.assumed,
    )


def _time(
    config: SweepConfig,
    studies: Sequence[StudyForecast],
    device: DevicePlan,
    model_dir: Path,
    *,
    num_references: int,
    clock: Clock,
) -> TimePlan | None:
    settings = config.settings
    if not all(study.trial_tokens for study in studies):
        return None
    key = rate_key(
        settings, model_dir, kind=device.kind, device=device.name, lanes=device.lanes, workers=device.workers
    )
    found = find_rate(Path(settings.cache).expanduser(), key)
    if found is None:
        return None
    rate, differs = found
    return time_plan(
        studies,
        settings,
        num_references=num_references,
        workers=device.workers,
        rate=rate,
        differs=differs,
        now=clock(),
    )


def _disk(
    settings: SweepSettings, studies: Sequence[StudyForecast], device: DevicePlan, *, num_references: int
) -> DiskPlan:
    trials, keep = settings.budget.trials, settings.store.keep_adapters
    confirming = math.ceil(settings.confirm.max_share * trials)
    kept = min(keep or trials, trials) + len(settings.search.recipes) + num_references + confirming
    running = device.lanes * device.workers
    largest = max(study.worst.parameters for study in studies)
    # As `sweeper.train.checkpoints` decides: large ones are made at the rungs, and beside them only from time to time.
    is_large = checkpoint_bytes(largest, "float32") >= settings.executor.checkpoint_file_bytes
    every_s = settings.store.checkpoint_every_s if is_large else 0.0
    made = [len(study.rungs) - 1 if every_s else study.num_chunks - 1 for study in studies]
    trained = trials + num_references + confirming
    outputs = Path(settings.outputs).absolute()
    existing = next(folder for folder in (outputs, *outputs.parents) if folder.exists())
    return DiskPlan(
        adapters=sum(study.worst.adapter_bytes * (2 * kept + running) for study in studies),
        checkpoints=2 * max(study.worst.checkpoint_bytes for study in studies) * running,
        written=sum(study.worst.checkpoint_bytes * each * trained for study, each in zip(studies, made, strict=True)),
        every_s=every_s,
        free=shutil.disk_usage(existing).free,
    )


def _notes(settings: SweepSettings, studies: Sequence[StudyForecast], device: DevicePlan, disk: DiskPlan) -> list[str]:
    """Return what does not fit although the sweep can run, with a remedy."""
    notes = []
    for study in studies:
        worst = study.worst
        if device.kind == "cpu" and worst.lanes_that_fit == 0:
            notes.append(
                f"{study.dataset}: a micro-batch of rank {worst.rank} does not fit at once; its rows are trained in "
                "several passes, which is slower. Lower train.micro_batch or model.max_length."
            )
        elif worst.lanes_that_fit < device.lanes and not device.chooses_lanes:
            notes.append(
                f"{study.dataset}: {device.lanes} lanes of rank {worst.rank} do not fit, at most {worst.lanes}. "
                f"A worker that runs out of memory halves its pack. Set executor.lanes={worst.lanes}."
            )
    if disk.adapters + disk.checkpoints > disk.free:
        needed = (disk.adapters + disk.checkpoints) / 1e9
        notes.append(
            f"The disk of outputs={settings.outputs} has {disk.free / 1e9:.1f} GB free, and up to {needed:.1f} GB are "
            "needed. Lower store.keep_adapters, or set outputs to another disk."
        )
    return notes

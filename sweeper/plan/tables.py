"""Shows a plan: tables and lines on a terminal, the same as plain text in a pipe, or JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sweeper.config.settings import SweepSettings
from sweeper.config.time_windows import local_time
from sweeper.display.console import print_line
from sweeper.display.tables import clock_text
from sweeper.figures.memory import LaneBytes, MemoryNeed
from sweeper.figures.text import bytes_text, plural
from sweeper.plan.prediction import Corner, DevicePlan, StudyForecast, SweepForecast

__all__ = ["as_jsonable", "show"]

_HOW_TO_MEASURE = (
    "{what}: unknown, since no sweep has measured how fast this model trains {where}. A short one does, for example "
    "the same command with `sweeper run`, budget.trials=2 and confirm=none{again}."
)


def show(forecast: SweepForecast, settings: SweepSettings, console: Console) -> None:
    """Print a plan."""
    shapes, device = forecast.shapes, forecast.device
    name = settings.model.id or forecast.model
    print_line(
        console,
        f"{name}: {shapes.model_type}, {shapes.parameters:,} parameters, {shapes.num_layers} blocks of width "
        f"{shapes.width:,}, adapters on {len(shapes.lora)} layers",
    )
    print_line(console, f"Taken for {forecast.kind}")
    console.print(_base_table(forecast))
    fastest = ", as many as turn out to be fastest" if device.chooses_lanes else ""
    print_line(
        console,
        f"{plural(device.workers, 'worker')} on {device.name}, at most {plural(device.lanes, 'lane')} each{fastest}; "
        f"{bytes_text(device.usable_bytes)} of memory to plan with. Base weights: {_held_text(device)}{device.why}",
    )
    for study in forecast.studies:
        _show_study(study, console)
    disk = forecast.disk
    cadence = f" at the rungs, and others every {clock_text(disk.every_s)}" if disk.every_s else " in all"
    print_line(
        console,
        f"Disk: at most {bytes_text(disk.adapters)} of adapters and {bytes_text(disk.checkpoints)} of checkpoints at a "
        f"time, {bytes_text(disk.written)} of checkpoints written{cadence}; {bytes_text(disk.free)} are free",
    )
    print_line(console, _time_text(forecast, settings))
    if forecast.price:
        print_line(
            console, f"Price: about {forecast.price:.2f}, at plan.price_per_hour={settings.plan.price_per_hour:g}"
        )
    for note in forecast.notes:
        print_line(console, f"! {note}")


def _held_text(device: DevicePlan) -> str:
    """Return how the weights are held, if not as they are multiplied."""
    return "" if device.quantization == "none" else f"{device.quantization}, multiplied in "


def _base_table(forecast: SweepForecast) -> Table:
    table = _table("Base weights", *forecast.base_by_type)
    table.add_row("size", *(bytes_text(size) for size in forecast.base_by_type.values()))
    return table


def _show_study(study: StudyForecast, console: Console) -> None:
    rows = f"{study.num_train:,} training rows" if study.num_train else "an unknown number of training rows"
    most = "up to " if study.mean_length < 1 else ""
    tokens = f", {most}{study.trial_tokens:,} tokens a trial" if study.trial_tokens else ""
    print_line(
        console,
        f"{study.dataset}: {rows} of {_mean_text(study.tokens_per_row)} tokens on average, "
        f"{most}{plural(study.epochs, 'epoch')} in {plural(study.num_chunks, 'chunk')}{tokens}",
    )
    if study.assumed:
        print_line(console, f"! {study.assumed}")
    headings = ("lora.r", "Trainable", "Adapter", "Checkpoint", "Lane", "Peak", "Lanes/fit", "Tokens")
    table = _table(*headings)
    for corner in study.corners:
        table.add_row(*_cells(corner))
    console.print(table)
    need = study.worst.need
    kernels = f", kernels {bytes_text(need.kernels)}, fragments {bytes_text(need.fragments)}" if need.kernels else ""
    host = study.worst.lane.host * study.worst.lanes
    kept = f". Its lanes also need {bytes_text(host)} of the host's memory" if study.load.device != "cpu" else ""
    checkpointing = "on" if study.load.checkpointing else "off"
    print_line(
        console,
        f"Peak of rank {study.worst.rank}, in {need.stage}: base {bytes_text(need.base)}, lanes "
        f"{bytes_text(need.lanes)}, activations {bytes_text(need.activations)}, logits and temporary tensors "
        f"{bytes_text(need.logits)}{kernels}{kept}. Gradient checkpointing: {checkpointing}",
    )
    print_line(
        console,
        "Lane: state of one. Lanes/fit: trained at once, and most that fit. Tokens: of their largest pass",
    )


def _mean_text(tokens: float) -> str:
    return f"{tokens:,.0f}" if tokens >= 100 else f"{tokens:.3g}"  # noqa: PLR2004  three digits


def _cells(corner: Corner) -> tuple[str, ...]:
    return (
        str(corner.rank),
        f"{corner.parameters:,}",
        bytes_text(corner.adapter_bytes),
        bytes_text(corner.checkpoint_bytes),
        bytes_text(corner.lane.total),
        bytes_text(corner.need.total),
        f"{corner.lanes}/{corner.lanes_that_fit}",
        f"{corner.pass_tokens:,}",
    )


def _time_text(forecast: SweepForecast, settings: SweepSettings) -> str:
    time, num_studies = forecast.time, len(forecast.studies)
    if time is None:
        is_priced, is_elsewhere = settings.plan.price_per_hour > 0, settings.plan.gpu_gb > 0
        if unknown := [study.dataset for study in forecast.studies if not study.trial_tokens]:
            return f"Time: unknown, as is the number of training rows of {', '.join(unknown)}"
        return _HOW_TO_MEASURE.format(
            what="Time and price" if is_priced else "Time",
            where="on such a GPU" if is_elsewhere else "here",
            again=", on a machine that has one; then plan there without plan.gpu_gb" if is_elsewhere else "",
        )
    budget = settings.budget
    differs = f", measured with {time.differs}" if time.differs else ""
    ends = local_time(time.ends_at, budget.time_zone)
    trials = budget.trials * num_studies
    fitting = "all fit" if time.trials_that_fit >= trials else f"{time.trials_that_fit:,} fit"
    return (
        f"Time: {clock_text(time.trial_s)} of a device for a trial, at {time.rate.tokens_per_s:,.0f} tokens a second "
        f"({time.rate.at[:10]}{differs}). The sweep needs about {clock_text(time.likely_s)} of device time, at most "
        f"{clock_text(time.most_s)} without pruning. Likely end: {ends:%a %d %b %H:%M}. Of {trials:,} trials, "
        f"{fitting} into budget, window and deadline"
    )


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def as_jsonable(forecast: SweepForecast) -> dict[str, Any]:
    """Return a plan for JSON: sizes in bytes, times in seconds and UTC."""
    shapes, time = forecast.shapes, forecast.time
    return {
        "model": {
            "name": forecast.model,
            "kind": forecast.kind,
            "type": shapes.model_type,
            "parameters": shapes.parameters,
            "num_layers": shapes.num_layers,
            "width": shapes.width,
            "vocabulary": shapes.vocabulary,
            "adapted_layers": len(shapes.lora),
            "base_bytes": forecast.base_by_type,
        },
        "device": dataclasses.asdict(forecast.device),
        "studies": [_study(study) for study in forecast.studies],
        "disk": {f"{name}_bytes": value for name, value in dataclasses.asdict(forecast.disk).items()},
        "time": None
        if time is None
        else {
            "trial_s": time.trial_s,
            "most_s": time.most_s,
            "likely_s": time.likely_s,
            "ends_at": time.ends_at.isoformat(timespec="seconds"),
            "trials_that_fit": time.trials_that_fit,
            "tokens_per_s": time.rate.tokens_per_s,
            "measured_at": time.rate.at,
            "measured_with": time.differs,
        },
        "price": forecast.price or None,
        "notes": list(forecast.notes),
    }


def _study(study: StudyForecast) -> dict[str, Any]:
    return {
        "dataset": study.dataset,
        "train_rows": study.num_train or None,
        "tokens_per_row": study.tokens_per_row,
        "epochs": study.epochs,
        "num_chunks": study.num_chunks,
        "mean_length": study.mean_length,
        "trial_tokens": study.trial_tokens or None,
        "assumed": study.assumed,
        "corners": [_corner(corner) for corner in study.corners],
    }


def _corner(corner: Corner) -> dict[str, Any]:
    return {
        "lora.r": corner.rank,
        "padded_rank": corner.padded,
        "parameters": corner.parameters,
        "adapter_bytes": corner.adapter_bytes,
        "checkpoint_bytes": corner.checkpoint_bytes,
        "lane_bytes": _lane(corner.lane),
        "lanes": corner.lanes,
        "pass_tokens": corner.pass_tokens,
        "lanes_that_fit": corner.lanes_that_fit,
        "peak_bytes": _need(corner.need),
    }


def _lane(lane: LaneBytes) -> dict[str, int]:
    return {**dataclasses.asdict(lane), "total": lane.total}


def _need(need: MemoryNeed) -> dict[str, Any]:
    return {**dataclasses.asdict(need), "total": need.total}

"""Computes a plan: parameters at the corners of the space, memory, lanes that fit, disk, time and money.

Pure arithmetic on what `inputs` has read and on the devices; `command` prints it. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sweeper.config.settings import BudgetSettings, SearchSettings, SweepSettings
from sweeper.config.space import EPOCHS, Dimension, SearchSpace
from sweeper.config.time_limit import find_time_limit
from sweeper.config.time_windows import parse_windows
from sweeper.config.trial_length import mean_epochs
from sweeper.errors import ConfigError
from sweeper.figures.memory import (
    BASE_TYPES,
    PARAMETER_BYTES,
    QUANTIZATIONS,
    LaneBytes,
    MemoryNeed,
    PackLoad,
    base_bytes,
    checkpoint_bytes,
    lane_bytes,
    largest_pass,
    memory_need,
)
from sweeper.figures.model_shapes import ModelShapes, bucket_rank
from sweeper.figures.passes import FEWEST_TOKENS
from sweeper.search.pruning import rung_chunks
from sweeper.store.rates import Rate
from sweeper.train.chunks import ChunkPlan

__all__ = [
    "Corner",
    "DevicePlan",
    "DiskPlan",
    "StudyForecast",
    "SweepForecast",
    "TimePlan",
    "check_fits",
    "ranks_of",
    "study_forecast",
    "time_plan",
]

_MOST_LANES = 1024
_MOST_CORNERS = 8
_RANK = "lora.r"
_BFLOAT16 = "bfloat16"
_GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePlan:
    """The devices that are planned for."""

    kind: str
    """``cpu`` or ``cuda``."""
    name: str
    workers: int
    usable_bytes: int
    """Memory that a worker may use for what a plan counts."""
    lanes: int
    """Most lanes of a worker, as the settings say."""
    chooses_lanes: bool
    """Whether a worker measures how many of them fit and are fastest."""
    tokens_per_pass: int
    """Most tokens of a pass, as the settings say; 0 if only the memory limits them."""
    dtype: str
    quantization: str
    attention: str
    why: str
    """How number type and memory were found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corner:
    """One rank of the space."""

    rank: int
    padded: int
    parameters: int
    share: float
    """Trainable parameters as a share of the base model's."""
    adapter_bytes: int
    checkpoint_bytes: int
    lane: LaneBytes
    need: MemoryNeed
    """Of a worker whose lanes all have this rank: as many as the settings allow, or as fit."""
    lanes: int
    """These lanes."""
    pass_tokens: int
    """Tokens of their largest pass, padding included: of whole micro-batches, or as many as fit."""
    lanes_that_fit: int
    """Most lanes of this rank that fit into the memory, in the smallest passes; 0 if not even one does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePlan:
    """How long trials take, and when the sweep ends."""

    trial_s: float
    """Device seconds of a trial of mean length that is not pruned."""
    most_s: float
    """Device seconds of the sweep if all trials are as long as the longest, none is pruned, and the confirmation takes
    all it may."""
    likely_s: float
    """Device seconds with pruning as in earlier sweeps, or else as the pruner's rungs suggest."""
    ends_at: datetime
    """Likely end, within the time windows; UTC."""
    trials_that_fit: int
    """Trials of the search, over all studies, that fit into device hours, window and deadline."""
    rate: Rate
    differs: str
    """How the measurement differs from this sweep, e.g. ``lanes=2``; empty if it does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyForecast:
    """What a study needs."""

    dataset: str
    num_train: int
    """Training rows; 0 if unknown."""
    tokens_per_row: float
    epochs: int
    """Of the longest trial. The same below."""
    num_chunks: int
    rungs: tuple[int, ...]
    trial_tokens: int
    """Tokens that it trains on; 0 if the number of rows is unknown."""
    mean_length: float
    """Mean length of a trial, over the epochs of the space, as a share of the longest; 1 if they are not searched."""
    corners: tuple[Corner, ...]
    assumed: str
    """What is assumed of the rows; empty if they were read."""
    load: PackLoad
    """What a worker trains at once, with the ranks and tokens of the last corner."""

    @property
    def worst(self) -> Corner:
        """The corner that needs the most memory."""
        return self.corners[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskPlan:
    """What the sweep writes."""

    adapters: int
    """Of all trials that keep their adapter, and that of their best rung, at the highest rank."""
    checkpoints: int
    """Of the trials in training, two of each."""
    written: int
    """All checkpoints of all trials at the highest rank, one a chunk, most of which are replaced by the next. Of large
    ones only those at the rungs are counted."""
    every_s: float
    """Seconds after which a trial makes another one between rungs; 0 if each chunk makes one."""
    free: int
    """Free bytes where they are written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepForecast:
    """A plan."""

    model: str
    kind: str
    """Kind of the model, and the space that is searched."""
    shapes: ModelShapes
    device: DevicePlan
    studies: tuple[StudyForecast, ...]
    disk: DiskPlan
    time: TimePlan | None
    """None if no sweep has measured how fast this model trains, or rows are unknown."""
    price: float
    """Of the likely time; 0 without a price or a time."""
    notes: tuple[str, ...] = field(default=())
    """What does not fit although the sweep can run."""

    @property
    def base_by_type(self) -> dict[str, int]:
        """Size of the frozen weights by number type; quantised ones have bfloat16 beside them."""
        quantised = {name: base_bytes(self.shapes, _BFLOAT16, quantization=name) for name in QUANTIZATIONS}
        return {name: base_bytes(self.shapes, name) for name in BASE_TYPES} | quantised


def ranks_of(settings: SweepSettings, space: SearchSpace) -> list[int]:
    """Return the ranks that the space can take, ascending; of a long list, bounds and powers of two between them."""
    dimension = next((each for each in space.dimensions if each.key == _RANK), None)
    if dimension is None:
        return [settings.lora.r]
    if dimension.choices:
        ranks = [int(choice) for choice in dimension.choices]
    else:
        low, high = round(dimension.low), round(dimension.high)
        ranks = sorted({low, high, *(2**power for power in range(11) if low < 2**power < high)})
    return ranks if len(ranks) <= _MOST_CORNERS else [ranks[0], *ranks[1 - _MOST_CORNERS :]]


def study_forecast(
    shapes: ModelShapes,
    load: PackLoad,
    device: DevicePlan,
    *,
    ranks: Sequence[int],
    chunks: ChunkPlan,
    space: SearchSpace,
    search: SearchSettings,
    moments: str,
    dataset: str,
    tokens_per_row: float,
    num_train: int,
    assumed: str,
) -> StudyForecast:
    """Return what a study needs.

    Args:
        shapes: The model.
        load: What a worker trains at once; its ranks are replaced.
        device: The devices.
        ranks: Ranks of the space, ascending.
        chunks: How its rows divide.
        space: The search space.
        search: Rungs.
        moments: ``store.checkpoint_moments``.
        dataset: Its name.
        tokens_per_row: Mean length of a training row.
        num_train: Training rows; 0 if unknown.
        assumed: What is assumed of the rows.
    """
    found = [_corner(shapes, load, device, rank, moments) for rank in ranks]
    corners = tuple(corner for corner, _ in found)
    rows = chunks.num_chunks * chunks.rows_per_chunk if num_train else 0
    rungs = rung_chunks(chunks.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor)
    return StudyForecast(
        dataset=dataset,
        num_train=num_train,
        tokens_per_row=tokens_per_row,
        epochs=chunks.epochs,
        num_chunks=chunks.num_chunks,
        rungs=rungs,
        trial_tokens=round(rows * tokens_per_row),
        mean_length=mean_epochs(space) / chunks.epochs if EPOCHS in space.keys else 1.0,
        corners=corners,
        assumed=assumed,
        load=found[-1][1],
    )


def _corner(
    shapes: ModelShapes, load: PackLoad, device: DevicePlan, rank: int, moments: str
) -> tuple[Corner, PackLoad]:
    """Return a corner, and what a worker trains at once there."""
    longest, most = max(length for _, length in load.passes), device.tokens_per_pass

    def pack(lanes: int, tokens: int) -> PackLoad:
        return replace(load, ranks=(rank,) * lanes, tokens_per_pass=tokens)

    def fits(lanes: int, tokens: int) -> bool:
        return memory_need(shapes, pack(lanes, tokens)).total <= device.usable_bytes

    def fewest(lanes: int) -> int:
        """Return the tokens of the smallest passes in which so many lanes train together; 0 for whole ones."""
        if device.kind == "cpu":
            return most
        tokens = max(lanes * longest, FEWEST_TOKENS if lanes > 1 else 0)
        return min(tokens, most) if most else tokens

    # A pass has a row of each lane at least, so a small budget limits the lanes.
    in_budget = max(1, most // longest) if most else _MOST_LANES
    fitting = _most(lambda lanes: fits(lanes, fewest(lanes)), min(_MOST_LANES, in_budget))
    lanes = max(1, min(device.lanes, fitting))
    whole = largest_pass(pack(lanes, most))
    tokens = most
    if not fits(lanes, most):
        tokens = max(fewest(lanes), _most(lambda tokens: fits(lanes, max(1, tokens)), whole))
    chosen, parameters = pack(lanes, tokens), shapes.trainable(rank)
    corner = Corner(
        rank=rank,
        padded=bucket_rank(rank),
        parameters=parameters,
        share=parameters / shapes.parameters,
        adapter_bytes=PARAMETER_BYTES * parameters,
        checkpoint_bytes=checkpoint_bytes(parameters, moments),
        lane=lane_bytes(shapes, rank, load.dtype),
        need=memory_need(shapes, chosen),
        lanes=lanes,
        pass_tokens=largest_pass(chosen),
        lanes_that_fit=fitting,
    )
    return corner, chosen


def _most(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to ``most`` that fits; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def check_fits(
    shapes: ModelShapes, study: StudyForecast, device: DevicePlan, settings: SweepSettings, space: SearchSpace
) -> None:
    """Check that a single trial of every rank fits, with the rows of its micro-batches one by one if need be.

    A worker that runs out of memory divides first its pack and then its micro-batches, so nothing larger must fit.

    Raises:
        ConfigError: It does not; the error names the setting to blame.
    """

    def one_row(rank: int, length: int) -> PackLoad:
        return replace(study.load, ranks=(rank,), passes=((1, length),), evaluated=(), tokens_per_pass=0)

    def total(rank: int, length: int) -> int:
        return memory_need(shapes, one_row(rank, length)).total

    limit = device.usable_bytes
    ranks = [corner.rank for corner in study.corners]
    longest = max(length for _, length in study.load.passes)
    has = f"and a worker has {limit / _GB:.1f} GB on {device.name}"
    assumed = f" Note that {study.assumed}." if study.assumed else ""
    load = study.load
    base = base_bytes(shapes, load.dtype, quantization=load.quantization, is_reordered=load.is_reordered)
    if base > limit:
        held = load.dtype if load.quantization == "none" else load.quantization
        rule = f"{settings.model.name} alone needs {base / _GB:.1f} GB in {held}, {has}"
        raise ConfigError("model.id", settings.model.id or settings.model.name, rule, _smaller(shapes, load, limit))
    if total(ranks[-1], longest) <= limit:
        return
    fitting = _most(lambda rank: total(rank, longest) <= limit, ranks[-1])
    length = _most(lambda tokens: total(ranks[0], tokens) <= limit, longest)
    # The rank is to blame if a lower one of the space fits, or if not even the shortest row does.
    if fitting >= ranks[0] or (fitting and not length):
        dimension = next((each for each in space.dimensions if each.key == _RANK), None)
        rule = f"one trial of rank {ranks[-1]} needs {total(ranks[-1], longest) / _GB:.1f} GB, {has}"
        others = _alternatives(shapes, one_row(ranks[-1], longest), limit)
        remedy = f"Set '{_RANK}={_capped(dimension, ranks, fitting)}'{others}."
        raise ConfigError(_RANK, dimension.text if dimension else str(ranks[-1]), rule, f"{remedy}{assumed}")
    rule = f"one row of {longest:,} tokens needs {total(ranks[0], longest) / _GB:.1f} GB at rank {ranks[0]}, {has}"
    others = _alternatives(shapes, one_row(ranks[0], longest), limit)
    remedy = f"Set model.max_length={length}{others}." if length else "Choose a smaller model or a larger device."
    raise ConfigError("model.max_length", settings.model.max_length, rule, f"{remedy}{assumed}")


def _alternatives(shapes: ModelShapes, row: PackLoad, limit: int) -> str:
    """Return settings of the base model with each of which a row fits, to follow another remedy."""
    changed = {}
    if not row.checkpointing:
        changed["model.gradient_checkpointing=always"] = replace(row, checkpointing=True)
    if row.quantization == "none":
        for name in QUANTIZATIONS:
            changed[f"model.quantization={name}"] = replace(row, quantization=name, is_reordered=False)
    fitting = [setting for setting, load in changed.items() if memory_need(shapes, load).total <= limit]
    return "".join(f", or {setting}" for setting in fitting)


def _smaller(shapes: ModelShapes, load: PackLoad, limit: int) -> str:
    """Return the setting by which the frozen weights fit."""
    if load.dtype != _BFLOAT16 and base_bytes(shapes, _BFLOAT16, quantization=load.quantization) <= limit:
        return "Set model.dtype=bfloat16."
    for name in QUANTIZATIONS:
        if base_bytes(shapes, _BFLOAT16, quantization=name) <= limit:
            more = "" if load.dtype == _BFLOAT16 else " and model.dtype=bfloat16"
            return f"Set model.quantization={name}{more}."
    return "Choose a smaller model or a larger device."


def _capped(dimension: Dimension | None, ranks: Sequence[int], fitting: int) -> str:
    """Return the dimension of the rank without the values that do not fit, in the grammar of the space."""
    kept = [rank for rank in ranks if rank <= fitting]
    if dimension is None or not kept:
        return str(fitting)
    if dimension.choices or len(kept) == 1:
        return f"choice({','.join(map(str, kept))})" if len(kept) > 1 else str(kept[0])
    return f"tag(log2,interval({kept[0]},{kept[-1]}))"


def time_plan(
    studies: Sequence[StudyForecast],
    settings: SweepSettings,
    *,
    num_references: int,
    workers: int,
    rate: Rate,
    differs: str,
    now: datetime,
) -> TimePlan:
    """Return how long a sweep takes at a measured rate.

    Args:
        studies: Its studies, all with known rows.
        settings: Budget, confirmation and pruner.
        num_references: Trials for comparison, of each study.
        workers: Workers that share the work.
        rate: The measured rate.
        differs: How its measurement differs from this sweep.
        now: The present time.
    """
    budget = settings.budget
    longest = [study.trial_tokens / rate.tokens_per_s for study in studies]
    seconds = [study.mean_length * trial_s for study, trial_s in zip(studies, longest, strict=True)]
    shares = [rate.trained_share or _expected_share(study, settings.search) for study in studies]
    follow_up = 1 + settings.confirm.max_share
    most = sum(s * (budget.trials * follow_up + num_references) for s in longest)
    likely = sum(
        s * (budget.trials * share * follow_up + num_references) for s, share in zip(seconds, shares, strict=True)
    )
    capped = min(likely, budget.device_hours * 3600) if budget.device_hours else likely
    mean_trial_s = sum(s * share for s, share in zip(seconds, shares, strict=True)) / len(studies)
    return TimePlan(
        trial_s=sum(seconds) / len(seconds),
        most_s=most,
        likely_s=capped,
        ends_at=end_of_work(capped / workers, budget, now),
        trials_that_fit=_trials_that_fit(budget, mean_trial_s, len(studies), workers, now),
        rate=rate,
        differs=differs,
    )


def _expected_share(study: StudyForecast, search: SearchSettings) -> float:
    """Return the share of its chunks that a trial trains on average, if one in `reduction_factor` passes each rung."""
    if search.pruner == "none":
        return 1.0
    passing, done, chunks = 1.0, 0, 0.0
    for rung in study.rungs:
        chunks += passing * (rung - done)
        passing, done = passing / search.reduction_factor, rung
    return chunks / study.num_chunks


def end_of_work(wall_s: float, budget: BudgetSettings, now: datetime) -> datetime:
    """Return when work of so many seconds ends, if it runs only within the time windows."""
    windows, left, at = parse_windows(budget.window, budget.time_zone), timedelta(seconds=wall_s), now
    while windows:
        if not windows.is_open(at):
            at = windows.next_opening(at) or at
        closes = windows.closes_at(at)
        if closes is None or at + left <= closes:
            break
        left -= closes - at
        at = closes
    return at + left


def _trials_that_fit(budget: BudgetSettings, trial_s: float, num_studies: int, workers: int, now: datetime) -> int:
    """Return how many trials of the search fit: into the device hours, and before the window closes or the deadline."""
    trials = budget.trials * num_studies
    if budget.device_hours:
        trials = min(trials, int(budget.device_hours * 3600 / trial_s))
    windows = parse_windows(budget.window, budget.time_zone)
    starts = now if windows.is_open(now) else windows.next_opening(now) or now
    limit = find_time_limit(budget, starts)
    if limit is not None:
        trials = min(trials, int(max(0.0, (limit.at - starts).total_seconds()) * workers / trial_s))
    return trials

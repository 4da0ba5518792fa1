"""Records how fast the trials of a session trained, and finds what earlier sweeps measured. `run` calls it."""

from __future__ import annotations

from pathlib import Path

from sweeper.clock import timestamp, utc_now
from sweeper.config.settings import SweepSettings
from sweeper.config.trial_length import trial_chunks
from sweeper.control.lane_limits import LaneLimits
from sweeper.execute.devices import Devices
from sweeper.models.quantization import choose_quantization
from sweeper.store.provenance import device_name
from sweeper.store.rates import Rate, RateKey, config_digest, find_rate, record_rates
from sweeper.store.trials import TrialStore
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord

__all__ = ["keep_rates", "known_rate", "rate_key"]


def known_rate(settings: SweepSettings, devices: Devices, limits: LaneLimits, model_dir: Path) -> Rate | None:
    """Return how fast this model trained in an earlier sweep on this machine; None if no sweep has measured it."""
    found = find_rate(Path(settings.cache).expanduser(), _key(settings, devices, limits, model_dir))
    return found[0] if found else None


def keep_rates(
    store: TrialStore, settings: SweepSettings, devices: Devices, limits: LaneLimits, model_dir: Path
) -> None:
    """Record how fast the trials of a sweep trained; of several studies, their common rate."""
    key = _key(settings, devices, limits, model_dir)
    studies = [(study, store.trials(study.name)) for study in store.studies()]
    cost = sum((trial.cost for _, trials in studies for trial in trials), Cost())
    shares = [share for study, trials in studies for share in _trained_shares(study, trials)]
    if cost.tokens:
        rate = Rate(
            key=key,
            model_name=settings.model.name,
            tokens=cost.tokens,
            device_s=cost.device_s,
            trained_share=sum(shares) / len(shares) if shares else 0.0,
            at=timestamp(utc_now),
        )
        record_rates(Path(settings.cache).expanduser(), [rate])


def _trained_shares(study: StudyRecord, trials: list[TrialRecord]) -> list[float]:
    """Return the share of its chunks that each finished trial of the search trained."""
    searched = [trial for trial in trials if trial.spec.phase is Phase.SEARCH and trial.state.is_finished]
    return [trial.chunks_done / trial_chunks(study, trial.spec.train.epochs) for trial in searched]


def rate_key(settings: SweepSettings, model_dir: Path, *, kind: str, device: str, lanes: int, workers: int) -> RateKey:
    """Return what a sweep measures its rate with.

    Args:
        settings: Its settings.
        model_dir: Folder of the model, with its config.json.
        kind: Kind of the devices, ``cpu`` or ``cuda``.
        device: Name of a device.
        lanes: Most lanes of a worker.
        workers: Number of workers.
    """
    model = settings.model
    # What auto chooses follows from model and device, which are part of the key. Only a CPU says never for all models.
    checkpointing = model.gradient_checkpointing
    if checkpointing == "auto" and kind == "cpu":
        checkpointing = "never"
    return RateKey(
        model=config_digest(model_dir),
        task=settings.task.name,
        device=device,
        dtype=model.dtype,
        quantization=choose_quantization(model.quantization, model_dir)[0],
        checkpointing=checkpointing,
        attention=model.attention,
        base_dropout=model.dropout,
        target_modules=",".join(sorted(model.target_modules)),
        datasets=",".join(sorted(settings.dataset)),
        lanes=lanes,
        workers=workers,
        threads=settings.executor.threads,
    )


def _key(settings: SweepSettings, devices: Devices, limits: LaneLimits, model_dir: Path) -> RateKey:
    return rate_key(
        settings,
        model_dir,
        kind=devices.kind,
        device=device_name(devices.kind),
        lanes=limits.lanes,
        workers=devices.num_workers,
    )

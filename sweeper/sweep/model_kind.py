"""Settles space and recipes that depend on the kind of model: from the model, or as the sweep on disk has them.

The choice is made once, when a sweep first has its model's folder, and recorded in sweep.json as ``model.kind``. Every
later session takes it from there.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from sweeper.config.compose import SweepConfig
from sweeper.config.settings import MODEL_KINDS
from sweeper.errors import DamagedFile
from sweeper.models import model_type_of
from sweeper.models.kind import kind_of
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import plan_model

__all__ = ["settled_by_disk", "settled_by_model", "settled_by_record", "settled_if_known", "settled_text"]

log = logging.getLogger(__name__)


def settled_by_record(config: SweepConfig, store: TrialStore) -> SweepConfig:
    """Return the configuration for the kind of model that the sweep on disk was started with.

    Unchanged if nothing depends on the kind any more, or if no sweep has recorded it.

    Raises:
        ConfigError: The overrides do not fit the space for this kind.
    """
    if config.pending is None:
        return config
    try:
        kind = store.read_sweep()["settings"]["model"].get("kind")
    except DamagedFile:  # or there is no sweep yet
        return config
    return config.for_kind(kind) if kind in MODEL_KINDS else config


def settled_by_disk(config: SweepConfig, store: TrialStore) -> SweepConfig:
    """Return what `settled_by_record` does; if sweep.json is lost, but studies are not, the model is asked again.

    Raises:
        ConfigError: The overrides do not fit the space for this kind.
        FetchError: The model has to be asked, and cannot be fetched.
    """
    config = settled_by_record(config, store)
    if config.pending is None or not any(store.paths.studies()):
        return config
    return settled_by_model(config, plan_model(config.settings))


def settled_by_model(config: SweepConfig, model_dir: Path) -> SweepConfig:
    """Return the configuration for the kind of a model; unchanged if nothing depends on it any more.

    Args:
        config: The configuration.
        model_dir: Folder of the model; only config.json is read.

    Raises:
        ConfigError: The overrides do not fit the space for this kind.
        ModelError: config.json cannot be read.
    """
    if config.pending is None:
        return config
    model_type_of(model_dir)  # raises the error of a file that cannot be read
    architecture = json.loads((model_dir / "config.json").read_text())
    settled = config.for_kind(kind_of(architecture, has_head=config.settings.task.has_head))
    log.info("model.kind=auto: %s is %s", architecture.get("model_type"), settled_text(settled))
    return settled


def settled_if_known(config: SweepConfig) -> SweepConfig:
    """Return the configuration for the kind of a model that is on this machine; otherwise unchanged. Fetches nothing.

    Raises:
        ConfigError: ``model.id`` is wrong, or the overrides do not fit the space for this kind.
        ModelError: config.json cannot be read.
    """
    model = config.settings.model
    if config.pending is None or model.source != "hub":
        return config
    from sweeper.models.hub import find_config

    found = find_config(model, Path(config.settings.cache).expanduser())
    return config if found is None else settled_by_model(config, found.parent)


def settled_text(config: SweepConfig) -> str:
    """Return the kind of model, and the space that is searched, as logs show them."""
    settings = config.settings
    dimensions = ", ".join(f"{key}={text}" for key, text in config.space.texts.items())
    return f"{settings.model.kind}; space {settings.space.name}: {dimensions}"

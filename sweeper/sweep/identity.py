"""Checks that a session continues a sweep with the same settings, as far as trials depend on them.

`run` checks before anything is fetched: a sweep is never resumed with other settings. Without a name of its own, a
sweep is named after these settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sweeper.config.settings import SweepSettings
from sweeper.errors import SweepMismatch
from sweeper.store.trials import TrialStore
from sweeper.urls import mask_url, redact_urls

__all__ = ["check_identity", "settings_to_keep", "sweep_name"]

_NOT_IDENTITY = ("name", "outputs", "cache", "executor", "budget", "confirm", "store", "tracker", "notify")
"""Sections that no trial's result depends on: they may change between the sessions of a sweep."""
_MAX_SHOWN = 4


def sweep_name(settings: SweepSettings) -> str:
    """Return ``name``; if it is empty, a name made of datasets, model, space and a hash of the settings."""
    if settings.name:
        return settings.name
    datasets = "+".join(dataset.name for dataset in settings.dataset.values())
    digest = config_hash(_identity(asdict(settings)))[:6]
    return f"{datasets[:60]}-{settings.model.name}-{settings.space.name}-{digest}"


def settings_to_keep(settings: SweepSettings) -> dict[str, Any]:
    """Return the settings to store, without passwords and notification URLs."""
    content = asdict(settings)
    content["search"]["storage"] = redact_urls(settings.search.storage)
    content["tracker"]["uri"] = redact_urls(settings.tracker.uri)
    content["notify"]["urls"] = [mask_url(url) for url in settings.notify.urls]
    return content


def check_identity(store: TrialStore, settings: SweepSettings) -> None:
    """Check that the sweep on disk, if there is one, was started with these settings.

    Raises:
        SweepMismatch: Settings that trials depend on have changed.
    """
    if not store.exists:
        return
    before = _identity(store.read_sweep()["settings"])
    now = _identity(json.loads(json.dumps(asdict(settings))))
    changed = sorted(_differences(before, now))
    if changed:
        more = f"; and {len(changed) - _MAX_SHOWN} more" if len(changed) > _MAX_SHOWN else ""
        raise SweepMismatch(
            f"sweep {store.root.name} was started with other settings ({'; '.join(changed[:_MAX_SHOWN])}{more}), so "
            "its trials cannot be compared with new ones. Give the new sweep its own name, e.g. name=second"
        )


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    content = {k: v for k, v in settings.items() if k not in _NOT_IDENTITY}
    content["search"] = {k: v for k, v in content["search"].items() if k != "storage"}
    return content


def _differences(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield f"{key}: {one} before, {other} now"


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration, independent of the order of its keys.

    Args:
        config: Nested mappings, lists and scalars that JSON can represent.

    Raises:
        TypeError: JSON cannot represent a value.
        ValueError: A number is not finite.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

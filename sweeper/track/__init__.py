"""Trackers: they show trials while a sweep runs. The only place that knows MLflow.

The controller calls `make_tracker` and then only the `Tracker` protocol; the command line calls `server.serve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sweeper.config.settings import TrackerSettings
from sweeper.track.background import BackgroundTracker
from sweeper.track.base import NullTracker, Tracker
from sweeper.track.mlflow import artifact_folder, connect, database_fault, database_files, open_audit, tracking_uri

__all__ = ["NullTracker", "Tracker", "database_fault", "database_files", "make_tracker", "open_audit", "tracking_uri"]


def make_tracker(settings: TrackerSettings, *, outputs: Path, sweep: str, tags: Mapping[str, str]) -> Tracker:
    """Return the tracker that the settings name; nothing is opened before the first trial is shown.

    Args:
        settings: The `tracker` section.
        outputs: Folder of all sweeps; the default database and files of MLflow lie in it.
        sweep: Name of the sweep.
        tags: What holds for every trial, e.g. git commit and versions.

    Raises:
        ConfigError: MLflow takes no such URI.
    """
    if settings.name == "none":
        return NullTracker()
    uri = tracking_uri(settings.uri, outputs)
    make_writer = partial(connect, uri, artifacts=artifact_folder(uri, outputs), sweep=sweep, tags=tags)
    return BackgroundTracker(make_writer, where=f"MLflow at {uri}")

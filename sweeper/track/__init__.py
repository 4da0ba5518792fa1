"""Trackers, which show trials while a sweep runs; the only package that imports MLflow.

`sweeper.sweep` calls `make_tracker`; the controller uses only the `Tracker` protocol. The command line calls
`server.serve`.
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
    """Return the configured tracker; nothing is opened until the first trial is shown.

    Args:
        settings: The `tracker` section.
        outputs: Folder of all sweeps; by default MLflow's database and files are in it.
        sweep: Name of the sweep.
        tags: Tags of every trial, e.g. git commit and versions.

    Raises:
        ConfigError: ``tracker.uri`` is not a URI of a server or a database.
    """
    if settings.name == "none":
        return NullTracker()
    uri = tracking_uri(settings.uri, outputs)
    make_writer = partial(connect, uri, artifacts=artifact_folder(uri, outputs), sweep=sweep, tags=tags)
    return BackgroundTracker(make_writer, where=f"MLflow at {uri}")

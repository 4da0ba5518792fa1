"""Checks what is cheap to check before a model is fetched or a worker starts: `run` calls this first.

`sweeper.config.checks` has checked the keys themselves; here are the checks that need files, other packages or the
machine. What only the rows or the model show is checked in `plan`.
"""

from __future__ import annotations

from pathlib import Path

from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SweepSettings
from sweeper.config.space import EPOCHS
from sweeper.data import check_source, prepare_splits, repeat_warnings
from sweeper.execute import choose_devices
from sweeper.models import check_source as check_model_source
from sweeper.models.quantization import check_library
from sweeper.sweep.notify import check_urls
from sweeper.sweep.plan import check_task
from sweeper.sweep.warm_start import check_warm_start
from sweeper.tasks import make_task
from sweeper.train.chunks import check_shortest_trial

__all__ = ["check_before_start", "split_files"]


def check_before_start(settings: SweepSettings, *, is_new: bool = True) -> None:
    """Check sources, paths, metric, length of trials, database URL, devices and notification URLs.

    Nothing is fetched or started.

    Args:
        settings: The settings.
        is_new: Whether the sweep has not started yet. One that has needs no portfolio file, since its studies have
            recorded what they took from it.

    Raises:
        ConfigError: One of them is wrong.
    """
    for dataset in settings.dataset.values():
        check_source(dataset)
    check_task(settings)
    if EPOCHS in settings.space.dimensions:
        check_shortest_trial(settings, parse_space(settings.space.dimensions))
    if settings.search.storage:
        from sweeper.search.storage import check_url

        check_url(settings.search.storage)
    if is_new:
        check_warm_start(settings.search)
    check_model_source(settings.model)
    check_library(settings.model.quantization)
    choose_devices(settings.executor)
    check_urls(settings.notify)


def split_files(settings: SweepSettings) -> None:
    """Read and split the files of the user into the cache, so that their errors show before a model is fetched.

    What was warned of when a dataset in the cache was split is logged again.

    Raises:
        ConfigError: A setting does not fit the files.
        DataError: A row, column, label or split is wrong.
    """
    cache, completions = Path(settings.cache).expanduser(), make_task(settings.task.name).takes_completions
    loss_on = settings.task.loss_on
    for dataset in settings.dataset.values():
        is_known = repeat_warnings(dataset, cache=cache, completions=completions, loss_on=loss_on)
        if dataset.source == "files" and not is_known:
            prepare_splits(dataset, cache=cache, completions=completions, loss_on=loss_on)

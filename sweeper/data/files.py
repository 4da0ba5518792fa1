"""Source `files`: JSONL, CSV, Parquet or text files of the user, plain or compressed with gzip."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings
from sweeper.data.formats import ENDINGS, check_format, ending_of
from sweeper.data.tables import Builder, read_table
from sweeper.errors import ConfigError, did_you_mean
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["check", "identity", "load"]

_IN_FOLDERS = (*ENDINGS, ".txt")
"""Endings of the files that are read from a folder, also with .gz behind them."""
_MAX_SHOWN = 6


def check(settings: DatasetSettings) -> None:
    """Check the settings as far as no file needs to be read; see `sweeper.data.check_source`."""
    for path in _paths(settings):
        check_format(path, settings)


def load(settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:  # noqa: ARG001  part of the contract
    """Return all rows; see `sweeper.data.base.Source`."""
    return read_table(_paths(settings), settings, build)


def identity(settings: DatasetSettings) -> str:
    """Return a string that identifies this data: the content of the files, wherever they are."""
    return " ".join(f"{ending_of(path)}:{sha256_of(path)}" for path in _paths(settings))


def _paths(settings: DatasetSettings) -> list[Path]:
    key = f"{settings.section}.path"
    if not settings.path:
        raise ConfigError(key, "", "must name a file, a folder or a glob", f"For example {key}=my.jsonl")
    path = Path(settings.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if ending_of(p) in _IN_FOLDERS and p.is_file()]
        if not found:
            raise _nothing_in(path, key, settings)
        return found
    found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if p.is_file()]  # noqa: PTH207 - the pattern may be absolute
    if not found:
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        rule = f"there is no such file; relative paths start in {Path.cwd()}"
        raise ConfigError(key, settings.path, rule, near or "Check the path.")
    return found


def _nothing_in(folder: Path, key: str, settings: DatasetSettings) -> ConfigError:
    held = sorted(p.name for p in folder.iterdir())
    shown = ", ".join(held[:_MAX_SHOWN]) + (", ..." if len(held) > _MAX_SHOWN else "")
    rule = f"the folder holds only {shown}" if held else "the folder is empty"
    known = ", ".join(_IN_FOLDERS)
    remedy = f"Put files into it that end in {known} or these with .gz; or write a glob, e.g. {key}={folder}/*/*.csv"
    return ConfigError(key, settings.path, rule, remedy)

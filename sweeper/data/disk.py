"""Cache of datasets on disk, written once and read memory-mapped; used for splits and for token ids.

Several processes may use it at once. A folder appears only when it is complete; an unreadable one is made again.
`datasets` is imported only where rows are read or made: it takes 0.4 s and 50 MB, and a start with full caches needs no
rows in the controller.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.disk.atomic import new_folder, remove_unfinished
from sweeper.disk.lock import hold_file

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Stored", "load_or_make", "quiet", "read_meta", "to_dataset"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Named datasets with equal columns, at least one of which has rows, and further values that fit into JSON."""

    parts: Mapping[str, Dataset]
    meta: Mapping[str, Any]


def load_or_make(folder: Path, make: Callable[[], Stored]) -> Stored:
    """Return the content of a folder; if there is none, make and write it first.

    Args:
        folder: The folder; its name must depend on everything that ``make`` depends on.
        make: Makes the content; called at most once, under a lock.
    """
    folder = folder.expanduser()
    if (stored := _load(folder)) is not None:
        return stored
    with hold_file(folder.with_name(f".{folder.name}.lock")):
        if _load(folder) is None:
            _save(folder, make())
    # Read back even if it has just been made, so that the first run and later ones see the same memory-mapped rows.
    stored = _load(folder)
    assert stored is not None, folder  # noqa: S101 - our own bug, not the user's
    return stored


def read_meta(folder: Path) -> Mapping[str, Any] | None:
    """Return the values that are stored beside the rows of a folder, and the rows of each part as ``parts``.

    None if the folder does not exist or is not complete. The rows are not read, so damage to them is not found here.
    """
    folder = folder.expanduser()
    try:
        meta: Mapping[str, Any] = json.loads((folder / "meta.json").read_text())
        is_complete = all((folder / name).is_dir() for name, num_rows in meta["parts"].items() if num_rows)
    except (OSError, ValueError, KeyError):
        return None
    return meta if is_complete else None


def to_dataset(content: Mapping[str, Any], types: Mapping[str, str | list[str]] | None = None) -> Dataset:
    """Return columns as a dataset.

    Args:
        content: The columns.
        types: The type of each column, such as ``int64``, or a list of one type for a column of lists; inferred if
            None.
    """
    from datasets import Dataset, Features, List, Value

    def feature(kind: str | list[str]) -> Value | List:
        return Value(kind) if isinstance(kind, str) else List(Value(kind[0]))

    features = Features({name: feature(kind) for name, kind in types.items()}) if types else None
    return Dataset.from_dict(dict(content), features=features)


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the progress bars of `datasets`."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _load(folder: Path) -> Stored | None:
    if not folder.exists():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        parts = {name: _part(folder / name) for name, num_rows in meta["parts"].items() if num_rows}
        # `datasets` cannot read a dataset without rows, so none is written; all parts have the same columns.
        empty = next(iter(parts.values())).select([])
        return Stored(parts={name: parts.get(name, empty) for name in meta["parts"]}, meta=meta)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
        log.warning("%s cannot be read (%s) and is made again", folder, error)
        return None


def _part(folder: Path) -> Dataset:
    import datasets

    found = datasets.load_from_disk(str(folder))
    if not isinstance(found, datasets.Dataset):
        raise ValueError(f"{folder} is not a dataset")  # noqa: TRY004  damaged content, not a wrong argument
    return found


def _save(folder: Path, stored: Stored) -> None:
    remove_unfinished(folder.parent, name=folder.name)
    sizes = {name: len(part) for name, part in stored.parts.items()}
    with quiet(), new_folder(folder) as new:
        for name, part in stored.parts.items():
            if len(part):
                part.save_to_disk(str(new / name))
        (new / "meta.json").write_text(json.dumps({**stored.meta, "parts": sizes}))

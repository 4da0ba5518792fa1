"""Cache of datasets on disk, written once and read memory-mapped; used for splits and for token ids.

Several processes may use it at once. A folder appears only when it is complete. Each has a digest of its rows, which is
compared whenever it is opened: a folder that is damaged is moved aside and made again.
`datasets` is imported only where rows are read or made: it takes 0.4 s and 50 MB, and a start with full caches needs no
rows in the controller.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.disk.aside import move_aside
from sweeper.disk.atomic import checksum, new_folder, remove_unfinished
from sweeper.disk.lock import hold_file

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["Stored", "digest_of", "load_or_make", "quiet", "read_meta", "to_dataset"]

log = logging.getLogger(__name__)
_OWN = ("parts", "digest")
"""Values that are added to those that the caller stores."""


class _DamagedError(Exception):
    """A folder of the cache is damaged. Never leaves this module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Named datasets with equal columns, at least one of which has rows, and further values that fit into JSON."""

    parts: Mapping[str, Dataset]
    meta: Mapping[str, Any]


def load_or_make(folder: Path, make: Callable[[], Stored], *, in_memory: bool = False) -> Stored:
    """Return the content of a folder; if there is none, or it is damaged, make and write it first.

    ``meta`` of what is returned also has ``digest``, that of `digest_of`, and ``parts``, the rows of each part.

    Args:
        folder: The folder; its name must depend on everything that ``make`` depends on.
        make: Makes the content; called at most once, under a lock.
        in_memory: Whether to read all rows into memory, so that no later change of the files can reach them.
    """
    folder = folder.expanduser()
    with suppress(FileNotFoundError, _DamagedError):
        return _load(folder, in_memory=in_memory)
    with hold_file(folder.with_name(f".{folder.name}.lock")):
        try:
            return _load(folder, in_memory=in_memory)  # another process has made it in the meantime
        except _DamagedError as error:
            log.warning("%s: moved to %s, and made again", error, move_aside(folder).name)
        except FileNotFoundError:
            pass
        _save(folder, make())
        # Read back what has just been made, so that the first run and later ones see the same rows.
        return _load(folder, in_memory=in_memory)


def read_meta(folder: Path) -> Mapping[str, Any] | None:
    """Return the values that are stored beside the rows of a folder, as in `load_or_make`.

    None if the folder does not exist or is not complete. The rows are not read, so damage to them is not found here.
    """
    folder = folder.expanduser()
    try:
        meta = _read_meta(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_complete = all((folder / name).is_dir() for name, num_rows in meta["parts"].items() if num_rows)
    return meta if is_complete else None


def digest_of(stored: Stored) -> str:
    """Return the SHA-256 over all rows and values, by content: it does not depend on how files lay them out.

    Raises:
        ValueError: The columns contradict themselves, as in a damaged file.
    """
    parts, values = stored.parts, {key: value for key, value in stored.meta.items() if key not in _OWN}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(parts):
        if not len(parts[name]):
            continue  # an empty part has no columns of its own
        table: pa.Table = parts[name].with_format("arrow")[:]
        for column in sorted(table.column_names):
            chunks = table.column(column).chunks
            digest.update(json.dumps([name, column, str(table.column(column).type), len(table)]).encode())
            for buffer in _buffers(chunks):
                digest.update(buffer)
    return digest.hexdigest()


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


def _buffers(chunks: list[pa.Array]) -> Iterator[Any]:
    """Yield the content of a column: how long each value is, if they have lengths, then all values in one row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = [chunk for chunk in chunks if len(chunk)]
    for chunk in chunks:
        chunk.validate(full=True)  # offsets of a damaged file may point anywhere
        if chunk.null_count:
            yield chunk.is_null().to_numpy(zero_copy_only=False)
    kind = chunks[0].type if chunks else pa.null()
    if pa.types.is_list(kind):
        for chunk in chunks:
            yield pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
        yield from _buffers([chunk.flatten() for chunk in chunks])
    elif pa.types.is_string(kind):
        for chunk in chunks:
            yield pc.binary_length(chunk).to_numpy(zero_copy_only=False)
        for chunk in chunks:
            # Joined by nothing, the values of a chunk are one slice of its buffer.
            offsets = memoryview(chunk.buffers()[1]).cast("i")[chunk.offset : chunk.offset + len(chunk) + 1]
            yield memoryview(chunk.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    else:
        for chunk in chunks:
            yield chunk.to_numpy(zero_copy_only=False)


def _load(folder: Path, *, in_memory: bool) -> Stored:
    """Return the content of a folder.

    Raises:
        FileNotFoundError: There is none.
        _DamagedError: Its rows are not those that were written.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    try:
        meta = _read_meta(folder)
        parts = {
            name: _part(folder / name, in_memory=in_memory) for name, num_rows in meta["parts"].items() if num_rows
        }
        # `datasets` cannot read a dataset without rows, so none is written; all parts have the same columns.
        empty = next(iter(parts.values())).select([])
        stored = Stored(parts={name: parts.get(name, empty) for name in meta["parts"]}, meta=meta)
        digest = digest_of(stored)
    except Exception as error:  # damaged files make pyarrow and datasets fail in every way there is
        raise _DamagedError(f"{folder} is damaged ({type(error).__name__}: {error})") from error
    if digest != meta["digest"]:
        raise _DamagedError(f"{folder} is damaged (its rows have changed)")
    return stored


def _read_meta(folder: Path) -> Mapping[str, Any]:
    file = json.loads((folder / "meta.json").read_text())
    meta: Mapping[str, Any] = file["meta"]
    if file["sha256"] != _checksum(meta):
        raise ValueError("meta.json has changed")
    return meta


def _checksum(meta: Mapping[str, Any]) -> str:
    return checksum(json.dumps(meta, sort_keys=True).encode())


def _part(folder: Path, *, in_memory: bool) -> Dataset:
    import datasets

    found = datasets.load_from_disk(str(folder), keep_in_memory=in_memory)
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
        meta = {**stored.meta, "parts": sizes, "digest": digest_of(stored)}
        (new / "meta.json").write_text(json.dumps({"sha256": _checksum(meta), "meta": meta}))

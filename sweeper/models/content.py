"""Compares the files of a base model with what was fetched, and with what a sweep was planned with.

A model whose weights were replaced by zeros loads without a word, and half a file fails far from its cause. So the
controller reads all files before the first worker opens a study, and each worker compares them before it loads them.
What was fetched is known from the record beside it (`sweeper.fetch.digests`) or, in the hub's cache, from the names of
the blobs. Nothing is known in advance of a folder of the user's; only the sweep pins it (`sweeper.sweep.plan`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from sweeper.errors import ContentChanged
from sweeper.fetch.digests import SMALL_BYTES, content_digest, read_record
from sweeper.fetch.files import TOKENIZER_FILES
from sweeper.types import FileRef, ModelRef

__all__ = ["check_model", "find_damage", "first_difference", "model_ref"]

_CODE_FILES = ("*.py",)
_INDEX = "model.safetensors.index.json"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT_DIGITS = 40


def model_ref(name: str, folder: Path, *, cache: Path, with_code: bool) -> ModelRef:
    """Return the files of a model that are loaded, by their content; `find_damage` has read them.

    Args:
        name: The model's name.
        folder: Its folder.
        cache: Folder of fetched files.
        with_code: Whether the code that comes with the model is run.
    """
    return ModelRef(name=name, files=tuple(_files(folder, cache=cache, with_code=with_code)))


def check_model(ref: ModelRef, folder: Path, *, cache: Path, with_code: bool) -> None:
    """Check that a folder still has the model that a sweep was planned with.

    Large files are read again only if they may have changed since the controller read them.

    Raises:
        ContentChanged: A file differs, is missing or is new.
    """
    found = _files(folder, cache=cache, with_code=with_code)
    if difference := first_difference(ref.files, found):
        raise ContentChanged(
            f"model {ref.name}, in {folder}, is not the one that the sweep was planned with: {difference}. Restore "
            "that file and run the same command again; a model that was fetched is then fetched again if it is damaged"
        )


def first_difference(before: Iterable[FileRef], now: Iterable[FileRef]) -> str:
    """Return how the files of a model differ; empty if they do not."""
    had, has = ({file.name: file for file in files} for files in (before, now))
    for name in sorted({*had, *has}):
        if name not in has:
            return f"{name} is missing"
        if name not in had:
            return f"{name} is new"
        if had[name].num_bytes != has[name].num_bytes:
            return f"{name} has {has[name].num_bytes} bytes instead of {had[name].num_bytes}"
        if had[name].sha256 != has[name].sha256:
            return f"{name} has the SHA-256 {has[name].sha256[:12]} instead of {had[name].sha256[:12]}"
    return ""


def find_damage(folder: Path, *, cache: Path, reads_weights: bool) -> dict[Path, str]:
    """Return the files of a model that are not as they were fetched, or cannot be complete, and why.

    Args:
        folder: The model's folder.
        cache: Folder of fetched files.
        reads_weights: Whether to compare all digests; if not, those of small files, and the sizes of the others.
    """
    recorded = read_record(folder) or {}
    paths = {folder / name for name in recorded} | set(_loaded_files(folder, with_code=True))
    found: dict[Path, str] = {}
    for path in sorted(paths):
        expected = recorded.get(path.name)
        if why := _damage(path, expected, cache=cache, reads_weights=reads_weights):
            found[path] = why
    return found


def _damage(path: Path, expected: FileRef | None, *, cache: Path, reads_weights: bool) -> str:
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    if expected is not None and size != expected.num_bytes:
        return f"it has {size} bytes instead of {expected.num_bytes}"
    if size >= SMALL_BYTES and not reads_weights:
        return ""
    digest = content_digest(path, cache=cache, must_read=True)
    if expected is not None and digest != expected.sha256:
        return "its content has changed since it was fetched"
    blob = path.resolve()
    if blob.parent.name == "blobs" and _HASH.fullmatch(blob.name) and _blob_hash(path, blob.name, digest) != blob.name:
        return "its content is not that of the hub"
    return _incomplete(path, size) if path.suffix == ".safetensors" and reads_weights else ""


def _blob_hash(path: Path, name: str, digest: str) -> str:
    """Return the hash by which the hub's cache names a blob: SHA-256 for large files, git's SHA-1 for the others."""
    if len(name) > _GIT_DIGITS:
        return digest
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _incomplete(path: Path, size: int) -> str:
    """Return why a safetensors file cannot be complete; empty if it can."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        end = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "it is no safetensors file: its header cannot be read"
    return "" if size == end else f"it has {size} bytes, but its header names {end}"


def _files(folder: Path, *, cache: Path, with_code: bool) -> list[FileRef]:
    return [
        FileRef(name=path.name, sha256=content_digest(path, cache=cache), num_bytes=path.stat().st_size)
        for path in _loaded_files(folder, with_code=with_code)
    ]


def _loaded_files(folder: Path, *, with_code: bool) -> list[Path]:
    """Return the files that are loaded: the weights as transformers chooses them, configuration and tokenizer."""
    single, index = folder / "model.safetensors", folder / _INDEX
    weights = [single] if single.exists() else [*folder.glob("*.safetensors"), *([index] if index.exists() else [])]
    patterns = (*TOKENIZER_FILES, *(_CODE_FILES if with_code else ()))
    others = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted({*weights, *others})

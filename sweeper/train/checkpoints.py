"""Saves the state and the adapters of lanes, and reads them again: a worker has one `CheckpointWriter`, `Lane` reads.

A checkpoint is a safetensors file, and so are the tensors of an adapter. A small one is part of the worker's reply. A
large one is written and flushed by the worker, and only its checksum is sent: nothing refers to the file until the
controller moves it to its name. A worker that is killed leaves at most files in a folder of its own, which its
successor empties.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file

from sweeper.disk.atomic import file_checksum, write_by_content
from sweeper.errors import DiskError, StoreError
from sweeper.execute.base import CheckpointPolicy
from sweeper.types import Checkpoint, CheckpointFile

__all__ = ["ADAPTER_METADATA", "CheckpointWriter", "read_checkpoint", "safetensors_parts", "to_safetensors"]

log = logging.getLogger(__name__)
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
ADAPTER_METADATA = {"format": "pt"}
"""What transformers and PEFT write into the header of their safetensors."""
_ALIGNMENT = 8
_MOMENTS = ("moment1", "moment2")
_MOST_TIME = 0.02
"""Largest share of the time that a pack's large checkpoints between rungs may take: after slow ones, the next wait."""


class _Saved(NamedTuple):
    """When a trial was last saved, and how long that took."""

    at_s: float
    took_s: float = 0.0


class CheckpointWriter:
    """Saves checkpoints when a policy says so, and adapters.

    Args:
        policy: How and when.
        timer: A monotonic clock, in seconds.
    """

    def __init__(self, policy: CheckpointPolicy, timer: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._timer = policy, timer
        self._folder: Path | None = None
        self._saved: dict[int, _Saved] = {}

    def open(self, folder: Path | None) -> None:
        """Use a folder from now on, and remove what a worker that was killed left in it; None if there is none."""
        self._folder, self._saved = folder, {}
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def admitted(self, number: int) -> None:
        """Note that a trial enters the pack, new or from its last checkpoint."""
        self._saved[number] = _Saved(at_s=self._timer())

    def keep(self, numbers: Collection[int]) -> None:
        """Forget the trials that are no longer in the pack."""
        self._saved = {number: each for number, each in self._saved.items() if number in numbers}

    def is_due(self, number: int, tensors: Mapping[str, torch.Tensor], *, is_scored: bool) -> bool:
        """Whether a trial is to be saved after the chunk that it has just completed.

        Args:
            number: The trial.
            tensors: Its state, by name.
            is_scored: Whether the chunk is a rung: what the search knows of must not be repeated.
        """
        every_s = self._policy.every_s
        if is_scored or not every_s or _num_bytes(tensors) < self._policy.file_bytes:
            return True
        pack_s = sum(each.took_s for each in self._saved.values())
        return self._timer() - self._saved[number].at_s >= max(every_s, pack_s / _MOST_TIME)

    def save(self, number: int, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        """Save the state of a trial.

        Args:
            number: The trial.
            tensors: Its state, by name.
        """
        started_s = self._timer()
        checkpoint = self._save(number, tensors)
        now_s = self._timer()
        self._saved[number] = _Saved(at_s=now_s, took_s=now_s - started_s)
        return checkpoint

    def save_adapter(self, number: int, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        """Save the tensors of a trial's adapter.

        Args:
            number: The trial.
            tensors: By PEFT's names.
        """
        is_large = _num_bytes(tensors) >= self._policy.file_bytes
        return self._write(number, tensors, "adapter", is_large=is_large, metadata=ADAPTER_METADATA)

    def _save(self, number: int, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        is_large = _num_bytes(tensors) >= self._policy.file_bytes
        moments = {name: tensors[name].to(getattr(torch, self._policy.moments)) for name in _MOMENTS}
        return self._write(number, {**tensors, **moments}, "checkpoint", is_large=is_large)

    def _write(
        self,
        number: int,
        tensors: Mapping[str, torch.Tensor],
        what: str,
        *,
        is_large: bool,
        metadata: Mapping[str, str] | None = None,
    ) -> Checkpoint:
        if self._folder is not None and is_large:
            try:
                parts = safetensors_parts(tensors, metadata)
                path, digest = write_by_content(self._folder, parts, prefix=f"{number}-")
                return CheckpointFile(path=path, sha256=digest, num_bytes=path.stat().st_size)
            except (DiskError, OSError) as error:
                # The controller may have another disk, or more rights. If not, its error ends the sweep as any other.
                log.warning("the %s of trial %d is sent to the controller instead: %s", what, number, error)
        return to_safetensors(tensors, metadata)


def _num_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def to_safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file; the arguments are those of `safetensors_parts`."""
    return b"".join(safetensors_parts(tensors, metadata))


def safetensors_parts(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in parts, each tensor without a copy if it is contiguous and on the CPU.

    `safetensors.torch.save` copies every tensor twice, and its file would have to be read again for the checksum.

    Args:
        tensors: By name. Those that are not contiguous are copied, one at a time.
        metadata: Texts for the header.
    """
    # Wide numbers first, so that each tensor is aligned, as `save` orders them.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    ends = itertools.accumulate(tensor.nbytes for _, tensor in ordered)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    header |= {
        name: {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end - tensor.nbytes, end]}
        for (name, tensor), end in zip(ordered, ends, strict=True)
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        flat: Any = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()  # a buffer, which NumPy's types hide
        yield memoryview(flat)


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint or of an adapter, by name.

    Raises:
        StoreError: It is damaged, or its file is not the one that was written.
    """
    try:
        if not isinstance(checkpoint, CheckpointFile):
            return load(checkpoint)
        if file_checksum(checkpoint.path) != checkpoint.sha256:
            raise StoreError(f"{checkpoint.path} has the wrong checksum")
        return load_file(checkpoint.path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"it cannot be read ({error})") from error

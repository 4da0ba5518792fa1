"""The head that a trial with ``train.head_init=probe`` starts from: a probe on the exact inputs of the model's head.

Linear probing, then fine-tuning: Kumar et al. 2022, arXiv:2202.10054. It is fitted once for a study. The first worker
that needs it writes it into the cache, the others read it, so all lanes of all workers and sessions start from the same
values.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sweeper.disk.aside import move_aside
from sweeper.disk.atomic import checksum, remove_unfinished, write_atomic
from sweeper.disk.lock import hold_file
from sweeper.train.layout import HeadShape
from sweeper.train.probe import Probe

__all__ = ["STRENGTH", "head_values", "initial_head"]

log = logging.getLogger(__name__)
STRENGTH = 0.1
"""Strength of the probe. A stronger one predicts better at first, but leaves little loss on the training rows, and so
little for the adapter to learn from: on 47 labels, trials then end 0.12 lower (benchmarks/results/recipes.md)."""


def initial_head(cache: Path, identity: object, fit: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return the values of the head's last layer, fitted or read from the cache; damaged ones are fitted again.

    Args:
        cache: Folder of fetched and prepared files.
        identity: Everything that the values depend on, as JSON.
        fit: Computes them.
    """
    digest = hashlib.sha256(json.dumps([STRENGTH, identity]).encode()).hexdigest()[:20]
    path = cache.expanduser() / "heads" / f"{digest}.safetensors"
    with hold_file(path.with_suffix(".lock")):
        found = _read(path) if path.exists() else None
        if found is not None:
            return found
        if path.exists():
            log.warning("%s is damaged, moved to %s, and fitted again", path, move_aside(path).name)
        remove_unfinished(path.parent, name=path.name)
        head = fit().contiguous()
        write_atomic(path, save({"head": head}, metadata={"sha256": _checksum(head)}))
        return head


def _read(path: Path) -> torch.Tensor | None:
    """Return the stored values; None if they are damaged."""
    try:
        with safe_open(path, "pt") as file:
            head: torch.Tensor = file.get_tensor("head")
            return head if (file.metadata() or {}).get("sha256") == _checksum(head) else None
    except (OSError, SafetensorError):
        return None


def _checksum(head: torch.Tensor) -> str:
    return checksum(head.cpu().numpy().tobytes())


def head_values(probe: Probe, shape: HeadShape) -> torch.Tensor:
    """Return a probe as the part of a lane's vector that a head layer has: its weight, then its bias if it has one."""
    parts = [probe.weight.flatten(), *([probe.bias] if shape.has_bias else [])]
    return torch.cat(parts).float()

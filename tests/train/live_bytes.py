"""Counts the bytes of the tensors that exist, by watching every operation; on any device, also on `meta`."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While active, counts the tensors that operations make, and forgets them when they are freed.

    Views of tensors that existed before count nothing, and neither does memory that a kernel uses internally. With a
    device, tensors on others count nothing.
    """

    def __init__(self, device=None):
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self._known = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            key = storage._cdata
            is_counted = self.device is None or storage.device.type == self.device
            if is_counted and key not in given and key not in self._known:
                self._known[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key)
        return result

    def _forget(self, key):
        self.now -= self._known.pop(key)


def _storages(values):
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:  # oneDNN's weights have no storage
            yield value.untyped_storage()

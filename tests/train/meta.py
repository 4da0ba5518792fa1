"""A stand-in for a GPU: training on the `meta` device, where tensors have shapes and no values.

Nothing is computed, so an 8B model trains in seconds and without memory, and whatever waits for the device has nothing
to read. `FakeGpu` counts the kernels that a GPU would be asked for, adds up the tensors that are alive, and raises at
every synchronisation but the ones that a test allows.
"""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.models import padded_attention
from sweeper.models.device_choice import PADDED_SDPA
from sweeper.models.fused import fuse_operations
from sweeper.tasks.causal_lm import Task
from sweeper.train.batches import TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.pack import Pack
from tests.train.languages import examples_of, targets_of
from tests.train.tiny import spec, start

META = torch.device("meta")
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
"""Llama-3.1-8B, from its config.json."""
TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 128,
}
_NO_KERNEL = frozenset(
    {
        *(
            "alias",
            "as_strided",
            "chunk",
            "detach",
            "empty",
            "empty_like",
            "empty_strided",
            "expand",
            "lift_fresh",
            "narrow",
        ),
        *(
            "new_empty",
            "new_empty_strided",
            "permute",
            "reshape",
            "select",
            "set_",
            "slice",
            "split",
            "split_with_sizes",
        ),
        *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "view_as", "_unsafe_view", "_reshape_alias"),
    }
)
"""Operators that only make a view or reserve memory."""


class SynchronisedError(AssertionError):
    """The host waited for the device."""


class FakeGpu(TorchDispatchMode):
    """Counts what a GPU would do, while the context is open.

    Attributes:
        kernels: Kernels by name of the operator.
        copies_to_host: Number of kernels before each copy of a tensor to the host, which waits for all of them.
        live_bytes: Size of the tensors on the device that were made in the context and are still alive.
        peak_bytes: The most that was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.copies_to_host: list[int] = []
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()
        self._open = ExitStack()

    @property
    def num_kernels(self) -> int:
        return self.kernels.total()

    def __enter__(self):
        self._open.enter_context(_NewTensors(self))
        # As on a GPU, they are one kernel each; on `meta`, torch decomposes them into a dozen operators.
        self._open.enter_context(patch.object(F, "scaled_dot_product_attention", _attention))
        self._open.enter_context(patch.object(F, "rms_norm", _Norm.apply))
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._open.close()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        on_device = any(tensor.device == META for tensor in tensors)
        name = operator._overloadpacket.__name__
        if name == "_to_copy" and on_device and kwargs.get("device") == torch.device("cpu"):
            self.copies_to_host.append(self.num_kernels)
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name in {"_to_copy", "copy_"}:
            self._check_copy(name, args, kwargs)
        try:
            result = operator(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise SynchronisedError(f"{name}: {error}") from error
        made = [value for value in tree_flatten(result)[0] if isinstance(value, torch.Tensor) and value.device == META]
        if (made or on_device) and name not in _NO_KERNEL:
            self.kernels[name] += 1
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        for tensor in made:
            if tensor.untyped_storage()._cdata not in given:  # else a view, maybe of a weight from before
                self._track(tensor)
        return result

    def _check_copy(self, name: str, args: Any, kwargs: Any) -> None:
        target = kwargs.get("device") if name == "_to_copy" else args[0].device
        source = args[0] if name == "_to_copy" else args[1]
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        # torch waits for the stream after a copy from the host, unless it is told not to.
        if target == META and source.device != META and not non_blocking and self.num_kernels:
            raise SynchronisedError(f"{name}: a blocking copy from the host")

    def check_new(self, name: str, device: object) -> None:
        """Raise if values of the host are about to be made a tensor on the device in the middle of the work."""
        if device is not None and torch.device(device) == META and self.num_kernels:
            raise SynchronisedError(f"{name}: a blocking copy from the host")

    def _track(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


class _NewTensors(TorchFunctionMode):
    """Watches `torch.tensor`, whose copies to the device pass by the dispatcher."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in {torch.tensor, torch.as_tensor}:
            self._gpu.check_new(function.__name__, kwargs.get("device"))
        return function(*args, **kwargs)


def _attention(query, key, value, *, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):  # noqa: ARG001  the kernel sees that there are fewer key heads
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[
            0
        ]
    mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, dropout_p, is_causal, scale=scale
    )[0]


class _Norm(torch.autograd.Function):
    """Asks for the kernels and keeps the tensors that the fused norm of CUDA does."""

    @staticmethod
    def forward(ctx, x, shape, weight, epsilon):  # noqa: ARG004  of the real one
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.saved_tensors[1], None, None, None


def meta_llama(**sizes):
    """Make a frozen Llama in bfloat16 that has no values."""
    padded_attention.register()
    config = AutoConfig.for_model("llama", **{**TINY, **sizes}, attn_implementation=PADDED_SDPA, use_cache=False)
    with META:
        model = AutoModelForCausalLM.from_config(config)
    fuse_operations(model)
    return model.to(torch.bfloat16).eval().requires_grad_(requires_grad=False)


def meta_pack(model=None, **options):
    model = meta_llama() if model is None else model
    return Pack(model, targets=targets_of(model), head=[], dtype=torch.bfloat16, **options)


def meta_lanes(pack, ranks, **settings):
    return start(pack, [spec(n, seed=n, **{"lora.r": rank, **settings}) for n, rank in enumerate(ranks)])


def meta_rows(*, micro_batch=4, micro_batches=1, length=16, completion=4):
    """Make one chunk of rows of two lengths, of which the longer half has ``length`` tokens."""
    lengths = [length - (row % 2) for row in range(micro_batch * micro_batches)]
    rows = [([3] * (n - completion), [4] * completion, -1) for n in lengths]
    plan = ChunkPlan.of(len(rows), micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
    return TrainingRows(examples_of(rows), plan, seed=7, pad_token_id=2, device=META)


def kernels_per_layer(ranks, *, model=meta_llama, **settings):
    """Return the kernels that one more layer takes in one more pass, forward and backward."""

    def kernels(layers, micro_batches):
        pack = meta_pack(model(num_hidden_layers=layers))
        rows = meta_rows(micro_batches=micro_batches)
        return train_on_meta(pack, meta_lanes(pack, ranks, **settings), rows).kernels

    # What a pass costs on its own and what a chunk costs on its own drop out.
    return (kernels(3, 2) - kernels(3, 1)) - (kernels(2, 2) - kernels(2, 1))


def train_on_meta(pack, lanes, rows, **options):
    """Train a chunk and return the `FakeGpu` that watched."""
    with FakeGpu() as gpu:
        pack.train_chunk(lanes, rows, Task().row_loss, **options)
    return gpu

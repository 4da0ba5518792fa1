"""Where the time of a training step goes, by kind of operator.

torch's own profiler keeps an event for every call, a gigabyte for a chunk of a pack, so that later tensors lie in fresh
memory and cost several times as much. This one only keeps sums.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["KINDS", "OperatorTimes", "kind_of"]

KINDS: Mapping[str, str] = {
    "frozen": "products with frozen weights",
    "adapters": "products with adapters and heads",
    "attention": "products of attention",
    "elementwise": "activations, norms and softmax",
    "dropout": "dropout masks, drawn and applied",
    "optimizer": "optimizer",
    "other": "sums, copies and views",
}
_FROZEN = frozenset({"_linear_pointwise", "mm", "addmm"})
_BATCHED = frozenset({"bmm", "baddbmm", "baddbmm_"})
_ELEMENTWISE = ("gelu", "silu", "native_layer_norm", "_softmax", "tanh", "rsqrt", "pow", "mean")
_INTEGER = frozenset({torch.int16, torch.int32, torch.int64, torch.uint8})
_OPTIMIZER = ("_fused_adamw", "linalg_vector_norm")
_MASK_OPERATORS = ("random_", "bitwise_", "sub_")


def kind_of(name: str, shapes: Sequence[Sequence[int]], *, num_lanes: int, is_integer: bool = False) -> str:
    """Return the kind of an operator, a key of `KINDS`.

    Args:
        name: Its name without namespace and overload, e.g. ``bmm``.
        shapes: Shapes of its tensors.
        num_lanes: Lanes of the pack; batched products of more matrices belong to the attention.
        is_integer: Whether its first tensor holds integers.
    """
    if name in _FROZEN:
        return "frozen"
    if name in _BATCHED:
        return "attention" if shapes[-1][0] > num_lanes else "adapters"
    if name.startswith(_OPTIMIZER):
        return "optimizer"
    if name.startswith(_MASK_OPERATORS) and is_integer:
        return "dropout"
    return "elementwise" if name.startswith(_ELEMENTWISE) else "other"


class OperatorTimes(TorchDispatchMode):
    """A context manager that adds up the time of every operator called in it, forward and backward.

    Args:
        num_lanes: Lanes of the pack that is trained.
    """

    def __init__(self, num_lanes: int) -> None:
        super().__init__()
        self._num_lanes = num_lanes
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the operator and add up its time."""
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        elapsed_s = time.perf_counter() - started
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        kind = kind_of(
            func.overloadpacket.__name__,
            [tensor.shape for tensor in tensors],
            num_lanes=self._num_lanes,
            is_integer=bool(tensors) and tensors[0].dtype in _INTEGER,
        )
        self.seconds[kind] += elapsed_s
        self.calls[kind] += 1
        return result

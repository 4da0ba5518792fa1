"""A stand-in for a GPU that computes: tensors say that they are on ``cuda:0``, and their values are on the host.

Each operator runs twice: on fake tensors of torch (`FakeTensorMode`), which raise where a GPU would (operands on
different devices, a shape or type that a kernel refuses), and on the values. So whole chunks train as they would on a
GPU, through every branch for GPUs, with losses that can be compared with those of the CPU.

What a GPU does and this does not show is recorded: copies to the host and other reasons to wait, and copies that do not
wait although they must. Operators of `sweeper.kernels` compute their reference; the fused attention is torch's own
decomposition. Unlike `meta`, it needs values, so models must be tiny.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA = torch.device("cuda:0")
_HOST = torch.device("cpu")
_STAND_IN = torch.device("meta")
_STAGED_BYTES = 1 << 16
"""Smaller copies from pageable memory go with the command itself; for larger ones the driver waits for its stream."""
_VIEWS = frozenset(
    {
        *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "expand", "permute", "select", "slice"),
        *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
    }
)
"""Operators that ask for no kernel."""
_READS = frozenset({"_local_scalar_dense", "item", "nonzero", "masked_select", "unique_dim", "_unique2", "equal"})
"""Operators whose result the host waits for."""


class AsyncError(AssertionError):
    """A copy to the host that does not wait: its values would be read before they are there."""


class CudaTensor(torch.Tensor):
    """A tensor on the stand-in; ``values`` has its values.

    Only Python is told that its device is a GPU. To autograd it is `meta`, as the CPU builds of torch have no streams.
    """

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> CudaTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_STAND_IN,
        )
        made.values = values
        return made

    @property
    def device(self):
        return CUDA

    @property
    def is_cuda(self):
        return True

    @property
    def is_meta(self):
        return False

    def __repr__(self, **_options):
        return f"CudaTensor({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise AssertionError(f"{operator} on a tensor of the stand-in after its end")


class FakeCuda(TorchDispatchMode):
    """The stand-in, while the context is open.

    Attributes:
        waits: Why the host waited for the device, in order: names of operators.
        stalls: Large copies from memory that is not pinned, which wait for the stream.
        operators: How often each operator ran on the device.
        peak_bytes: What `torch.cuda.max_memory_allocated` answers.
    """

    def __init__(self, *, free_bytes: int = 1 << 34, capability: tuple[int, int] = (8, 0)) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.stalls: list[str] = []
        self.operators: Counter[str] = Counter()
        self.free_bytes, self.capability = free_bytes, capability
        self.peak_bytes = 1 << 20
        self.emptied = 0
        self._pinned: set[int] = set()
        self._known: dict[tuple[Any, ...], Any] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=False)
        self._open = ExitStack()

    def __enter__(self):
        enter = self._open.enter_context
        enter(patch.object(fake_tensor, "init_gpu_context", lambda _device: None))
        if not torch.cuda.is_available():
            enter(patch.object(torch.cuda, "_lazy_init", lambda: None))
        # `Module.to` makes new parameters; put into the old ones, the tensors would lose their class.
        enter(patch.object(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True))
        for name, answer in self._answers().items():
            enter(patch.object(torch.cuda, name, answer))
        enter(_Placing())
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._open.close()

    def _answers(self) -> dict[str, Any]:
        return {
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: self.capability >= (8, 0),  # noqa: ARG005
            "get_device_capability": lambda _device=None: self.capability,
            "empty_cache": self._empty_cache,
            "mem_get_info": lambda _device=None: (self.free_bytes, 2 * self.free_bytes),
            "current_device": lambda: 0,
            "memory_allocated": lambda _device=None: 0,
            "memory_reserved": lambda _device=None: 0,
            "max_memory_allocated": lambda _device=None: self.peak_bytes,
            "reset_peak_memory_stats": lambda _device=None: None,
            "synchronize": lambda _device=None: self.waits.append("synchronize"),
        }

    def _empty_cache(self) -> None:
        self.emptied += 1

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        name = operator._overloadpacket.__name__
        if name == "_pin_memory":
            pinned = args[0].clone()
            self._pinned.add(pinned.untyped_storage()._cdata)
            return pinned
        if name == "is_pinned":
            return args[0].untyped_storage()._cdata in self._pinned
        on_device = any(isinstance(value, CudaTensor) for value in flat)
        if not on_device and not any(map(_is_device, flat)):
            return operator(*args, **kwargs)
        self.operators[name] += 1
        self._check_copy(name, args, kwargs)
        if self._is_read(name, args):
            self.waits.append(name)
        expected = self._expected(operator, name, args, kwargs, flat)
        found = operator(*tree_map(_values, args), **tree_map(_values, kwargs))
        return self._wrapped(name, found, expected, flat)

    def _is_read(self, name: str, args: Any) -> bool:
        return name in _READS or (name == "index" and any(_is_mask(one) for one in args[1]))

    def _expected(self, operator: Any, name: str, args: Any, kwargs: Any, flat: list[Any]) -> Any:
        """Return what `_on_fakes` does; it depends on shapes, and is the same for most micro-batches."""
        key = (operator, *map(_described, flat))
        if key not in self._known:
            self._known[key] = self._on_fakes(operator, name, args, kwargs)
        return self._known[key]

    def _on_fakes(self, operator: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run an operator without values; None if that says nothing about the device of its result."""
        if name in _VIEWS or name == "copy_" or self._is_read(name, args):
            return None  # nothing that a device could refuse
        with self._fake:
            return operator(*tree_map(self._faked, args), **tree_map(self._faked, kwargs))

    def _faked(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return CUDA if _is_device(value) else value
        device = value.device
        like = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
        return FakeTensor(self._fake, like, device)

    def _wrapped(self, name: str, found: Any, expected: Any, given: list[Any]) -> Any:
        """Return the values as tensors of the device that torch says they are on."""
        known = {id(value.values): value for value in given if isinstance(value, CudaTensor)}
        plan, spec = tree_flatten(found)
        fakes = tree_flatten(expected)[0] if expected is not None else plan
        results = []
        for value, fake in zip(plan, fakes, strict=True):
            if not isinstance(value, torch.Tensor):
                results.append(value)
                continue
            if id(value) in known:  # changed in place
                results.append(known[id(value)])
                continue
            if expected is not None:
                assert (fake.shape, fake.dtype) == (value.shape, value.dtype), f"{name}: {fake} is not {value}"
            results.append(value if expected is not None and fake.device == _HOST else CudaTensor(value))
        return tree_unflatten(results, spec)

    def _check_copy(self, name: str, args: Any, kwargs: Any) -> None:
        if name not in {"_to_copy", "copy_"}:
            return
        source, target = (args[0], kwargs.get("device")) if name == "_to_copy" else (args[1], args[0].device)
        if target is None or torch.device(target).type == source.device.type:
            return
        non_blocking = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
        if torch.device(target) == _HOST:
            if non_blocking:
                raise AsyncError(f"{name} to the host, {list(source.shape)}")
            self.waits.append(f"{name} to the host")
        elif not non_blocking:
            self.waits.append(f"{name} from the host")
        elif source.nbytes > _STAGED_BYTES and source.untyped_storage()._cdata not in self._pinned:
            self.stalls.append(f"{name} from the host, {list(source.shape)}")


class _Placing(TorchFunctionMode):
    """Does what torch does in C++ before it dispatches, where a build for CPUs asks for a GPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in {torch.tensor, torch.as_tensor} and _is_device(torch.device(kwargs.get("device") or "cpu")):
            return function(*args, **{**kwargs, "device": None}).to(CUDA)
        if function is torch.Tensor.tolist and isinstance(args[0], CudaTensor):
            return args[0].cpu().tolist()
        if function is torch.Tensor.to:
            args, kwargs = tree_map(_with_index, (args, kwargs))
        return function(*args, **kwargs)


def _with_index(value: Any) -> Any:
    return CUDA if value == "cuda" or _is_device(value) else value


def _values(value: Any) -> Any:
    """Return what runs on the host in place of an argument."""
    if isinstance(value, CudaTensor):
        return value.values
    return _HOST if _is_device(value) else value


def _described(value: Any) -> Any:
    """Return what the result's shape, type and device depend on."""
    if isinstance(value, torch.Tensor):
        return value.device, value.dtype, tuple(value.shape), value.stride()
    return type(value), value


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type in {"cuda", "meta"}


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in {torch.bool, torch.uint8}

"""Kernels of our own for GPUs, as operators of torch, so that each is one operator to autograd, profilers and tests.

Each operator has three implementations: a Triton kernel for CUDA (`triton_kernels`), torch operations that give the
same values (the reference, for CPUs and where Triton is missing), and shapes for the `meta` device. On a CPU only tests
call them.

A random word is a hash of its place: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195; its generator
is the hash of a counter). So any part of a mask can be computed again at any time, and no mask is ever stored.

Shapes: K lanes, N values of a lane, W random words of a lane, one byte of a word for each value.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from sweeper.errors import first_line
from sweeper.failures import is_device_error, is_out_of_memory
from sweeper.kernels.splitmix import GAMMA, MIX_1, MIX_2, VALUES_PER_WORD

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["add_dropped_", "drop", "gate", "mix", "rotate", "signed"]

log = logging.getLogger(__name__)
_BITS = 64
_WORD = (1 << _BITS) - 1
_INTEGERS = {2: torch.int16, 4: torch.int32}
"""Integer type as wide as a value, by bytes."""

_library = torch.library.Library("sweeper", "DEF")  # type: ignore[no-untyped-call]
_library.define("drop(Tensor x, Tensor seeds, Tensor levels, int key, int first, float scale) -> Tensor")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "add_dropped_(Tensor(a!) into, Tensor x, Tensor seeds, Tensor levels, int key, int first) -> Tensor(a!)"
)
_library.define("rotate(Tensor query, Tensor key, Tensor cos, Tensor sin, float sign) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]
_library.define("gate(Tensor gates, Tensor values) -> Tensor")  # type: ignore[no-untyped-call]
_library.define("gate_backward(Tensor grad, Tensor gates, Tensor values) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]


def mix(word: int) -> int:
    """Return the hash of a 64-bit word."""
    word = ((word ^ (word >> 30)) * MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * MIX_2) & _WORD
    return word ^ (word >> 31)


def drop(  # noqa: PLR0917  the arguments of an operator
    x: torch.Tensor, seeds: torch.Tensor, levels: torch.Tensor, key: int, first: int, scale: float = 1.0
) -> torch.Tensor:
    """Return the values of every lane times ``scale``, with 0 where they are dropped.

    Value i of a lane is kept if byte ``first + i`` of the random bytes of its seed and ``key`` is below its level.

    Args:
        x: ``[K * rows, ...]``, the values of one lane after those of another.
        seeds: Seed of each lane's random bytes, ``[K]`` int64.
        levels: Bytes of 256 that keep a value, ``[K]`` int32.
        key: Key of the mask, a 64-bit integer with a sign: each gives other bytes.
        first: Number of values of the mask that come before those of ``x``, in every lane.
        scale: Factor of what is kept.
    """
    result: torch.Tensor = torch.ops.sweeper.drop(x, seeds, levels, key, first, scale)
    return result


def add_dropped_(  # noqa: PLR0917
    into: torch.Tensor, x: torch.Tensor, seeds: torch.Tensor, levels: torch.Tensor, key: int, first: int
) -> torch.Tensor:
    """Add the result of `drop` to ``into``, in place, and return it."""
    result: torch.Tensor = torch.ops.sweeper.add_dropped_(into, x, seeds, levels, key, first)
    return result


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and keys with rotary position embeddings (Su et al. 2021, arXiv:2104.09864), halves as pairs.

    Args:
        query: ``[rows, heads, T, D]``; the last dimension is contiguous.
        key: ``[rows, key heads, T, D]``.
        cos: ``[rows or 1, T, D]``, whose two halves are equal.
        sin: As ``cos``.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _Rotate.apply(query, key, cos, sin)  # type: ignore[no-untyped-call]
    return result


def gate(gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return silu(gates) * values, computed in float32."""
    result: torch.Tensor = _Gate.apply(gates, values)  # type: ignore[no-untyped-call]
    return result


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        result: tuple[torch.Tensor, torch.Tensor] = torch.ops.sweeper.rotate(query, key, cos, sin, 1.0)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        # The transpose of a rotation is the rotation by the opposite angle.
        query, key = torch.ops.sweeper.rotate(*grads, *ctx.saved_tensors, -1.0)
        return query, key, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gates, values)
        result: torch.Tensor = torch.ops.sweeper.gate(gates, values)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor] = torch.ops.sweeper.gate_backward(grads[0], *ctx.saved_tensors)
        return result


def _kept(x: torch.Tensor, seeds: torch.Tensor, levels: torch.Tensor, key: int, first: int) -> torch.Tensor:
    """Return ``x`` with 0 where it is dropped."""
    num_values = x.numel() // len(seeds)
    first_word, end = first // VALUES_PER_WORD, first + num_values
    words = torch.arange(first_word + 1, -(-end // VALUES_PER_WORD) + 1, device=x.device)
    bits_KW = _mixed((seeds + key)[:, None] + words * signed(GAMMA))
    offset = first - first_word * VALUES_PER_WORD
    bytes_KN = bits_KW.view(torch.uint8)[:, offset : offset + num_values]
    mask_KN = (bytes_KN < levels[:, None]).to(_INTEGERS[x.element_size()]).neg_()
    # A bitwise and, because an infinity that is dropped must become 0, not NaN.
    integers = x.contiguous().view(mask_KN.dtype)
    return (integers & mask_KN.view(integers.shape)).view(x.dtype)


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """Return what `mix` does, for int64 words that hold the bits of unsigned ones."""
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        words = (words ^ _shifted(words, shift)) * signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: torch.Tensor, by: int) -> torch.Tensor:
    """Return the words shifted to the right, with zeros from the left: torch repeats the sign."""
    return (words >> by) & ((1 << (_BITS - by)) - 1)


def signed(word: int) -> int:
    """Return the integer with the bits of an unsigned word."""
    word &= _WORD
    return word - (1 << _BITS) if word >> (_BITS - 1) else word


def _drop(  # noqa: PLR0917
    x: torch.Tensor, seeds: torch.Tensor, levels: torch.Tensor, key: int, first: int, scale: float
) -> torch.Tensor:
    kept = _kept(x, seeds, levels, key, first)
    return kept if scale == 1.0 else kept.mul_(scale)


def _add_dropped_(  # noqa: PLR0917
    into: torch.Tensor, x: torch.Tensor, seeds: torch.Tensor, levels: torch.Tensor, key: int, first: int
) -> torch.Tensor:
    return into.add_(_kept(x, seeds, levels, key, first))


def _drop_on_meta(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _add_dropped_on_meta_(into: torch.Tensor, *_: object) -> torch.Tensor:
    return into


def _rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float
) -> tuple[torch.Tensor, torch.Tensor]:
    def rotated(states: torch.Tensor) -> torch.Tensor:
        one, other = states.float().chunk(2, -1)
        turned = states.float() * cos[:, None].float() + torch.cat([-other, one], -1) * (sign * sin[:, None].float())
        return turned.to(states.dtype).transpose(1, 2).contiguous().transpose(1, 2)

    return rotated(query), rotated(key)


def _rotate_on_meta(query: torch.Tensor, key: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = (torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format) for x in (query, key))
    return one.transpose(1, 2), other.transpose(1, 2)


def _gate(gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (F.silu(gates.float()) * values.float()).to(values.dtype)


def _gate_on_meta(gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _gate_backward(grad: torch.Tensor, gates: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grads, gate_F, value_F = grad.float(), gates.float(), values.float()
    share = gate_F.sigmoid()
    slope = share * (1 + gate_F * (1 - share))
    return (grads * value_F * slope).to(gates.dtype), (grads * gate_F * share).to(values.dtype)


def _gate_backward_on_meta(
    grad: torch.Tensor,  # noqa: ARG001
    gates: torch.Tensor,
    values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _gate_on_meta(gates, gates), _gate_on_meta(values, values)


@functools.cache
def _fastest() -> ModuleType | None:
    """Return the Triton kernels; None if Triton is not installed, as on Windows, or does not work here.

    Triton compiles with the machine's C compiler, and writes to the home folder; many containers lack one of them.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from sweeper.kernels import triton_kernels

        _try_out(triton_kernels)
    except Exception as error:
        if is_out_of_memory(error) or is_device_error(error):
            raise
        log.warning("Triton does not work here, so slower operations of torch do the same: %s", first_line(error))
        return None
    return triton_kernels


def _try_out(kernels: Any) -> None:
    """Drop a few values, which compiles a kernel."""
    values, seeds = torch.ones(8, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
    kernels.drop(values, seeds, seeds.int(), 0, 0, 1.0)


def _register() -> None:
    # Triton is imported at the first call on a GPU: it takes a second, which workers on CPUs need not spend.
    references: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "drop": (_drop, _drop_on_meta),
        "add_dropped_": (_add_dropped_, _add_dropped_on_meta_),
        "rotate": (_rotate, _rotate_on_meta),
        "gate": (_gate, _gate_on_meta),
        "gate_backward": (_gate_backward, _gate_backward_on_meta),
    }
    for name, (reference, on_meta) in references.items():
        _library.impl(name, reference, "CPU")  # type: ignore[no-untyped-call]
        _library.impl(name, on_meta, "Meta")  # type: ignore[no-untyped-call]
        _library.impl(name, _on_cuda(name, reference), "CUDA")  # type: ignore[no-untyped-call]


def _on_cuda(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        kernels = _fastest()
        return (reference if kernels is None else getattr(kernels, name))(*args)

    return call


_register()

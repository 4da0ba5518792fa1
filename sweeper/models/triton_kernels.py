"""The Triton kernels of `kernels`, which says what they compute. Imported on GPUs only.

They give the bits of the reference: sums and products are taken in float32 and rounded once, as torch does.
"""
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sweeper.models.kernels import VALUES_PER_WORD

__all__ = ["add_dropped_", "drop"]

_WORDS = 256
"""Random words of a block: 2,048 values."""


@triton.jit
def _mix(word):
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    return word ^ (word >> 31)


@triton.jit(do_not_specialize=["key", "first", "num_values"])
def _drop_kernel(
    x_ptr,
    into_ptr,
    seeds_ptr,
    levels_ptr,
    key,
    first,
    num_values,
    scale,
    adds: tl.constexpr,
    num_words: tl.constexpr,
):
    lane = tl.program_id(1).to(tl.int64)
    word = first // 8 + tl.program_id(0).to(tl.int64) * num_words + tl.arange(0, num_words)
    counter = tl.load(seeds_ptr + lane).to(tl.uint64, bitcast=True) + key.to(tl.int64).to(tl.uint64, bitcast=True)
    bits = _mix(counter + (word + 1).to(tl.uint64) * 0x9E3779B97F4A7C15)
    # One word serves eight values, so it is computed once and its bytes are spread over a second axis.
    byte = tl.arange(0, 8)
    drawn = (bits[:, None] >> (byte * 8)[None, :].to(tl.uint64)) & 255
    kept = drawn.to(tl.int32) < tl.load(levels_ptr + lane)
    value = word[:, None] * 8 + byte[None, :] - first
    is_valid = (value >= 0) & (value < num_values)
    place_of_value = lane * num_values + value
    x = tl.load(x_ptr + place_of_value, mask=is_valid, other=0.0)
    result = tl.where(kept, x.to(tl.float32) * scale, 0.0)
    if adds:
        result += tl.load(into_ptr + place_of_value, mask=is_valid, other=0.0).to(tl.float32)
    tl.store(into_ptr + place_of_value, result.to(x.dtype), mask=is_valid)


def drop(x, seeds, levels, key, first, scale):  # noqa: PLR0917
    """Return the result of `kernels.drop`."""
    x = x.contiguous()
    return _launch(x, torch.empty_like(x), seeds, levels, key, first, scale, adds=False)


def add_dropped_(into, x, seeds, levels, key, first):  # noqa: PLR0917
    """Do what `kernels.add_dropped_` does."""
    return _launch(x.contiguous(), into, seeds, levels, key, first, 1.0, adds=True)


def _launch(x, into, seeds, levels, key, first, scale, *, adds):  # noqa: PLR0917
    num_values = x.numel() // len(seeds)
    end = first + num_values
    words = -(-end // VALUES_PER_WORD) - first // VALUES_PER_WORD
    grid = (triton.cdiv(words, _WORDS), len(seeds))
    _drop_kernel[grid](x, into, seeds, levels, key, first, num_values, scale, adds=adds, num_words=_WORDS)
    return into


def signatures(dtype):
    """Return each kernel with the types of its arguments and its constants, for compiling it without a GPU."""
    pointers = {"x_ptr": f"*{dtype}", "into_ptr": f"*{dtype}", "seeds_ptr": "*i64", "levels_ptr": "*i32"}
    numbers = {"key": "i64", "first": "i64", "num_values": "i64", "scale": "fp32"}
    constants = {"adds": True, "num_words": _WORDS}
    return [(_drop_kernel, {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}, constants)]

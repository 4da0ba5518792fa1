"""The Triton kernels of `operators`, which says what they compute. Imported on GPUs only.

They give the bits of the reference: sums and products are taken in float32 and rounded once, as torch does.
"""
# Triton reads the types of a kernel from its call, and has no stubs.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN003, ANN201, ANN202, PLR0917

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sweeper.kernels.splitmix import VALUES_PER_WORD

__all__ = ["add_dropped_", "drop", "gate", "gate_backward", "rotate", "signatures"]

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


def drop(x, seeds, levels, key, first, scale):
    """Return the result of `kernels.drop`."""
    x = x.contiguous()
    return _launch(x, torch.empty_like(x), seeds, levels, key, first, scale, adds=False)


def add_dropped_(into, x, seeds, levels, key, first):
    """Do what `kernels.add_dropped_` does."""
    return _launch(x.contiguous(), into, seeds, levels, key, first, 1.0, adds=True)


def _launch(x, into, seeds, levels, key, first, scale, *, adds):
    num_values = x.numel() // len(seeds)
    end = first + num_values
    words = -(-end // VALUES_PER_WORD) - first // VALUES_PER_WORD
    grid = (triton.cdiv(words, _WORDS), len(seeds))
    _drop_kernel[grid](x, into, seeds, levels, key, first, num_values, scale, adds=adds, num_words=_WORDS)
    return into


@triton.jit
def _rotate_kernel(
    query_ptr,
    key_ptr,
    query_out_ptr,
    key_out_ptr,
    cos_ptr,
    sin_ptr,
    query_row,
    query_head,
    query_token,
    key_row,
    key_head,
    key_token,
    cos_row,
    heads,
    key_heads,
    length,
    sign,
    half: tl.constexpr,
    block: tl.constexpr,
):
    row, token = tl.program_id(0).to(tl.int64) // length, tl.program_id(0).to(tl.int64) % length
    head = tl.program_id(1)
    column = tl.arange(0, block)
    is_valid = column < half
    angle = row * cos_row + token * (2 * half) + column
    cos = tl.load(cos_ptr + angle, mask=is_valid, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=is_valid, other=0.0).to(tl.float32) * sign
    # The heads of the queries come first, then those of the keys.
    if head < heads:
        source = query_ptr + row * query_row + head * query_head + token * query_token
        target = query_out_ptr + ((row * length + token) * heads + head) * (2 * half)
    else:
        source = key_ptr + row * key_row + (head - heads) * key_head + token * key_token
        target = key_out_ptr + ((row * length + token) * key_heads + head - heads) * (2 * half)
    one = tl.load(source + column, mask=is_valid, other=0.0)
    other = tl.load(source + half + column, mask=is_valid, other=0.0).to(tl.float32)
    turned = one.to(tl.float32) * cos - other * sin
    tl.store(target + column, turned.to(one.dtype), mask=is_valid)
    tl.store(target + half + column, (other * cos + one.to(tl.float32) * sin).to(one.dtype), mask=is_valid)


def rotate(query, key, cos, sin, sign):
    """Return the result of `kernels.rotate`, or of its transpose if ``sign`` is -1."""
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    cos, sin = cos.contiguous(), sin.contiguous()
    rows, heads, length, width = query.shape
    outs = [torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format) for x in (query, key)]
    half, cos_row = width // 2, 0 if len(cos) == 1 else cos.stride(0)
    strides = (*query.stride()[:3], *key.stride()[:3])
    sizes = (heads, key.shape[1], length)
    grid = (rows * length, heads + key.shape[1])
    _rotate_kernel[grid](
        query, key, *outs, cos, sin, *strides, cos_row, *sizes, sign, half=half, block=triton.next_power_of_2(half)
    )
    return outs[0].transpose(1, 2), outs[1].transpose(1, 2)


@triton.jit
def _gate_kernel(
    grad_ptr,
    gates_ptr,
    values_ptr,
    out_ptr,
    values_out_ptr,
    gates_row,
    values_row,
    width,
    is_backward: tl.constexpr,
    block: tl.constexpr,
):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_valid = column < width
    gates = tl.load(gates_ptr + row * gates_row + column, mask=is_valid, other=0.0)
    values = tl.load(values_ptr + row * values_row + column, mask=is_valid, other=0.0).to(tl.float32)
    wide = gates.to(tl.float32)
    share = 1 / (1 + tl.exp(-wide))
    place = row * width + column
    if is_backward:
        grad = tl.load(grad_ptr + place, mask=is_valid, other=0.0).to(tl.float32)
        of_gates = grad * values * share * (1 + wide * (1 - share))
        tl.store(out_ptr + place, of_gates.to(gates.dtype), mask=is_valid)
        tl.store(values_out_ptr + place, (grad * wide * share).to(gates.dtype), mask=is_valid)
    else:
        tl.store(out_ptr + place, (wide * share * values).to(gates.dtype), mask=is_valid)


def gate(gates, values):
    """Return the result of `kernels.gate`."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    _launch_gate(out, gates, values, out, out, is_backward=False)
    return out


def gate_backward(grad, gates, values):
    """Return the gradients of both arguments of `kernels.gate`."""
    outs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (gates, values)]
    _launch_gate(grad.contiguous(), gates, values, *outs, is_backward=True)
    return tuple(outs)


def _launch_gate(grad, gates, values, out, values_out, *, is_backward):
    # Both are columns of one product, so their rows are apart; all rows are the same distance apart.
    width = gates.shape[-1]
    gates, values = (x.reshape(-1, width) for x in (gates, values))
    block = 1024
    _gate_kernel[len(gates), triton.cdiv(width, block)](
        grad,
        gates,
        values,
        out,
        values_out,
        gates.stride(0),
        values.stride(0),
        width,
        is_backward=is_backward,
        block=block,
    )


def signatures(dtype):
    """Return each kernel with the types of its arguments and its constants, for compiling it without a GPU."""

    def types(pointers, integers, constants, **more):
        names = dict.fromkeys(pointers, f"*{dtype}") | dict.fromkeys(integers, "i64")
        return {**names, **more, **dict.fromkeys(constants, "constexpr")}

    dropping, rotating = {"adds": True, "num_words": _WORDS}, {"half": 64, "block": 64}
    gating = {"is_backward": True, "block": 1024}
    strides = ("query_row", "query_head", "query_token", "key_row", "key_head", "key_token", "cos_row")
    tensors = ("query_ptr", "key_ptr", "query_out_ptr", "key_out_ptr", "cos_ptr", "sin_ptr")
    gated = ("grad_ptr", "gates_ptr", "values_ptr", "out_ptr", "values_out_ptr")
    random = {"seeds_ptr": "*i64", "levels_ptr": "*i32", "scale": "fp32"}
    return [
        (_drop_kernel, types(("x_ptr", "into_ptr"), ("key", "first", "num_values"), dropping, **random), dropping),
        (
            _rotate_kernel,
            types(tensors, (*strides, "heads", "key_heads", "length"), rotating, sign="fp32"),
            rotating,
        ),
        (_gate_kernel, types(gated, ("gates_row", "values_row", "width"), gating), gating),
    ]

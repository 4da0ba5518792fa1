"""Points of a scrambled Sobol sequence; the same as those of `scipy.stats.qmc.Sobol`, which a test compares.

Importing `scipy.stats` takes 87 MB of memory and a second, in a process that lives as long as the sweep. Called by
`proposals`.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_DIMENSIONS", "unit_point"]

_BITS = 30
_POLYNOMIALS = (1, 3, 7, 11, 13, 19, 25, 37, 41, 47, 55, 59, 61, 67, 91, 97, 103, 109, 115, 131, 137, 143, 145, 157)
_DIRECTIONS = (
    (1,),
    (1,),
    (1, 3),
    (1, 3, 1),
    (1, 1, 1),
    (1, 1, 3, 3),
    (1, 3, 5, 13),
    (1, 1, 5, 5, 17),
    (1, 1, 5, 5, 5),
    (1, 1, 7, 11, 19),
    (1, 1, 5, 1, 1),
    (1, 1, 1, 3, 11),
    (1, 3, 5, 5, 31),
    (1, 3, 3, 9, 7, 49),
    (1, 1, 1, 15, 21, 21),
    (1, 3, 1, 13, 27, 49),
    (1, 1, 1, 15, 7, 5),
    (1, 3, 1, 15, 13, 25),
    (1, 1, 5, 5, 19, 61),
    (1, 3, 7, 11, 23, 15, 103),
    (1, 3, 7, 13, 13, 15, 69),
    (1, 1, 3, 13, 7, 35, 63),
    (1, 3, 5, 9, 1, 25, 53),
    (1, 3, 1, 13, 9, 35, 107),
)
"""Primitive polynomials, and the first direction numbers of each dimension, by Joe and Kuo (2008), set 6."""
MAX_DIMENSIONS = len(_POLYNOMIALS)

_Integers = npt.NDArray[np.uint32]


def unit_point(num_dimensions: int, seed: int, index: int) -> tuple[float, ...]:
    """Return point ``index`` of the sequence in the unit cube, scrambled by ``seed`` (Matousek 1998).

    Args:
        num_dimensions: At most `MAX_DIMENSIONS`.
        seed: Determines the scrambling.
        index: Counted from 0.
    """
    directions, shift = _scrambled(num_dimensions, seed)
    gray = index ^ (index >> 1)
    point = shift.copy()
    for bit in range(gray.bit_length()):
        if gray >> bit & 1:
            point ^= directions[:, bit]
    return tuple(float(coordinate) / 2**_BITS for coordinate in point)


@functools.cache
def _scrambled(num_dimensions: int, seed: int) -> tuple[_Integers, _Integers]:
    """Return direction numbers (dimension, bit) and digital shift (dimension), in units of ``2**-_BITS``."""
    rng = np.random.default_rng(seed).spawn(1)[0]
    powers = 1 << np.arange(_BITS, dtype=np.uint32)
    shift = rng.integers(2, size=(num_dimensions, _BITS), dtype=np.uint32) @ powers
    lower_DBB = np.tril(rng.integers(2, size=(num_dimensions, _BITS, _BITS), dtype=np.uint32))
    lower_DBB[:, np.arange(_BITS), np.arange(_BITS)] = 1
    most_first = powers[::-1]
    directions = np.zeros((num_dimensions, _BITS), dtype=np.uint32)
    for dimension, lower_BB in enumerate(lower_DBB):
        plain = np.array(_direction_numbers(dimension), dtype=np.uint32)
        digits_BN = (plain[None, :] & most_first[:, None]) > 0  # binary digits, the most significant one first
        directions[dimension] = most_first @ (lower_BB @ digits_BN % 2).astype(np.uint32)
    return directions, shift.astype(np.uint32)


def _direction_numbers(dimension: int) -> list[int]:
    """Return the direction numbers of a dimension by the recurrence of its polynomial (Bratley and Fox 1988)."""
    if dimension == 0:
        return [1 << (_BITS - 1 - bit) for bit in range(_BITS)]
    polynomial, numbers = _POLYNOMIALS[dimension], list(_DIRECTIONS[dimension])
    degree = polynomial.bit_length() - 1
    for bit in range(degree, _BITS):
        number = numbers[bit - degree]
        for k in range(degree):
            if polynomial >> (degree - 1 - k) & 1:
                number ^= numbers[bit - k - 1] << (k + 1)
        numbers.append(number)
    return [number << (_BITS - 1 - bit) for bit, number in enumerate(numbers)]

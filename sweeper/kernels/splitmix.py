"""The constants of the hash that draws dropout masks, SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""

from __future__ import annotations

__all__ = ["GAMMA", "MIX_1", "MIX_2", "VALUES_PER_WORD"]

GAMMA = 0x9E3779B97F4A7C15
"""Distance of the counters of neighbouring words."""
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
VALUES_PER_WORD = 8
"""A word of 64 bits has a byte for each of so many values."""

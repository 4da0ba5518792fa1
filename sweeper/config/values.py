"""The value of one hyperparameter."""

from __future__ import annotations

__all__ = ["ParamValue"]

ParamValue = bool | int | float | str
"""A value of one hyperparameter."""

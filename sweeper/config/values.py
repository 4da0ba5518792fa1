"""The type of a hyperparameter's value, shared by the modules of this package and their callers."""

from __future__ import annotations

__all__ = ["ParamValue"]

ParamValue = bool | int | float | str
"""A value of one hyperparameter."""

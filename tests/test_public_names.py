"""Every module lists its public names in `__all__`, in order, and has a docstring."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from tests.test_layers import MODULES

WITHOUT_TRITON = {"sweeper.kernels.triton_kernels"} if importlib.util.find_spec("triton") is None else set()
"""Modules that cannot be imported here: Triton comes with torch's builds for CUDA only."""
PUBLIC = [name for name in MODULES if not name.rpartition(".")[2].startswith("_") and name not in WITHOUT_TRITON]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_sorted(name):
    module = importlib.import_module(name)
    if name.count(".") == 0 or MODULES[name].name == "__init__.py":
        names = getattr(module, "__all__", [])
    else:
        assert hasattr(module, "__all__"), f"{name} has no __all__"
        names = module.__all__
    assert [public for public in names if not hasattr(module, public)] == []
    assert len(set(names)) == len(names)
    # Constants, classes, functions: the order of ruff's RUF022.
    assert list(names) == sorted(names, key=_isort_key)


def _isort_key(name):
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


@pytest.mark.parametrize("name", PUBLIC)
def test_every_module_has_a_docstring(name):
    assert (importlib.import_module(name).__doc__ or "").strip()

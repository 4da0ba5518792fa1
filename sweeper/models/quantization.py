"""Chooses whether the frozen weights are held in 4 or 8 bits: by the settings, or as the model's files have them.

Loads no torch, so that the controller can call it. `load` and `quantised_linear` do the work.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeper.errors import ConfigError, ModelError

__all__ = ["NONE", "check_library", "choose_quantization", "import_bitsandbytes"]

NONE = "none"
_BITSANDBYTES = "bitsandbytes"
_KERNELS = "kernels"
"""The package with which bitsandbytes fetches compiled code from the Hugging Face hub."""


def choose_quantization(wanted: str, folder: Path) -> tuple[str, str]:
    """Return ``none``, ``nf4`` or ``int8``, and the reason.

    Args:
        wanted: The setting ``model.quantization``.
        folder: Folder of the model; only config.json is read.

    Raises:
        ConfigError: The files are already quantised in another way.
        ModelError: The files are quantised by something else than bitsandbytes.
    """
    path = folder / "config.json"
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path} ({error!r}). Choose the folder of a transformers model.") from error
    stored = _stored(content, path)
    if stored == NONE:
        return wanted, f"{wanted}, set by model.quantization"
    if wanted not in (NONE, stored):
        rule = f"{folder} already holds weights in {stored}"
        raise ConfigError("model.quantization", wanted, rule, "Set model.quantization=none, or choose another model.")
    return stored, f"{stored}, as in the model's files"


def check_library(name: str) -> None:
    """Check that bitsandbytes is installed, if a quantisation needs it.

    Raises:
        ConfigError: It is not.
    """
    if name != NONE and find_spec(_BITSANDBYTES) is None:
        rule = "needs the package bitsandbytes, which is not installed"
        raise ConfigError("model.quantization", name, rule, "pip install 'lora-sweeper[quantization]'")


def import_bitsandbytes() -> None:
    """Import bitsandbytes for the first time, without the kernel for single rows that it looks for on the hub.

    On a CPU with products in bfloat16, the import downloads that kernel if the package ``kernels`` is installed, and
    warns if it is not. Products with dequantised weights never call it. Other warnings are shown.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    modules: Any = sys.modules  # None makes an import fail, which its type does not know
    imported = {_KERNELS: modules[_KERNELS]} if _KERNELS in modules else {}
    log.addFilter(_is_about_something_else)
    modules[_KERNELS] = None
    try:
        import_module(_BITSANDBYTES)
    finally:
        del modules[_KERNELS]
        modules.update(imported)
        log.removeFilter(_is_about_something_else)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward from kernels-community")


def _stored(content: Mapping[str, Any], path: Path) -> str:
    """Return how the weights in a model's files are quantised."""
    found = content.get("quantization_config")
    if not found:
        return NONE
    method = str(found.get("quant_method", "")).removesuffix("_4bit").removesuffix("_8bit")
    # The first versions of transformers that could save such models wrote no method.
    if method in (_BITSANDBYTES, ""):
        if found.get("load_in_4bit") or found.get("_load_in_4bit"):
            return "nf4"
        if found.get("load_in_8bit") or found.get("_load_in_8bit"):
            return "int8"
    raise ModelError(
        f"{path} has weights that are quantised by {method or 'an unknown method'}: only those by bitsandbytes can be "
        f"loaded. Choose a version of the model without a quantization_config, and set model.quantization=nf4 if its "
        f"weights do not fit."
    )

"""Chooses the number type of the frozen weights and the attention kernel for a device."""

from __future__ import annotations

from pathlib import Path

import torch

from sweeper.errors import WorkerError, first_line

__all__ = [
    "PADDED_SDPA",
    "SHORT",
    "check_device",
    "choose_attention",
    "choose_checkpointing",
    "choose_dtype",
    "cpu_flags",
    "type_name",
]

SHORT = "sweeper_short"
"""Name of the kernel in `short_attention`; defined here so that choosing it does not import transformers."""
PADDED_SDPA = "sweeper_sdpa"
"""Name of the kernel in `padded_attention`."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_FLOAT16_CAPABILITY = (7, 0)
"""CUDA devices have had tensor cores for float16 since Volta; before, some compute in it at a 64th of the speed."""
_CHECKPOINTED_FROM = 10**9
"""Parameters from which on a pack of a few thousand tokens would keep tens of gigabytes for its backward pass."""
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU features of bfloat16 arithmetic as Linux names them, on x86 (the first two) and on ARM."""


def check_device(device: torch.device | str) -> None:
    """Check that torch can compute on a device that the driver has reported.

    Raises:
        WorkerError: It cannot: it is a build for CPUs, for a newer driver or for other GPUs, or the device has failed.
    """
    if torch.device(device).type != "cuda":
        return
    if not torch.cuda.is_available():
        build = f"it is built for CUDA {torch.version.cuda}, which may need a newer driver"
        raise WorkerError(
            f"there is a CUDA device, but torch {torch.__version__} cannot use it: "
            f"{build if torch.version.cuda else 'it is built for CPUs only'}. Install a build of torch that fits the "
            f"driver (https://pytorch.org/get-started), or set executor.device=cpu."
        )
    try:
        torch.ones(1, device=device).add_(1).cpu()
    except RuntimeError as error:
        raise WorkerError(
            f"torch {torch.__version__} cannot compute on the CUDA device: {first_line(error)} Check with nvidia-smi "
            f"that it is free and works, and that this build of torch is for its generation "
            f"(https://pytorch.org/get-started), or set executor.device=cpu."
        ) from error


def choose_dtype(
    wanted: str, device: torch.device | str, *, flags: frozenset[str] | None = None
) -> tuple[torch.dtype, str]:
    """Return the type of the frozen weights, and the reason.

    Args:
        wanted: The setting ``model.dtype``.
        device: Device of the model.
        flags: Features of the CPU; those of this machine if None.
    """
    if wanted in _DTYPES:
        return _DTYPES[wanted], f"{wanted}, set by model.dtype"
    device = torch.device(device)
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16, which this GPU supports"
        if torch.cuda.get_device_capability(device) >= _FLOAT16_CAPABILITY:
            return torch.float16, "float16 with a loss scale for each trial: this GPU does not support bfloat16"
        return torch.float32, "float32: this GPU supports neither bfloat16 nor fast float16"
    found = sorted(_BF16_FLAGS & (cpu_flags() if flags is None else flags))
    if device.type == "cpu" and found:
        return torch.bfloat16, f"bfloat16, which this CPU supports ({', '.join(found)})"
    return torch.float32, f"float32: no sign that this {device.type.upper()} supports bfloat16"


def choose_attention(wanted: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """Return the attention kernel, and the reason.

    Args:
        wanted: The setting ``model.attention``.
        device: Device of the model.
        dtype: Type of its weights.
    """
    if wanted != "auto":
        return wanted, f"{wanted}, set by model.attention"
    if torch.device(device).type == "cpu":
        if dtype is torch.bfloat16:
            return SHORT, f"{SHORT}: up to twice as fast as eager on short rows in bfloat16"
        return "eager", "eager: on a CPU the fused kernel's backward pass is several times slower"
    return PADDED_SDPA, f"{PADDED_SDPA}, the fused kernel of this GPU, called without waiting for the device"


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a number type as in the settings, e.g. ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def choose_checkpointing(wanted: str, device: torch.device | str, num_parameters: int) -> tuple[bool, str]:
    """Return whether transformer blocks run again in the backward pass, and the reason.

    Args:
        wanted: The setting ``model.gradient_checkpointing``.
        device: Device of the model.
        num_parameters: Parameters of the model.
    """
    if wanted != "auto":
        return wanted == "always", f"{wanted}, set by model.gradient_checkpointing"
    if torch.device(device).type == "cpu":
        return False, "never: on a CPU time is scarcer than memory"
    if num_parameters < _CHECKPOINTED_FROM:
        return False, f"never: {num_parameters:,} parameters are fewer than {_CHECKPOINTED_FROM:,}"
    return True, f"always: {num_parameters:,} parameters are at least {_CHECKPOINTED_FROM:,}"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features of the CPU as Linux names them; empty on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    names = ("flags", "Features")
    found = next((line for line in lines if line.split(":")[0].strip() in names), ":")
    return frozenset(found.split(":", maxsplit=1)[1].split())

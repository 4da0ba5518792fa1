"""Makes a process that lives as long as a sweep give large freed blocks back to the system. `run` calls it once."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["return_large_blocks"]

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 256 * 1024


def return_large_blocks() -> None:
    """Let glibc map every large block by itself, so that the block's memory is returned when it is freed.

    By default, glibc raises this limit to the size of the largest block it has freed, up to 32 MB. Checkpoints and
    adapters then come from heaps, one per thread, which stay as large as they have ever been.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)

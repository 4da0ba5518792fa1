"""The largest resident size of this process so far, as the operating system counts it."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["peak_resident_bytes"]

_STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """Return the peak of the resident size; the present size where Linux does not count it.

    Not `resource.getrusage`, whose peak starts with that of the process that started this one.
    """
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)

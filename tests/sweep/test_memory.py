"""`return_large_blocks`: a large block that is freed leaves the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# A freed block of 24 MB raises glibc's limit. The next ones come from the heap, whose end the last one keeps in use.
CODE = """
import psutil
from sweeper.sweep.memory import return_large_blocks
{call}
warm = bytearray(24 << 20)
del warm
blocks = [bytearray(8 << 20) for _ in range(8)]
for block in blocks:
    block[::4096] = bytes(len(block[::4096]))
last = blocks.pop()
before = psutil.Process().memory_info().rss
del blocks, block
print((before - psutil.Process().memory_info().rss) >> 20)
"""


def freed_mb(call):
    command = [sys.executable, "-c", CODE.format(call=call)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such limit")
def test_large_freed_blocks_leave_the_process():
    assert freed_mb("return_large_blocks()") >= 48
    assert freed_mb("") < 48, "glibc returns them by itself: the module is of no use"

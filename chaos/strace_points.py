"""Kills a session at its n-th system call of a kind, with strace: it sees what SQLite and Arrow do in C.

For `crash_points`. Needs Linux, strace, and the right to trace one's own processes (as root, or with
``kernel.yama.ptrace_scope`` 0). strace counts the calls of each thread by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chaos.crash_session import Bench, Ended, fork

__all__ = ["SYSTEM_CALLS", "count_calls", "is_available", "run_and_kill"]

SYSTEM_CALLS = (
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "pwrite64",
)
"""Those that change what is durable; ``pwrite64`` is how SQLite writes to its files and logs."""
_ATTACH_S = 30.0


def is_available() -> bool:
    """Whether strace is installed and may be used."""
    if shutil.which("strace") is None:
        return False
    tried = ["strace", "-o", os.devnull, "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0  # noqa: S603


def count_calls(bench: Bench) -> Counter[str]:
    """Return how often a session makes each call, in the thread that makes the most."""
    bench.restore()
    trace = bench.folder / "strace"
    ended = _run(bench, ["-o", str(trace), "-e", f"trace={','.join(SYSTEM_CALLS)}"])
    assert ended.code == 0, ended.output
    calls = Counter(_calls(trace))
    most: Counter[str] = Counter()
    for (_, name), number in calls.items():
        most[name] = max(most[name], number)
    return most


def run_and_kill(bench: Bench, call: str, number: int) -> Ended:
    """Run a session from the start of the scenario, and kill it when a thread makes a call for the n-th time."""
    bench.restore()
    inject = f"inject={call}:signal={signal.SIGKILL.name.removeprefix('SIG')}:when={number}"
    return _run(bench, ["-o", os.devnull, "-e", f"trace={call}", "-e", inject])


def _run(bench: Bench, options: list[str]) -> Ended:
    bench.log.write_bytes(b"")

    def session() -> None:
        # Started by the process that it traces, since the process that forks sessions may not be traced itself.
        tracer = subprocess.Popen(  # noqa: S603
            ["strace", "--follow-forks", "--quiet=all", "--attach", str(os.getpid()), *options],  # noqa: S607
            stdin=subprocess.DEVNULL,
        )
        end = time.monotonic() + _ATTACH_S
        while re.search(r"^TracerPid:\t0$", Path("/proc/self/status").read_text(), re.MULTILINE):
            if time.monotonic() > end or tracer.poll() is not None:
                raise RuntimeError("strace did not attach")
            time.sleep(0.005)
        try:
            bench.session(bench.command)
        finally:
            with contextlib.suppress(ProcessLookupError):
                tracer.send_signal(signal.SIGTERM)  # it detaches

    code = fork(session, bench.log)
    output = bench.log.read_text(errors="replace")
    return Ended(code=code, output=output, operations=[], failed=[], reported={}, flushed=None, states=[])


def _calls(trace: Path) -> Iterator[tuple[str, str]]:
    """Yield thread and name of each call in a trace; a call that was interrupted by another thread's counts once."""
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"(\d+)\s+(\w+)\(", line)
        if found and found[2] in SYSTEM_CALLS:
            yield found[1], found[2]

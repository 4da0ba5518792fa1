"""Runs ``pip download`` for one pinned wheel and reports its progress. `wheel` checks the file and stores it."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from sweeper.errors import FetchError
from sweeper.fetch.progress import Progress
from sweeper.urls import redact_urls

__all__ = ["download"]

_POLL_S = 0.25
_PIP_SIZE = re.compile(r"Downloading .*\((\d+(?:\.\d+)?) ([kMG]?B)\)")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def download(package: str, folder: Path, *, wheels: Path, progress: Progress) -> None:
    """Download a wheel into a folder.

    Args:
        package: Requirement pinned by ``==``; the caller has checked it.
        folder: An empty folder for the wheel, pip's temporary files and its log.
        wheels: Folder in which the user can put the wheel by hand; named in the error.
        progress: Called with the bytes received.

    Raises:
        FetchError: pip failed. The message quotes the end of its output.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--no-input", "--disable-pip-version-check", "-d", str(folder), package]
    # pip downloads to its temporary folder first. Inside ours, the size of the growing file can be polled.
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603 - no shell; the pin is checked
        try:
            while process.poll() is None:
                progress(package, _received_bytes(folder), _announced_bytes(log))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise FetchError(_failure(package, log, wheels))


def _received_bytes(folder: Path) -> int:
    """Return the size of the largest wheel in a folder, in which pip may move and delete files at any time."""
    sizes = [0]
    for parent, _, names in os.walk(folder):  # unlike rglob it skips folders that have disappeared
        for name in fnmatch.filter(names, "*.whl"):
            with suppress(FileNotFoundError):
                sizes.append((Path(parent) / name).stat().st_size)
    return max(sizes)


def _announced_bytes(log: Path) -> int:
    """Return the size that pip printed; 0 before it printed one."""
    found = _PIP_SIZE.search(log.read_text(errors="replace"))
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def _failure(package: str, log: Path, wheels: Path) -> str:
    output = log.read_text(errors="replace").strip().splitlines()[-6:]
    quoted = "\n".join(f"  | {redact_urls(line)}" for line in output)
    return (
        f"{package} could not be downloaded. pip printed:\n{quoted}\n"
        "Check the network and pip's index (see pip config list; PIP_INDEX_URL sets a mirror). Without a network, run "
        f"`pip download --no-deps {package}` on another machine and put the file into {wheels}."
    )

"""Runs the command-line tools of the schedulers, and reports their error messages. `systemd` and `cron` use it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from sweeper.errors import SweeperError

__all__ = ["is_installed", "run", "run_checked"]

_TIMEOUT_S = 60


def is_installed(program: str) -> bool:
    """Whether a program is on the PATH."""
    return shutil.which(program) is not None


def run(words: Sequence[str], *, text: bytes | None = None) -> tuple[int, bytes, str]:
    """Run a program; return its exit code, its standard output and its standard error.

    Args:
        words: The program and its arguments.
        text: Its standard input.

    Raises:
        SweeperError: The program is not installed, or does not finish in time.
    """
    try:
        done = subprocess.run(list(words), input=text, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - our own words, no shell
    except FileNotFoundError:
        raise SweeperError(f"{words[0]} is not installed, or not on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SweeperError(f"`{shlex.join(words)}` did not finish within {_TIMEOUT_S} s") from None
    return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()


def run_checked(words: Sequence[str], *, text: bytes | None = None) -> str:
    """Run a program and return its standard output.

    Raises:
        SweeperError: The program cannot be run, or its exit code is not 0.
    """
    code, output, message = run(words, text=text)
    if code:
        raise SweeperError(f"`{shlex.join(words)}` failed with exit code {code}: {message or 'no error message'}")
    return output.decode(errors="replace")

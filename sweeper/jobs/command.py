"""Calls the schedulers' own programs, and says what they said when they refuse. `systemd` and `cron` use it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from sweeper.errors import SweeperError

__all__ = ["answer", "call", "has"]

_TIMEOUT_S = 60


def has(program: str) -> bool:
    """Whether a program is on the PATH."""
    return shutil.which(program) is not None


def answer(words: Sequence[str], *, text: bytes | None = None) -> tuple[int, bytes, str]:
    """Run a program; return its exit code, its output and what it complained of.

    Args:
        words: The program and its arguments.
        text: What it reads.

    Raises:
        SweeperError: It is not there, or does not answer.
    """
    try:
        done = subprocess.run(list(words), input=text, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - our own words, no shell
    except FileNotFoundError:
        raise SweeperError(f"{words[0]} is not installed, or not on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SweeperError(f"`{shlex.join(words)}` did not answer within {_TIMEOUT_S} s") from None
    return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()


def call(words: Sequence[str], *, text: bytes | None = None) -> str:
    """Run a program that must succeed; return its output.

    Raises:
        SweeperError: It did not.
    """
    code, output, complaint = answer(words, text=text)
    if code:
        raise SweeperError(f"`{shlex.join(words)}` failed with exit code {code}: {complaint or 'it said nothing'}")
    return output.decode(errors="replace")

"""Installs a job as a marked block of the user's crontab; every other line stays as it is, byte for byte.

Used where no systemd of the user answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sweeper.errors import SweeperError
from sweeper.jobs.command import answer, call, has

__all__ = ["Cron", "with_block", "without_block"]

_LIST = ("crontab", "-l")
_ANY_NAME = "[a-z0-9-]+"
_OPENED = " after an open line"
"""Marks a block whose installer had to end the line before it."""


class Cron:
    """The user's crontab."""

    name = "cron"

    def is_present(self) -> bool:
        """Whether there is a crontab program."""
        return has(_LIST[0])

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return what will be written, by where."""
        return {"the crontab": _block(name, texts["crontab"])}

    def commands(self, name: str) -> list[str]:
        """Return what is run after writing: nothing, cron sees its table."""
        del name
        return ["crontab -"]

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Put the block at the end, or in the place of the one that is there.

        Raises:
            SweeperError: crontab refuses.
        """
        _write(with_block(_read(), name, texts["crontab"]))

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done, nothing if the job was not installed."""
        before = _read()
        after = without_block(before, name)
        if after == before:
            return []
        if after:
            _write(after)
            return [f"removed the lines of job {name} from the crontab"]
        call(["crontab", "-r"])
        return ["crontab -r: nothing else was in it"]

    def installed(self) -> dict[str, dict[str, str]]:
        """Return the lines of every installed job, by job; none for a user who may have no crontab."""
        try:
            found = _blocks(_ANY_NAME).finditer(_read())
        except SweeperError:
            return {}
        return {block["name"]: {"crontab": block["lines"]} for block in found}

    def is_active(self, name: str) -> bool:
        """Whether cron knows the job; whether cron runs, only root can tell."""
        return name in self.installed()

    def hint(self, user: str) -> str:
        """Return what is to be known after installing."""
        del user
        return (
            "cron has to be running. A start that was missed is made up for within the hour, while the window is open."
        )


def with_block(crontab: str, name: str, lines: str) -> str:
    """Return a crontab with a job's lines, in the place of those that are there or at the end."""
    found = _find(crontab, name)
    if found is not None:
        return crontab[: found.start("lines")] + lines + crontab[found.end("lines") :]
    is_open = bool(crontab) and not crontab.endswith("\n")
    head, mark = (crontab + "\n", _OPENED) if is_open else (crontab, "")
    return head + _block(name, lines, mark)


def _block(name: str, lines: str, mark: str = "") -> str:
    return f"# >>> sweeper job {name}{mark}\n{lines}# <<< sweeper job {name}\n"


def without_block(crontab: str, name: str) -> str:
    """Return a crontab as it was before `with_block`."""
    found = _find(crontab, name)
    if found is None:
        return crontab
    rest = crontab[found.end() :]
    if found["opened"] and not rest:
        return crontab[: found.start()]
    if found["opened"] and (follower := _blocks(_ANY_NAME).match(rest)):
        # The line break in front belongs to the next job now.
        rest = _block(follower["name"], follower["lines"], _OPENED) + rest[follower.end() :]
    return crontab[: found.end("break")] + rest


def _find(crontab: str, name: str) -> re.Match[str] | None:
    return _blocks(re.escape(name)).search(crontab)


def _blocks(name: str) -> re.Pattern[str]:
    """Return what matches a job's block, and the line break before it."""
    head = rf"(?P<break>\n?)^# >>> sweeper job (?P<name>{name})(?P<opened>{_OPENED})?\n"
    return re.compile(rf"{head}(?P<lines>.*?)^# <<< sweeper job (?P=name)\n", re.DOTALL | re.MULTILINE)


def _read() -> str:
    """Return the crontab; bytes that are no UTF-8 survive."""
    code, output, complaint = answer(_LIST)
    if code and "no crontab" not in complaint.lower():
        raise SweeperError(f"the crontab cannot be read, so nothing was changed: {complaint or f'exit code {code}'}")
    return "" if code else output.decode(errors="surrogateescape")


def _write(text: str) -> None:
    call(["crontab", "-"], text=text.encode(errors="surrogateescape"))

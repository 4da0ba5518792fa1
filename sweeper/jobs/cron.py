"""Installs a job as a marked block in the user's crontab. All other lines keep every byte.

`schedulers` chooses it when the user has no running systemd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sweeper.errors import SweeperError
from sweeper.jobs.command import is_installed, run, run_checked

__all__ = ["Cron", "with_block", "without_block"]

_LIST = ("crontab", "-l")
_ANY_NAME = "[a-z0-9-]+"
_NEWLINE_ADDED = " after an open line"
"""Marks a block before which `with_block` added a missing line break, so that `without_block` can remove it again."""


class Cron:
    """The user's crontab, as a `schedulers.Scheduler`."""

    name = "cron"

    def is_present(self) -> bool:
        """Whether the crontab program is installed."""
        return is_installed(_LIST[0])

    def files(self, name: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Return the text that will be written, by its destination."""
        return {"the crontab": _block(name, texts["crontab"])}

    def commands(self, name: str) -> list[str]:
        """Return the command that installs the crontab; cron rereads it by itself."""
        del name
        return ["crontab -"]

    def install(self, name: str, texts: Mapping[str, str]) -> None:
        """Replace the block of the job, or append it.

        Raises:
            SweeperError: crontab fails.
        """
        _write(with_block(_read(), name, texts["crontab"]))

    def remove(self, name: str) -> list[str]:
        """Undo `install`; return what was done, or an empty list if the job was not installed."""
        before = _read()
        after = without_block(before, name)
        if after == before:
            return []
        if after:
            _write(after)
            return [f"removed the lines of job {name} from the crontab"]
        run_checked(["crontab", "-r"])
        return ["crontab -r: it had no other lines"]

    def installed(self) -> dict[str, dict[str, str]]:
        """Return the lines of every installed job, by job; empty if the user is not allowed a crontab."""
        try:
            found = _blocks(_ANY_NAME).finditer(_read())
        except SweeperError:
            return {}
        return {block["name"]: {"crontab": block["lines"]} for block in found}

    def is_active(self, name: str) -> bool:
        """Whether the job is in the crontab. Only root can tell whether the cron daemon runs."""
        return name in self.installed()

    def hint(self, user: str) -> str:
        """Return what the user should know after installing."""
        del user
        return (
            "The cron daemon must be running. A missed start is made up for within the hour, while the window is open."
        )


def with_block(crontab: str, name: str, lines: str) -> str:
    """Return a crontab in which a job's lines replace its old ones, or are appended."""
    found = _find(crontab, name)
    if found is not None:
        return crontab[: found.start("lines")] + lines + crontab[found.end("lines") :]
    lacks_newline = bool(crontab) and not crontab.endswith("\n")
    head, mark = (crontab + "\n", _NEWLINE_ADDED) if lacks_newline else (crontab, "")
    return head + _block(name, lines, mark)


def _block(name: str, lines: str, mark: str = "") -> str:
    return f"# >>> sweeper job {name}{mark}\n{lines}# <<< sweeper job {name}\n"


def without_block(crontab: str, name: str) -> str:
    """Return a crontab as it was before `with_block`."""
    found = _find(crontab, name)
    if found is None:
        return crontab
    rest = crontab[found.end() :]
    if found["newline_added"] and not rest:
        return crontab[: found.start()]
    if found["newline_added"] and (follower := _blocks(_ANY_NAME).match(rest)):
        # The line break that was added now comes before the next job's block, so that block gets the mark.
        rest = _block(follower["name"], follower["lines"], _NEWLINE_ADDED) + rest[follower.end() :]
    return crontab[: found.end("break")] + rest


def _find(crontab: str, name: str) -> re.Match[str] | None:
    return _blocks(re.escape(name)).search(crontab)


def _blocks(name: str) -> re.Pattern[str]:
    """Return a pattern that matches a job's block and the line break before it."""
    head = rf"(?P<break>\n?)^# >>> sweeper job (?P<name>{name})(?P<newline_added>{_NEWLINE_ADDED})?\n"
    return re.compile(rf"{head}(?P<lines>.*?)^# <<< sweeper job (?P=name)\n", re.DOTALL | re.MULTILINE)


def _read() -> str:
    """Return the crontab; bytes that are not UTF-8 are kept as surrogates."""
    code, output, message = run(_LIST)
    if code and "no crontab" not in message.lower():
        raise SweeperError(f"the crontab cannot be read, so nothing was changed: {message or f'exit code {code}'}")
    return "" if code else output.decode(errors="surrogateescape")


def _write(text: str) -> None:
    run_checked(["crontab", "-"], text=text.encode(errors="surrogateescape"))

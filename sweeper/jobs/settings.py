"""A job: reads its YAML file and checks it. Runs and installs nothing; all other modules of `jobs` use it.

By default, a job runs in the parent of the jobs folder, with the Python that reads the file. ``folder`` and
``virtual_environment`` change that.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.config.time_windows import TimeWindows, parse_windows
from sweeper.errors import ConfigError, SweeperError, did_you_mean

__all__ = ["Job", "find_job", "find_jobs_dir", "has_control_character", "load_job", "load_jobs", "override_text"]

_KEYS: Mapping[str, tuple[type, str, object]] = {
    "name": (str, "a name", ""),
    "description": (str, "a text", ""),
    "overrides": (list, "a list of Hydra overrides", ()),
    "window": (str, "a text such as '22:00-07:00'", ""),
    "time_zone": (str, "a name such as Europe/Berlin", ""),
    "report": (bool, "true or false", True),
    "notify": (list, "a list of addresses", ()),
    "folder": (str, "a path", ""),
    "virtual_environment": (str, "a path", ""),
}
"""The keys of a job: type, description of the value for error messages, default."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, lone surrogates, line separators and paragraph separators."""
_KEY_OF_OVERRIDE = {"budget.window": "window", "budget.time_zone": "time_zone", "notify.urls": "notify"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A scheduled search."""

    name: str
    description: str
    overrides: tuple[str, ...]
    """Hydra overrides as in the file; see `all_overrides`."""
    window: str
    time_zone: str
    """IANA name; empty for the time zone of the machine."""
    report: bool
    notify: tuple[str, ...]
    folder: Path
    """Its working directory: relative paths such as ``outputs`` start here."""
    python: Path
    file: Path

    @property
    def windows(self) -> TimeWindows:
        """The time windows in which it may run."""
        return parse_windows(self.window, self.time_zone)

    @property
    def all_overrides(self) -> list[str]:
        """Hydra overrides, including those for the window and the notifications."""
        windows = {"budget.window": self.window, "budget.time_zone": self.time_zone}
        texts = [f"{key}={override_text(value)}" for key, value in windows.items() if value]
        urls = ",".join(map(override_text, self.notify))
        return [*self.overrides, *texts, *([f"notify.urls=[{urls}]"] if urls else [])]


def override_text(value: str) -> str:
    """Quote a text for Hydra's override grammar."""
    # In this grammar, a backslash is special only before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def has_control_character(text: str, allowed: str = "") -> bool:
    """Whether a text contains a line break or another character that a line of a unit or crontab cannot have."""
    return any(unicodedata.category(letter) in _CONTROL and letter not in allowed for letter in text)


def find_jobs_dir(given: Path | None = None) -> Path:
    """Return the jobs folder: the one given, ``jobs`` in the working directory, or ``jobs`` of the checkout.

    Raises:
        SweeperError: There is no such folder.
    """
    if given is not None:
        return given.absolute()
    checkout = Path(__file__).parents[2]
    is_checkout = (checkout / "pyproject.toml").is_file()
    places = [Path.cwd() / "jobs", *([checkout / "jobs"] if is_checkout else [])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise SweeperError(f"there is no jobs folder {places[0]}. Create it, or name another one with --jobs-dir")
    return found


def load_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a folder, sorted by name.

    Raises:
        ConfigError: A file is wrong, or two jobs have the same name.
    """
    jobs: dict[str, Job] = {}
    for path in sorted(folder.glob("*.yaml")):
        job = load_job(path)
        if job.name in jobs:
            rule = f"{jobs[job.name].file.name} already has this name"
            raise ConfigError(f"{path.name}: name", job.name, rule, "Give one of them another name.")
        jobs[job.name] = job
    return [jobs[name] for name in sorted(jobs)]


def find_job(name: str, folder: Path) -> Job:
    """Return a job by name, even if other files of the folder are wrong.

    Raises:
        SweeperError: There is no job of this name, or its file is wrong.
    """
    path = folder / f"{name}.yaml"
    if _NAME.fullmatch(name) and path.is_file():
        job = load_job(path)
        if job.name == name:
            return job
    jobs = {job.name: job for job in load_jobs(folder)}
    if name not in jobs:
        known = f"Known jobs: {', '.join(jobs)}." if jobs else f"There are no jobs in {folder}."
        raise SweeperError(f"there is no job '{name}'. {did_you_mean(name, jobs)} {known}".replace(".  ", ". "))
    return jobs[name]


def load_job(path: Path) -> Job:
    """Read a job and check it; `runner.plan_job` checks that its overrides compose.

    Raises:
        ConfigError: A key or value is wrong.
    """
    values: dict[str, Any] = {key: default for key, (_, _, default) in _KEYS.items()} | _read(path)
    name = str(values["name"]) or path.stem
    if not _NAME.fullmatch(name):
        rule = "a job's name is 1 to 40 lowercase letters, digits and hyphens, with no hyphen at either end"
        raise ConfigError(f"{path.name}: name", name, rule, "Rename the file, or set name.")
    parse_windows(str(values["window"]), str(values["time_zone"]), key=f"{path.name}: window")
    _check_given_once(path, values)
    return Job(
        name=name,
        description=" ".join(str(values["description"]).split()),
        overrides=tuple(map(str, values["overrides"])),
        window=str(values["window"]),
        time_zone=str(values["time_zone"]),
        report=bool(values["report"]),
        notify=tuple(map(str, values["notify"])),
        folder=_folder(path, str(values["folder"])),
        python=_python(path, str(values["virtual_environment"])),
        file=path.absolute(),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        rule = f"it cannot be read ({' '.join(str(error).split())})"
        raise ConfigError("job", path, rule, "Fix the file.") from error
    if not isinstance(content, dict):
        rule = "a job must be a YAML mapping of keys to values"
        raise ConfigError("job", path, rule, f"Keys: {', '.join(_KEYS)}.")
    for key, value in content.items():
        _check_value(path, str(key), value)
    return {key: value for key, value in content.items() if value is not None}


def _check_value(path: Path, key: str, value: object) -> None:
    if key not in _KEYS:
        remedy = f"{did_you_mean(key, _KEYS)} Keys: {', '.join(_KEYS)}.".strip()
        raise ConfigError(f"{path.name}: {key}", value, "jobs have no such key", remedy)
    kind, meaning, _ = _KEYS[key]
    if value is None:
        return
    is_texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
    if not (isinstance(value, kind) and is_texts):
        remedy = "Put texts that YAML would read as another type in quotes."
        raise ConfigError(f"{path.name}: {key}", value, f"the value must be {meaning}", remedy)
    # The line breaks of a description become spaces, and only manifests contain the items of lists.
    texts = value if isinstance(value, list) else [str(value)]
    allowed = "\n\t" if key == "description" or isinstance(value, list) else ""
    if any(has_control_character(text, allowed) for text in texts):
        rule = "a line break or another control character is not allowed here"
        raise ConfigError(f"{path.name}: {key}", repr(value), rule, "Remove it.")


def _check_given_once(path: Path, values: Mapping[str, Any]) -> None:
    for override in values["overrides"]:
        key = override.partition("=")[0].lstrip("+~")
        if key in _KEY_OF_OVERRIDE and values[_KEY_OF_OVERRIDE[key]]:
            rule = f"the job already sets this with its key {_KEY_OF_OVERRIDE[key]}"
            raise ConfigError(f"{path.name}: overrides", override, rule, "Remove one of them.")


def _folder(path: Path, given: str) -> Path:
    home = path.absolute().parent.parent
    folder = home / Path(given).expanduser() if given else home
    if not folder.is_dir():
        rule = f"there is no folder {folder}"
        raise ConfigError(f"{path.name}: folder", given, rule, "Create it, or remove the key.")
    return folder.absolute()


def _python(path: Path, given: str) -> Path:
    if not given:
        return Path(sys.executable)
    python = path.absolute().parent.parent / Path(given).expanduser() / "bin" / "python"
    if not python.exists():
        remedy = "Remove the key to use the Python that installs the job."
        raise ConfigError(f"{path.name}: virtual_environment", given, f"{python} does not exist", remedy)
    return python

"""One command for a machine with a GPU: what runs there, what fails, how fast it is, in one report to send back.

    python -m benchmarks.gpu_check                       ten minutes on a GPU; writes gpu-check.json and gpu-check.md
    python -m benchmarks.gpu_check --only triton ladder  some of the checks

Each check (`device_checks`) runs in a process of its own with a time limit, so one that crashes or hangs takes no other
with it, and both files are written again after each. Without a CUDA device it runs what a CPU can show, and reports the
rest as not run. Needs no network. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml

from benchmarks.arithmetic import table
from benchmarks.record import Row
from sweeper.disk.atomic import write_atomic
from sweeper.execute.devices import visible_cuda_devices
from sweeper.figures.text import plural
from sweeper.store.provenance import collect

__all__ = ["FAILED", "NOT_RUN", "PASSED", "Check", "Report", "checks_of", "exit_code", "main", "run_checks"]

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
ROOT = Path(__file__).resolve().parents[1]
_NAME = "gpu-check"
_MODULE = "benchmarks.device_checks"
_TAIL = 3000
"""Most characters of a failed check's output in the report."""
_DEVICE = "device"
"""The check that the others on a GPU depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check.

    It prints JSON lines: any number of ``{"row": {...}}``, then ``{"status": ..., "why": ...}``.
    """

    name: str
    title: str
    command: Sequence[str]
    """Arguments of the Python interpreter."""
    limit_s: float
    """It has failed if it takes longer."""
    num_devices: int = 0
    """CUDA devices that it needs; it sees no more."""
    sees_all: bool = False
    """Whether it sees all devices."""


class Report:
    """The report, on disk after each change.

    Args:
        folder: Where both files go.
        about: What is known before the first check: versions, devices, driver.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder = folder
        self._about = dict(about)
        self.results: list[Row] = []

    @property
    def paths(self) -> tuple[Path, Path]:
        """The JSON file, and the page that people read."""
        return self._folder / f"{_NAME}.json", self._folder / f"{_NAME}.md"

    def add(self, result: Row) -> None:
        """Add the result of a check, and write both files."""
        self.results.append(result)
        self.write()

    def write(self) -> None:
        """Write both files."""
        content = {**self._about, "seconds": sum(row["seconds"] for row in self.results), "checks": self.results}
        # The report is sent to others: it needs no user's name.
        as_json, as_page = (
            text.replace(str(Path.home()), "~") for text in (json.dumps(content, indent=1) + "\n", render(content))
        )
        for path, text in zip(self.paths, (as_json, as_page), strict=True):
            write_atomic(path, text.encode())


def main() -> None:
    """Run the checks."""
    asked = _parse()
    report = Report(asked.folder, about())
    found = visible_cuda_devices()
    checks = checks_of("cuda" if found else "cpu", short=asked.short)
    if asked.only:
        checks = [check for check in checks if check.name in {*asked.only, _DEVICE}]
    kind = plural(len(found), "CUDA device") if found else "no CUDA device; what a CPU can show is checked"
    print(f"{kind}. This takes about {asked.minutes:g} minutes at most.", flush=True)
    try:
        run_checks(checks, report, devices=found, budget_s=60 * asked.minutes, say=lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        print("Interrupted. The report has what was done.")
    print(f"\nReport: {' and '.join(map(str, report.paths))}")
    print("Please attach both to an issue; they hold versions, device names and results, and no data of yours.")
    sys.exit(exit_code(report.results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="where the report goes")
    parser.add_argument("--only", nargs="*", default=[], choices=[check.name for check in checks_of("cuda")])
    parser.add_argument("--minutes", type=float, default=10, help="no check begins later")
    parser.add_argument("--short", action="store_true", help="smallest sizes; the curve means nothing")
    return parser.parse_args()


def checks_of(device: str, *, short: bool = False) -> list[Check]:
    """Return all checks for a ``cuda`` or ``cpu`` device, the quick and basic ones first.

    Args:
        device: Where those run that run on both.
        short: The smallest sizes.
    """

    def check(name: str, title: str, limit_s: float, num_devices: int = 0, *, sees_all: bool = False) -> Check:
        command = ["-m", _MODULE, "--device", device, *(["--short"] if short else []), name]
        return Check(
            name=name, title=title, command=command, limit_s=limit_s, num_devices=num_devices, sees_all=sees_all
        )

    interpreted = "" if device == "cuda" else ", in Triton's interpreter"
    return [
        check(_DEVICE, "PyTorch computes on each device", 120, 1, sees_all=True),
        check("triton", f"Triton kernels against the reference{interpreted}", 180),
        check("device_parity", "Packs on the device against the same packs on the CPU", 300, 1),
        check("pack_parity", "A trial in a pack against the same trial alone", 300),
        check("quantised", "Packs on a quantised base against its dequantised weights (bitsandbytes)", 180),
        check("simulated_ladder", "Out-of-memory ladder, with simulated errors", 180),
        check("ladder", "Out-of-memory ladder, with a limit on the device's memory", 180, 1),
        check("tests", "Tests marked gpu", 300, 1, sees_all=True),
        check("two_workers", "Two workers on two devices", 180, 2),
        check("curve", "Throughput over tokens per step, against Trainer + PEFT", 420),
    ]


def run_checks(
    checks: Iterable[Check],
    report: Report,
    *,
    devices: Sequence[str],
    budget_s: float,
    say: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the checks one after the other, each in a process of its own.

    Args:
        checks: In this order.
        report: Gets each result.
        devices: The CUDA devices, as in CUDA_VISIBLE_DEVICES.
        budget_s: No check begins later.
        say: Called with a line for the user.
        clock: Returns monotonic seconds.
    """
    begun_s = clock()
    is_unusable = False
    report.write()
    for check in checks:
        reason = ""
        if check.num_devices > len(devices):
            reason = _too_few(check.num_devices, len(devices))
        elif is_unusable:
            reason = "PyTorch cannot compute on the device; see the first check"
        elif clock() - begun_s > budget_s:
            reason = f"the {budget_s / 60:g} minutes were used up; --minutes gives it more"
        result: Row = {"name": check.name, "title": check.title}
        if reason:
            result |= {"status": NOT_RUN, "why": reason, "seconds": 0.0, "rows": []}
        else:
            say(f"  {check.title} ...")
            started_s = clock()
            seen = devices if check.sees_all else devices[: max(1, check.num_devices)]
            outcome = _run(check, ",".join(seen))
            result |= {**outcome, "seconds": round(clock() - started_s, 1)}
        is_unusable = is_unusable or (check.name == _DEVICE and result["status"] == FAILED)
        report.add(result)
        say(f"{result['status'].upper()}  {check.title}{': ' if result['why'] else ''}{result['why']}")


def _too_few(needed: int, found: int) -> str:
    hidden = "CUDA_VISIBLE_DEVICES hides the others" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
    if found == 0:
        return "no CUDA device" + (" is visible: CUDA_VISIBLE_DEVICES is set" if hidden else "")
    return f"needs {needed} CUDA devices, and {found} is visible" + (f": {hidden}" if hidden else "")


def _run(check: Check, devices: str) -> Row:
    """Run a check; return its status, the reason, its rows, and the end of its output if it failed."""
    with tempfile.TemporaryDirectory(prefix=f"{_NAME}-", ignore_cleanup_errors=True) as folder:
        printed, errors = Path(folder) / "stdout.txt", Path(folder) / "stderr.txt"
        code = _wait(check, devices, Path(folder), printed, errors)
        lines = [_parsed(line) for line in _text(printed).splitlines()]
        tail = _text(errors)[-_TAIL:].replace(folder, "<folder>")
    verdict = next((line for line in reversed(lines) if "status" in line), {})
    result: Row = {
        "status": verdict.get("status", FAILED),
        "why": verdict.get("why", ""),
        "rows": [line["row"] for line in lines if "row" in line],
    }
    if code is None:
        result |= {"status": FAILED, "why": f"took more than {check.limit_s:g} s"}
    elif code or not verdict:
        # A crash after the verdict is one all the same: of a library that unloads, or of the driver.
        result |= {"status": FAILED, "why": verdict.get("why") or _exit_text(code)}
    if result["status"] == FAILED:
        result["output"] = tail
    return result


def _wait(check: Check, devices: str, folder: Path, printed: Path, errors: Path) -> int | None:
    """Run a check's command and return its exit code; None if it took too long. Leaves no process behind."""
    path = os.pathsep.join(entry for entry in (str(ROOT), os.environ.get("PYTHONPATH", "")) if entry)
    own = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": devices, "HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}
    with printed.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603  our own modules
            [sys.executable, *check.command],
            cwd=folder,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            return process.wait(check.limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the check's own children, too
            process.wait()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _parsed(line: str) -> Row:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # of a library, or of a check that was killed while it printed
    return found if isinstance(found, dict) else {}


def _exit_text(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exited with code {code}" if code else "exited without a result"


def exit_code(results: Sequence[Row]) -> int:
    """Return 1 if a check failed, otherwise 0."""
    return int(any(row["status"] == FAILED for row in results))


def about() -> Row:
    """Return versions, machine, devices and driver."""
    stamp = collect()
    more = ("accelerate", "triton", "bitsandbytes", "flash-attn")
    stamp["libraries"] |= {name: version for name in more if (version := _version(name))}
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), **stamp, **_driver()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver() -> Row:
    """Return the driver's version, and name, memory and compute capability of each device."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"driver": "", "driver_error": str(error), "devices": []}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = [
            {
                "name": str(pynvml.nvmlDeviceGetName(handle)),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "capability": ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))),
            }
            for handle in handles
        ]
        return {"driver": str(pynvml.nvmlSystemGetDriverVersion()), "devices": devices}
    except pynvml.NVMLError as error:
        return {"driver": "", "driver_error": str(error), "devices": []}
    finally:
        pynvml.nvmlShutdown()


def render(content: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    results = content["checks"]
    counts = ", ".join(
        f"{sum(row['status'] == status for row in results)} {status}" for status in (PASSED, FAILED, NOT_RUN)
    )
    parts = [
        f"# GPU check of {content['at']}",
        f"{counts}, in {content['seconds']:.0f} s.",
        _machine_text(content),
        table(
            ["check", "result", "why", "s"],
            [[row["title"], row["status"], _cell(row["why"]), row["seconds"]] for row in results],
        ),
    ]
    for row in results:
        if row["rows"]:
            parts += [f"## {row['title']}", _rows_table(row["rows"])]
        if row.get("output", "").strip():
            parts += [f"### Output of the failed check: {row['title']}", f"```\n{row['output'].strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _machine_text(content: Mapping[str, Any]) -> str:
    machine, commit = content["machine"], content["git"].get("commit", "")[:10] or "unknown"
    devices = [
        f"{one['name']}, {one['memory_bytes'] / 2**30:.0f} GiB, compute capability {one['capability']}"
        for one in content["devices"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in content["libraries"].items() if version)
    changes = " with changes" if content["git"].get("dirty") else ""
    lines = [
        f"- Devices: {'; '.join(devices) or 'none'}",
        f"- Driver: {content['driver'] or 'none'}",
        f"- {machine['cpu']}, {plural(machine['cores'], 'core')}, {machine['memory_bytes'] / 2**30:.0f} GiB",
        f"- {content['platform']}, Python {content['python']}",
        f"- sweeper {content['version']}, commit {commit}{changes}; {versions}",
    ]
    return "\n".join(lines)


def _rows_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table(names, [[_cell(row.get(name, "")) for name in names] for row in rows])


def _cell(value: object) -> object:
    return value.replace("|", "\\|").replace("\n", " ") if isinstance(value, str) else value


if __name__ == "__main__":
    main()

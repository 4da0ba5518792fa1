"""Writes the lock files: what each set of packages needs, with the SHA-256 of every file that PyPI has of a version.

``make constraints`` runs this. uv resolves pyproject.toml for all platforms and Python versions at once, within the
versions of constraints.txt. `make setup` and jobs/Dockerfile install the files with ``--no-deps --require-hashes``.

PyTorch has a file of its own, because it is installed from there only where PyPI's build is wanted: the CPU build comes
from PyTorch's own index, whose files have other hashes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).parent
ROOT = LOCKS.parent
HEADER = "# Written by `make constraints` (locks/write.py). Installed with: pip install --no-deps --require-hashes -r\n"
BUILD = ["hatchling", "setuptools"]
"""The build backends of this package and of antlr4-python3-runtime, which is published as source only."""
AUDIT = ["pip-audit"]
EXTRAS = ("quantization", "dev", "browser", "bench")
_ENTRY = re.compile(r"^(?P<name>[\w.-]+)==.*?(?=^[\w.-]+==|\Z)", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write every lock file."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    torch = resolve(re.findall(r'"(torch>=[^"]+)"', project))
    runtime = resolve([], "pyproject.toml")
    # What only PyTorch's CUDA build needs is not for those who take the CPU build.
    cuda = {name for name in torch if re.match(r"torch$|triton$|nvidia-(?!ml-py)|cuda-", name)}
    base = {name: entry for name, entry in runtime.items() if name not in cuda}
    write("torch", {name: torch[name] for name in cuda})
    write("base", base)
    for extra in EXTRAS:
        found = resolve([], "pyproject.toml", "--extra", extra)
        write(extra, {name: entry for name, entry in found.items() if name not in base and name not in cuda})
    write("build", resolve(BUILD))
    write("audit", resolve(AUDIT))


def resolve(requirements: list[str], *arguments: str) -> dict[str, str]:
    """Return the lines of every package that the requirements need, by name."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"),
        *("--python-version", "3.11", "--no-header", "--no-annotate", "--constraint", "constraints.txt"),
        *(arguments or ["-"]),
    ]
    text = "\n".join(requirements)
    found = subprocess.run(command, cwd=ROOT, input=text, text=True, stdout=subprocess.PIPE, check=True)  # noqa: S603
    return {entry["name"]: entry[0] for entry in _ENTRY.finditer(found.stdout)}


def write(name: str, entries: dict[str, str]) -> None:
    """Write a lock file, sorted by package."""
    (LOCKS / f"{name}.txt").write_text(HEADER + "".join(entries[name] for name in sorted(entries)), encoding="utf-8")


if __name__ == "__main__":
    main()

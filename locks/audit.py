"""Looks for known vulnerabilities of the versions in constraints.txt, with pip-audit in an environment of its own.

``make audit`` runs this. Exit code: 0 if none is known, 1 if there are some, 75 if no database can be reached. The
database is that of PyPI, and OSV's where PyPI's does not answer, as behind most mirrors of the package index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVICES = ("pypi", "osv")
OFFLINE = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")


def main() -> int:
    """Audit, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-offline", action="store_true", help="exit with 0 if no database can be reached")
    is_skipped = parser.parse_args().skip_offline
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        if subprocess.run([python, *_PIP, "--requirement", str(ROOT / "locks" / "audit.txt")], check=False).returncode:  # noqa: S603
            print("pip-audit cannot be installed, so nothing was audited.")
            found = None
        else:
            found = audit([python, "-m", "pip_audit"], ROOT / "constraints.txt")
    if found is None:
        print("No database of vulnerabilities can be reached.\n0 passed, 0 failed, 1 skipped")
        return 0 if is_skipped else OFFLINE
    print("\n".join(found))
    print(f"{0 if found else 1} passed, {len(found)} failed")
    return 1 if found else 0


def audit(command: Sequence[str], requirements: Path) -> list[str] | None:
    """Return a line for each known vulnerability; None if no database answers for every package."""
    words = [*command, "--requirement", str(requirements), "--no-deps", "--disable-pip", "--format", "json"]
    words += ["--progress-spinner", "off", "--timeout", "10", "--vulnerability-service"]
    for service in SERVICES:
        done = subprocess.run([*words, service], capture_output=True, text=True, check=False)  # noqa: S603
        lines = vulnerabilities(done.stdout)
        if lines is not None:
            return lines
        reason = done.stderr.strip().splitlines()[-1] if not done.stdout else "it does not know all packages"
        print(f"{service}: {reason}")
    return None


def vulnerabilities(output: str) -> list[str] | None:
    """Read pip-audit's JSON; None without any, or if packages were skipped and nothing was found: no success to us."""
    try:
        packages = json.loads(output)["dependencies"]
    except ValueError:
        return None
    found = [
        f"{package['name']} {package['version']}: {entry['id']}, fixed in {', '.join(entry['fix_versions']) or 'none'}"
        for package in packages
        for entry in package.get("vulns", [])
    ]
    is_complete = not any("skip_reason" in package for package in packages)
    return found if found or is_complete else None


if __name__ == "__main__":
    sys.exit(main())

"""The lock files pin what pyproject.toml asks for, with hashes; the audit tells a clean result from none at all."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {path.stem: path for path in (ROOT / "locks").glob("*.txt")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HASH = r"--hash=sha256:[0-9a-f]{64}"


def _entries(path):
    """Return the lines of each package of a lock file, as one, by name."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


def _version(line):
    return re.match(r"\S+?==(\S+)", line)[1]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_file_has_a_version_and_hashes(name):
    entries = _entries(LOCKS[name])
    assert entries
    for line in entries.values():
        assert re.fullmatch(rf"[\w.-]+==\S+( ; [^-]+)?(\s+{HASH})+\s*", line), line


def test_locks_and_constraints_have_the_same_versions():
    locked = {name: _version(line) for path in LOCKS.values() for name, line in _entries(path).items()}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    constraints = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    assert {name: locked.get(name) for name in constraints} == constraints


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_every_dependency_is_locked(extra):
    locked = _entries(LOCKS["base"]) | _entries(LOCKS["torch"]) | (_entries(LOCKS[extra]) if extra else {})
    for text in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(_version(locked[canonicalize_name(requirement.name)])), text


def test_the_cpu_build_of_pytorch_needs_nothing_of_cuda():
    assert not [name for name in _entries(LOCKS["base"]) if name.startswith(("torch", "cuda", "triton"))]


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "locks" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _report(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
SKIPPED = {"name": "zipp", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def test_an_audit_that_finds_nothing_has_no_lines(audit):
    assert audit.vulnerabilities(_report(CLEAN)) == []


def test_an_audit_names_package_vulnerability_and_remedy(audit):
    found = {"name": "jinja2", "version": "3.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1"]}]}
    assert audit.vulnerabilities(_report(CLEAN, found)) == ["jinja2 3.0: PYSEC-1, fixed in 3.1"]


@pytest.mark.parametrize("output", ["", "Traceback", _report(CLEAN, SKIPPED)])
def test_an_audit_that_a_database_did_not_answer_is_not_clean(audit, output):
    assert audit.vulnerabilities(output) is None


def test_a_vulnerability_is_reported_though_another_package_is_unknown(audit):
    found = {"name": "jinja2", "version": "3.0", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
    assert audit.vulnerabilities(_report(SKIPPED, found)) == ["jinja2 3.0: PYSEC-1, fixed in none"]


DOCKER = """#!/bin/sh
echo "$*" >> "{calls}"
test "$1" != image || echo "python@sha256:0123"
"""


def test_the_image_is_built_on_the_digest_that_was_seen_first(tmp_path):
    (tmp_path / "jobs").mkdir()
    docker, calls = tmp_path / "docker", tmp_path / "calls"
    docker.write_text(DOCKER.format(calls=calls))
    docker.chmod(0o755)
    command = ["make", "--file", str(ROOT / "Makefile"), "image"]
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "jobs" / "base-image.txt").read_text() == "python@sha256:0123\n"
    lines = calls.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["pull", "image", "build", "build"]
    assert all("--build-arg BASE_IMAGE=python@sha256:0123 " in line for line in lines[2:])

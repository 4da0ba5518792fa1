"""Wheel and sdist carry configuration and templates, so that an installed sweeper works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "conf": "sweeper/config/conf",
    "analysis": "sweeper/analysis",
    "jobs/templates": "sweeper/jobs/templates",
}
DATA = {
    f"{inside}/{path.relative_to(ROOT / folder)}"
    for folder, inside in FOLDERS.items()
    for path in (ROOT / folder).rglob("*.*")
    if "__pycache__" not in path.parts
}


def _build(folder, *options):
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("wheel"), "-t", "wheel")


def test_the_wheel_has_every_file_of_conf_and_templates(wheel):
    assert len(DATA) > 20
    assert set(zipfile.ZipFile(wheel).namelist()) >= DATA


def test_the_wheel_has_no_tests_and_no_outputs(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sweeper"}


def test_a_wheel_made_from_the_sdist_has_them_too(tmp_path):
    sdist = _build(tmp_path / "sdist", "-t", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    source = next((tmp_path / "source").iterdir())
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path / "wheel"), "-t", "wheel"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    assert set(zipfile.ZipFile(next((tmp_path / "wheel").iterdir())).namelist()) >= DATA


def test_an_installed_package_finds_its_configuration(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "from sweeper.config import compose; print(compose.__file__); "
        "print(compose.compose([]).settings.search.sampler)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "sweeper" / "config" / "compose.py"), "tpe"]

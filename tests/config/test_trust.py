"""What a configuration file of someone else can do: it reads no secrets, and runs no code without consent."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

from sweeper.cli import main
from sweeper.config.compose import compose
from sweeper.config.trust import READABLE_VARIABLES
from sweeper.errors import ConfigError
from sweeper.jobs.runner import plan_job
from sweeper.jobs.settings import load_job
from sweeper.sweep.identity import settings_to_keep
from tests.builders import make_study, make_sweep, make_trial

HUB = ["model=hub", "model.id=them/model", "model.name=theirs"]
TRUST = "model.trust_remote_code=true"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of configuration files with an experiment that wants to run the code of a model."""
    monkeypatch.delenv("SWEEPER_TRUST_REMOTE_CODE", raising=False)
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nmodel: {trust_remote_code: true}\n"
    (tmp_path / "experiment" / "theirs.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("text", ["${oc.env:HF_TOKEN}", "${oc.env:${oc.env:SWEEPER_NAME}}", "${oc.env:HF_TOKEN,none}"])
def test_a_configuration_cannot_read_a_secret(monkeypatch, text):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("SWEEPER_NAME", "HF_TOKEN")
    for override in (
        f"notify.urls=['json://host/{text}']",
        f"name='{text}'",
        f"dataset=files dataset.files.path='{text}'",
    ):
        with pytest.raises(ConfigError) as caught:
            compose(override.split())
        message = str(caught.value)
        assert "=${oc.env:HF_TOKEN}: of the environment variables, a configuration can only read HOME, " in message
        assert 'export SWEEPER_HF_TOKEN="$HF_TOKEN", and write ${oc.env:SWEEPER_HF_TOKEN}.' in message
        assert "hunter2" not in message


def test_a_file_cannot_read_a_secret(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    (folder / "experiment" / "spy.yaml").write_text(
        "# @package _global_\nnotify: {urls: ['json://x/${oc.env:HF_TOKEN}']}\n"
    )
    with pytest.raises(ConfigError, match=r"notify.urls\[0\]=\$\{oc.env:HF_TOKEN\}: of the environment variables"):
        compose(["experiment=spy"], config_dir=folder)


@pytest.mark.parametrize("name", ["SWEEPER_FOLDER", *READABLE_VARIABLES])
def test_variables_for_configurations_can_be_read(monkeypatch, name):
    monkeypatch.setenv(name, "abc")
    assert compose([f"outputs=${{oc.env:{name}}}/x"]).settings.outputs == "abc/x"


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(ConfigError, match="Environment variable 'SWEEPER_MISSING' not found"):
        compose(["name=${oc.env:SWEEPER_MISSING}"])


def test_the_program_around_sweeper_can_still_read_its_variables(monkeypatch):
    monkeypatch.setenv("OTHER", "abc")
    compose(["dataset=trec"])
    with pytest.raises(ConfigError):
        compose(["name=${oc.env:OTHER}"])
    assert OmegaConf.create({"a": "${oc.env:OTHER}"}).a == "abc"


def test_the_code_of_a_model_is_not_trusted_by_default():
    assert compose(HUB).settings.model.trust_remote_code is False


@pytest.mark.parametrize("override", [TRUST, "model={trust_remote_code: true}"])
def test_the_user_can_trust_a_model_on_the_command_line(folder, override):
    assert compose([*HUB, override]).settings.model.trust_remote_code
    assert compose([*HUB, "experiment=theirs", override], config_dir=folder).settings.model.trust_remote_code


def test_a_file_cannot_trust_a_model_for_the_user(folder):
    with pytest.raises(ConfigError) as caught:
        compose([*HUB, "experiment=theirs"], config_dir=folder)
    message = str(caught.value)
    assert message.startswith(
        "model.trust_remote_code=true: a configuration file sets this, but only you can decide to"
    )
    assert "run the code of them/model. If you trust its authors, write model.trust_remote_code=true on" in message
    assert message.endswith("or set the environment variable SWEEPER_TRUST_REMOTE_CODE=them/model.")


@pytest.mark.parametrize(
    ("value", "is_trusted"), [("them/model", True), ("a/b them/model", True), ("them", False), ("1", False)]
)
def test_a_variable_names_the_trusted_models(folder, monkeypatch, value, is_trusted):
    monkeypatch.setenv("SWEEPER_TRUST_REMOTE_CODE", value)
    if is_trusted:
        assert compose([*HUB, "experiment=theirs"], config_dir=folder).settings.model.trust_remote_code
    else:
        with pytest.raises(ConfigError):
            compose([*HUB, "experiment=theirs"], config_dir=folder)


def test_a_file_can_say_that_no_model_is_trusted_and_the_user_overrule_a_file(folder):
    settings = compose([*HUB, "experiment=theirs", "model.trust_remote_code=false"], config_dir=folder).settings
    assert not settings.model.trust_remote_code


def test_a_job_cannot_trust_a_model_for_the_user(folder, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    (folder / "jobs").mkdir()
    path = folder / "jobs" / "theirs.yaml"
    path.write_text(f"overrides: {[*HUB, TRUST]}\n")
    with pytest.raises(ConfigError, match=r"theirs.yaml: model.trust_remote_code=true: the job sets this"):
        plan_job(load_job(path))
    monkeypatch.setenv("SWEEPER_TRUST_REMOTE_CODE", "them/model")
    assert plan_job(load_job(path)).config.settings.model.trust_remote_code


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A sweep on disk whose settings want to run the code of a model."""
    monkeypatch.delenv("SWEEPER_TRUST_REMOTE_CODE", raising=False)
    settings = settings_to_keep(compose([*HUB, TRUST, "dataset=trec"]).settings)
    study = make_study()
    store = make_sweep(tmp_path / "theirs", [(study, [make_trial(0, 0.9, study=study)])])
    store.write_sweep(store.read_sweep() | {"settings": settings})
    return store


@pytest.mark.parametrize("command", [["confirm", "theirs"], ["reproduce", "theirs/trec-minilm-lora/0"]])
def test_a_sweep_on_disk_cannot_trust_a_model_for_the_user(stored, monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["sweeper", *command, "--outputs", str(stored.root.parent)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "model.trust_remote_code=true: the sweep on disk sets this" in capsys.readouterr().err

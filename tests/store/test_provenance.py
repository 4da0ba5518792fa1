"""Provenance and hashes."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from sweeper.store.provenance import collect, git_state
from sweeper.sweep.identity import config_hash


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "code.py").write_text("a = 1\n")
    me = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)  # noqa: S607
    return tmp_path


def test_a_clean_checkout_has_a_commit(checkout):
    state = git_state(checkout)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False


def test_a_changed_file_makes_it_dirty(checkout):
    (checkout / "code.py").write_text("a = 2\n")
    assert git_state(checkout)["dirty"] is True


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_state(tmp_path) == {}


def test_a_package_installed_inside_another_repository_is_not_that_repository(checkout):
    installed = checkout / ".venv" / "site-packages" / "sweeper"
    installed.mkdir(parents=True)
    (installed / "x.py").write_text("")
    assert git_state(installed) == {}


def test_provenance_is_json_and_names_versions_and_machine():
    found = json.loads(json.dumps(collect()))
    assert found["libraries"]["optuna"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 0
    assert isinstance(found["machine"]["gpus"], list)


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_hash_depends_on_the_values():
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_the_hash_is_the_same_in_every_release():
    assert config_hash({"a": [1, "é"]}) == "83a175c500b5b96c13553ef38f7d1acfb22f0f69d64880f0156110554c0b2b0c"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_represent_is_rejected(value):
    with pytest.raises(ValueError, match="JSON"):
        config_hash({"a": value})

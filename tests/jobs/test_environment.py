"""Environment variables for jobs that a scheduler starts."""

from __future__ import annotations

import pytest

from sweeper.errors import ConfigError
from sweeper.jobs.environment import environment_file, load_environment


def _loaded(tmp_path, text, **before):
    path = tmp_path / "environment"
    path.write_text(text)
    environment = dict(before)
    load_environment(path, environment)
    return environment


def test_variables_are_loaded(tmp_path):
    text = "# a token\nHF_TOKEN=abc\n\nexport SWEEPER_NOTIFY='json://host/?a=b'\n"
    assert _loaded(tmp_path, text) == {"HF_TOKEN": "abc", "SWEEPER_NOTIFY": "json://host/?a=b"}


def test_variables_that_are_already_set_keep_their_values(tmp_path):
    assert _loaded(tmp_path, "HOST=abc", HOST="mine") == {"HOST": "mine"}


def test_a_wrong_line_is_named_but_not_shown(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2: every line must be NAME=value") as caught:
        _loaded(tmp_path, "A=1\nsecret word")
    assert "secret" not in str(caught.value)


def test_without_a_file_nothing_is_loaded(tmp_path):
    environment = {}
    load_environment(tmp_path / "none", environment)
    assert environment == {}


def test_the_file_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert environment_file() == tmp_path / "sweeper" / "environment"

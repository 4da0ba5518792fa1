"""What a shell knows, for jobs that a clock starts."""

from __future__ import annotations

import pytest

from sweeper.errors import ConfigError
from sweeper.jobs.environment import environment_file, take_environment


def _taken(tmp_path, text, **before):
    path = tmp_path / "environment"
    path.write_text(text)
    environment = dict(before)
    take_environment(path, environment)
    return environment


def test_lines_are_taken(tmp_path):
    text = "# a token\nHF_TOKEN=abc\n\nexport SWEEPER_NOTIFY='json://host/?a=b'\n"
    assert _taken(tmp_path, text) == {"HF_TOKEN": "abc", "SWEEPER_NOTIFY": "json://host/?a=b"}


def test_what_is_set_already_stays(tmp_path):
    assert _taken(tmp_path, "HOST=abc", HOST="mine") == {"HOST": "mine"}


def test_a_wrong_line_is_named_but_not_shown(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2: this is no NAME=value") as caught:
        _taken(tmp_path, "A=1\nsecret word")
    assert "secret" not in str(caught.value)


def test_no_file_is_no_environment(tmp_path):
    environment = {}
    take_environment(tmp_path / "none", environment)
    assert environment == {}


def test_the_file_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert environment_file() == tmp_path / "sweeper" / "environment"

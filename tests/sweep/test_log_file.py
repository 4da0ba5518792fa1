"""The log of a sweep: messages and tracebacks without the passwords of URLs."""

from __future__ import annotations

import logging

from sweeper.sweep.log_file import log_to

URL = "postgresql://me:hunter2@host/db"


def test_messages_and_tracebacks_have_no_passwords(tmp_path):
    path = tmp_path / "sweep.log"
    with log_to(path):
        error = RuntimeError(f"cannot connect to {URL}")
        logging.getLogger("sqlalchemy").error("lost %s", URL, exc_info=error)
    text = path.read_text()
    assert "RuntimeError: cannot connect" in text
    assert text.count("postgresql://me:***@host/db") == 2
    assert "hunter2" not in text


def test_warnings_on_the_terminal_have_no_passwords(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with log_to(tmp_path / "sweep.log"):
        logging.getLogger("sweeper.track").warning("lost %s", URL)
    assert capsys.readouterr().err.splitlines() == ["lost postgresql://me:***@host/db"]

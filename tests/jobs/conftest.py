"""A folder of jobs, and programs of schedulers that record their arguments."""

from __future__ import annotations

import sys

import pytest

SYSTEMCTL = """#!/bin/sh
PATH=/usr/bin:/bin
echo "$*" >> "{folder}/systemctl.calls"
if test -e "{folder}/offline"; then echo "Failed to connect to bus" >&2; exit 1; fi
case "$2" in
  is-system-running) cat "{folder}/manager"; test "$(cat "{folder}/manager")" = running ;;
  enable) if test -e "{folder}/refuse"; then echo "Unit is masked" >&2; exit 1; fi ;;
esac
"""
CRONTAB = """#!/bin/sh
PATH=/usr/bin:/bin
table="{folder}/table"
if test -e "{folder}/refuse"; then echo "crontab: you may not use this program" >&2; exit 1; fi
case "$1" in
  -l) if test -e "$table"; then cat "$table"; else echo "no crontab for me" >&2; exit 1; fi ;;
  -r) rm "$table" ;;
  -) cat > "$table.new"; mv "$table.new" "$table" ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture
def jobs_dir(tmp_path):
    """A folder with one job."""
    folder = tmp_path / "work" / "jobs"
    folder.mkdir(parents=True)
    (folder / "nightly.yaml").write_text('overrides: [dataset=trec]\nwindow: "22:00-07:00"\n')
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with both schedulers, doubles that record their arguments in this folder, and a home of its own."""
    folder = tmp_path / "machine"
    folder.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("crontab", CRONTAB)):
        _program(folder, name, text)
    (folder / "manager").write_text("running\n")
    monkeypatch.setenv("PATH", str(folder))  # nothing else: a test must not reach the real crontab
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return folder


@pytest.fixture
def units(machine):
    """Where the user's unit files lie."""
    return machine / "config" / "systemd" / "user"


@pytest.fixture
def sweeper(monkeypatch, capsys, jobs_dir, machine):
    """Run ``sweeper jobs`` on that machine, beside the folder of jobs; return exit code, output and errors."""
    from sweeper.cli import main

    assert machine.is_dir()
    monkeypatch.chdir(jobs_dir.parent)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweeper", "jobs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call


def _program(folder, name, text):
    path = folder / name
    path.write_text(text.format(folder=folder))
    path.chmod(0o755)

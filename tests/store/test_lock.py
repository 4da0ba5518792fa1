"""One controller per sweep: the error for a second one, and what does not count as holding the lock."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.errors import SweepLocked
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
from pathlib import Path
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore

with hold(TrialStore(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    return TrialStore(tmp_path / "sweep")


@pytest.fixture
def holder(store):
    command = [sys.executable, "-c", HOLDER, str(store.root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_the_error_names_the_holder_of_the_sweep_and_since_when(store, holder):
    with pytest.raises(SweepLocked) as caught, hold(store):
        pass
    message = rf"process {holder.pid} of \w+ on {re.escape(os.uname().nodename)} since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d"
    assert re.search(message, str(caught.value))


def test_a_busy_sweep_has_its_own_exit_code(store, holder, monkeypatch, capsys):
    store.write_sweep({"settings": {}})
    monkeypatch.setattr("sys.argv", ["sweeper", "reconcile", "sweep", "--outputs", str(store.root.parent)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert f"process {holder.pid}" in capsys.readouterr().err


def test_a_killed_holder_releases_the_lock(store, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (store.root / "holder.json").exists()
    with hold(store) as was_killed:
        assert was_killed
        assert json.loads((store.root / "holder.json").read_text())["pid"] == os.getpid()
    with hold(store) as was_killed:
        assert not was_killed


def test_a_note_that_names_a_running_process_does_not_hold_the_lock(store):
    """The process id of a killed controller may belong to another process by now."""
    store.root.mkdir()
    note = {"pid": os.getppid(), "host": os.uname().nodename, "user": "me", "since": "2026-01-01T00:00:00+00:00"}
    (store.root / "holder.json").write_text(json.dumps(note))
    (store.root / "sweep.lock").touch()
    with hold(store):
        pass
    assert not (store.root / "holder.json").exists()

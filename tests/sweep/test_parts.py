"""Small parts of a sweep: name, lock, signals, log, and discovery on disk."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from rich.console import Console

from sweeper.config.compose import compose
from sweeper.control.shutdown import shutdown_on_signals
from sweeper.errors import DiskError, SweeperError, SweepLocked
from sweeper.store.discovery import find_sweep
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import settings_to_keep, sweep_name
from sweeper.sweep.log_file import log_to
from sweeper.sweep.run import run_sweep


def name_of(*overrides):
    return sweep_name(compose(["dataset=[trec,sms_spam]", *overrides]).settings)


def test_a_configured_name_is_used():
    assert name_of("name=mine") == "mine"


def test_a_name_is_made_of_datasets_model_and_space():
    assert name_of().startswith("trec+sms_spam-minilm-default-")


@pytest.mark.parametrize(
    "change", ["budget.trials=3", "executor=inline", "tracker=none", "outputs=x", "search.storage=sqlite:///x.db"]
)
def test_settings_of_place_and_duration_do_not_change_the_name(change):
    assert name_of(change) == name_of()


@pytest.mark.parametrize("change", ["lora.r=4", "seed=1", "train.epochs=2", "search=gp", "model.max_length=64"])
def test_settings_that_trials_depend_on_change_the_name(change):
    assert name_of(change) != name_of()


def test_passwords_are_not_stored():
    overrides = ["search.storage=postgresql://me:hunter2@host/x", "tracker.uri=http://me:hunter2@host"]
    kept = settings_to_keep(compose(["dataset=trec", *overrides]).settings)
    assert "hunter2" not in json.dumps(kept)
    assert "host/x" in kept["search"]["storage"]


# Lock.


def test_a_locked_sweep_is_rejected_with_its_holder(tmp_path):
    store = TrialStore(tmp_path / "mine")
    with hold(store), pytest.raises(SweepLocked, match=rf"sweep mine is being run by process {os.getpid()} of .+ on "):
        hold(store).__enter__()


def test_a_released_lock_can_be_taken_again(tmp_path):
    store = TrialStore(tmp_path / "mine")
    with pytest.raises(ZeroDivisionError), hold(store):
        raise ZeroDivisionError
    assert not (store.root / "holder.json").exists()
    with hold(store):
        assert json.loads((store.root / "holder.json").read_text())["pid"] == os.getpid()


def test_a_damaged_note_of_the_holder_does_not_hide_the_lock(tmp_path):
    store = TrialStore(tmp_path / "mine")
    with hold(store):
        (store.root / "holder.json").write_text("{")
        with pytest.raises(SweepLocked, match="by another process"):
            hold(store).__enter__()


# Signals.


@pytest.fixture
def not_under_nohup():
    """The tests may themselves run under nohup, which processes inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("not_under_nohup")
def test_a_closed_terminal_is_a_request_to_stop_and_may_say_so_twice():
    with shutdown_on_signals(5.0) as request:
        signal.raise_signal(signal.SIGHUP)
        assert request.reason == "SIGHUP"
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_under_nohup_a_closed_terminal_changes_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shutdown_on_signals(5.0) as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


TERMINAL = """
import os, signal, sys
from sweeper.control.shutdown import shutdown_on_signals

woken, wakes = os.pipe()
os.set_blocking(wakes, False)
signal.set_wakeup_fd(wakes)
with shutdown_on_signals(5.0) as request:
    print("ready", flush=True)
    os.read(woken, 1)
    print("the last chunk is saved", flush=True)
    print("with a warning", file=sys.stderr, flush=True)
os.write(int(sys.argv[1]), request.reason.encode())
"""


@pytest.mark.usefixtures("not_under_nohup")
@pytest.mark.skipif(sys.platform != "linux", reason="terminals differ")
def test_after_its_terminal_was_closed_a_sweep_can_still_print_and_end():
    own, theirs = pty.openpty()
    answer, to_answer = os.pipe()
    command = [sys.executable, "-c", TERMINAL, str(to_answer)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, pass_fds=[to_answer], start_new_session=True
    ) as process:
        os.close(theirs)
        os.close(to_answer)
        assert b"ready" in os.read(own, 100)
        os.close(own)
        process.send_signal(signal.SIGHUP)
        assert os.read(answer, 100) == b"SIGHUP"
        assert process.wait() == 0
    os.close(answer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_to_stop_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    with shutdown_on_signals(5.0) as request:
        assert not request
        signal.raise_signal(number)
        assert request.reason == number.name
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_in_another_thread_signals_are_not_handled():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with shutdown_on_signals(5.0) as request:
            seen.append((bool(request), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


# Log.


@contextmanager
def handlers(*wanted):
    """Logging as a program has it; pytest adds its own for each test."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, list(wanted)
    try:
        yield root
    finally:
        root.handlers = before


def test_warnings_are_shown_and_all_records_are_in_the_file(tmp_path, capsys):
    with handlers(), log_to(tmp_path / "sweep.log"):
        logging.getLogger("sweeper.x").info("quiet")
        logging.getLogger("sweeper.x").warning("loud")
        logging.getLogger("other").info("not ours")
    kept = (tmp_path / "sweep.log").read_text()
    assert "INFO sweeper.x: quiet" in kept
    assert "WARNING sweeper.x: loud" in kept
    assert "not ours" not in kept
    assert capsys.readouterr().err == "loud\n"


def test_an_application_that_has_configured_logging_shows_warnings_itself(tmp_path, capsys):
    with handlers(logging.NullHandler()), log_to(tmp_path / "sweep.log"):
        logging.getLogger("sweeper.x").warning("loud")
    assert capsys.readouterr().err == ""


def test_a_log_on_a_failing_disk_prints_no_tracebacks_but_bugs_still_do(tmp_path, capsys):
    def fail(_text):
        raise OSError(errno.EIO, "Input/output error")

    with handlers() as root, log_to(tmp_path / "sweep.log"):
        logging.getLogger("sweeper.x").info("first")
        [file] = root.handlers
        file.stream.close()
        file.stream = io.StringIO()
        file.stream.write = fail
        logging.getLogger("sweeper.x").info("lost")
        assert capsys.readouterr().err == ""
        logging.getLogger("sweeper.x").info("a bug: %d", "text")
        assert "TypeError" in capsys.readouterr().err
    assert "first" in (tmp_path / "sweep.log").read_text()


def test_a_log_that_cannot_be_opened_stops_nothing(tmp_path):
    """The sweep stops because of files that it needs."""
    with log_to(tmp_path / "none" / "sweep.log"):
        logging.getLogger("sweeper").info("lost")
    assert not (tmp_path / "none").exists()


def test_a_log_that_cannot_be_flushed_stops_nothing(tmp_path, monkeypatch):
    def full(_stream):
        raise OSError(errno.ENOSPC, "No space left on device")

    with log_to(tmp_path / "sweep.log"):
        logging.getLogger("sweeper").info("lost")
        monkeypatch.setattr(logging.StreamHandler, "flush", full)


def test_an_outputs_path_below_a_file_is_an_error_of_ours(tmp_path):
    """The model and the rows are not fetched for that."""
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"/file cannot be written \(it is a file, not a folder\)"):
        run_sweep(["dataset=trec", "tracker=none", f"outputs={tmp_path / 'file' / 'outputs'}"], console=Console())


def test_logging_is_restored(tmp_path):
    own = logging.getLogger("sweeper")
    before = (own.level, list(own.handlers))
    with handlers() as root:
        with log_to(tmp_path / "sweep.log"):
            assert root.handlers
        assert root.handlers == []
    assert (own.level, own.handlers) == before


# Finding a sweep again.


def begin(outputs, name, *, age_s=0):
    store = TrialStore(outputs / name)
    store.write_sweep({})
    stamp = (store.root / "sweep.json").stat().st_mtime - age_s
    os.utime(store.root / "sweep.json", (stamp, stamp))


def test_a_sweep_is_found_by_name_and_the_latest_without(tmp_path):
    begin(tmp_path, "first", age_s=60)
    begin(tmp_path, "second")
    assert find_sweep("first", tmp_path).root.name == "first"
    assert find_sweep("", tmp_path).root.name == "second"


def test_a_misspelt_sweep_is_suggested(tmp_path):
    begin(tmp_path, "first")
    with pytest.raises(SweeperError, match=r"no sweep 'frist'. Did you mean 'first'\? Existing sweeps: first"):
        find_sweep("frist", tmp_path)


def test_without_any_sweep_the_error_explains_that_there_is_none(tmp_path):
    with pytest.raises(SweeperError, match="no sweep has been run yet"):
        find_sweep("", tmp_path)

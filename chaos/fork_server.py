"""A process that has imported everything that controllers and workers import, and forks them.

Imports take nine tenths of a start, and the suite kills hundreds of processes. `driver` still starts every sixth
session normally. ``python -m chaos.fork_server`` reads one JSON line per controller, and writes ``started <pid>`` and
``ended <pid> <code>``. `ForkServer` is the client, in the driver's process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["ForkServer", "Forked"]

_LOADED = (
    "chaos.controller",
    "sweeper.analysis.report",
    "mlflow.tracking",
    "sweeper.data.prompt_tokens",
    "sweeper.search.study",
    "sweeper.sweep.factory",
    "sweeper.track.mlflow_runs",
    "sweeper.train.worker",
    "transformers.models.bert.modeling_bert",
)
_POLL_S = 0.01


class ForkServer:
    """Starts the server process, and asks it to fork controllers."""

    def __init__(self, root: Path) -> None:
        self._codes: dict[int, int] = {}
        self._news = threading.Condition()
        self._pids: list[int] = []
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.fork_server"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: Sequence[str], log: Path, mutant: str = "") -> Forked:
        """Fork a controller, with a planted bug if ``mutant`` is not empty; its output goes to ``log``."""
        assert self._process.stdin is not None
        with self._asking:
            order = {"arguments": list(arguments), "log": str(log), "mutant": mutant}
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            with self._news:
                assert self._news.wait_for(lambda: bool(self._pids), 60)
                return Forked(self._pids.pop(), self)

    def code(self, pid: int, timeout_s: float) -> int | None:
        """Return the exit code of a controller, or None if it does not end within ``timeout_s``."""
        with self._news:
            self._news.wait_for(lambda: pid in self._codes, timeout_s)
            return self._codes.get(pid)

    def close(self) -> None:
        """Kill the server process."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, *numbers = line.split()
            with self._news:
                if what == "started":
                    self._pids.append(int(numbers[0]))
                elif what == "ended":
                    self._codes[int(numbers[0])] = int(numbers[1])
                self._news.notify_all()


class Forked:
    """A forked controller, with the methods of `subprocess.Popen` that `session` uses."""

    def __init__(self, pid: int, fork_server: ForkServer) -> None:
        self.pid = pid
        self._fork_server = fork_server

    def poll(self) -> int | None:
        """Return the exit code, or None while it is running."""
        return self._fork_server.code(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code."""
        code = self._fork_server.code(self.pid, 3600 if timeout is None else timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if it is still running."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _ForkedWorker:
    """Replaces `subprocess.Popen` in the controller: a worker that is forked instead of started."""

    def __init__(
        self, command: Sequence[str], *, pass_fds: Sequence[int], stdout: IO[bytes], env: Mapping[str, str], **_: Any
    ) -> None:
        self.returncode: int | None = None
        self.args = command
        arguments, parent = list(command[3:]), os.getpid()
        assert command[2] == "sweeper.execute.serve"
        self.pid = os.fork()
        if self.pid:
            return
        _run_child(lambda: _serve(arguments, env, parent), stdout.fileno(), keep=pass_fds)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (3600 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL_S)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Subprocess:
    """The module `subprocess`, except that `Popen` forks."""

    Popen = _ForkedWorker

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def _serve(arguments: Sequence[str], environment: Mapping[str, str], parent: int) -> None:
    from sweeper.execute import serve

    os.environ.update(environment)
    assert os.getppid() == parent
    serve.main(list(arguments))


def _control(arguments: Sequence[str], mutant: str) -> None:
    import sweeper.execute.process
    from chaos.controller import prepare
    from sweeper.cli import main

    prepare(mutant)
    sweeper.execute.process.subprocess = _Subprocess()  # type: ignore[assignment, attr-defined]
    sys.argv = ["sweeper", *arguments]
    main()


def _run_child(work: Callable[[], None], output: int, *, keep: Sequence[int] = ()) -> None:
    """Run ``work`` in a forked child with its output redirected, then exit without the parent's clean-up handlers."""
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        last = 2
        for each in sorted(keep):
            os.closerange(last + 1, each)
            last = each
        os.closerange(last + 1, 1024)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # it came before `sweeper.cli.main` could handle it
        code = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001  as Python does at the end of a program
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _fork(order: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(Path(order["log"]).parent)
    log = os.open(order["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    _run_child(lambda: _control(order["arguments"], order["mutant"]), log)
    raise AssertionError("unreachable")


def _write(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Import everything, then fork a controller for every line of input."""
    from sweeper.track.mlflow import set_environment

    set_environment()
    for name in _LOADED:
        importlib.import_module(name)
    while True:
        ready, _, _ = select.select([0], [], [], _POLL_S)
        if ready:
            line = os.read(0, 1 << 20)  # one line at a time, because the client waits for the answer
            if not line:
                return
            _write("started", _fork(json.loads(line)))
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _write("ended", ended[0], os.waitstatus_to_exitcode(ended[1]))


if __name__ == "__main__":
    main()

"""Runs MLflow's server in the foreground with as little memory as possible. Called by `sweeper ui`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sweeper.errors import ConfigError, TrackerError
from sweeper.track.mlflow import prepare_database, set_environment
from sweeper.track.mlflow_saved_view import TAG, page
from sweeper.urls import redact_urls

__all__ = ["serve"]

_MAX_LINKS = 12
_START_S = 90.0
_POLL_S = 0.25
_STOP_S = 10.0


def serve(uri: str, artifact_root: str, port: int, *, echo: Callable[[str], None] = print) -> int:
    """Serve MLflow's pages on this machine until interrupted.

    Args:
        uri: Tracking URI. If it is the address of a server, the address is printed and nothing is started.
        artifact_root: Folder for artifacts of experiments that are created through this server.
        port: TCP port on the loopback interface.
        echo: Called with each line to print once the server answers.

    Returns:
        Exit code of the server; 0 if it was interrupted.

    Raises:
        ConfigError: The port cannot be used.
        TrackerError: The server did not start.
    """
    if uri.startswith(("http://", "https://")):
        echo(f"MLflow is at {redact_urls(uri)}")
        return 0
    _check_port(port)
    set_environment()
    prepare_database(uri)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--artifacts-destination", artifact_root]
    server = subprocess.Popen(command, env=_environment(uri))  # noqa: S603  our own interpreter, no shell
    try:
        with _terminated_as_interrupt():
            _await_start(server, port)
            address = f"http://127.0.0.1:{port}"
            echo(f"MLflow is at {address} (Ctrl-C stops it). Select 'Model training' at top left, or open a study:")
            for name, page_address in _studies(address):
                echo(f"  {name}: {page_address}")
            return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)


def _environment(uri: str) -> dict[str, str]:
    # Not as an argument: every user of the machine could read the password that the URI may contain.
    # Without job execution the server needs 0.5 GB instead of 3.1 GB.
    return {
        "PYTHONWARNINGS": "ignore",  # they are for MLflow's developers
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_REGISTRY_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            rule = f"this port cannot be used ({error.strerror})"
            raise ConfigError("tracker.port", port, rule, f"Use another port, e.g. tracker.port={port + 1}.") from error


def _await_start(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackerError(
                f"the MLflow server exited with code {server.returncode} during startup; see its output above"
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=_POLL_S * 4):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise TrackerError(f"the MLflow server did not answer within {_START_S:.0f} s")


def _studies(address: str) -> list[tuple[str, str]]:
    """Return names of the latest studies and addresses of their saved views, which MLflow's own list does not link."""
    query = {"max_results": _MAX_LINKS, "order_by": ["last_update_time DESC"]}
    headers = {"Content-Type": "application/json"}
    url = f"{address}/api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(url, json.dumps(query).encode(), headers)  # noqa: S310  our own http address
    try:
        with urllib.request.urlopen(request, timeout=_STOP_S) as answer:  # noqa: S310  as above
            found = json.load(answer).get("experiments", [])
    except (OSError, ValueError):
        return []
    ours = [each for each in found if any(tag["key"] == TAG for tag in each.get("tags", []))]
    return [(each["name"], f"{address}/{page(each['experiment_id'])}") for each in ours]


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()

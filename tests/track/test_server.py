"""MLflow's server, in real processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sweeper.config.settings import TrackerSettings
from sweeper.errors import ConfigError
from sweeper.track import make_tracker
from sweeper.track.server import serve
from tests.track.builders import adapter_folder, complete, study


def test_a_port_in_use_is_an_error_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"tracker\.port={port}.*Use another port"):
            serve(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), port)
    assert not (tmp_path / "mlflow.db").exists()


def test_for_a_running_server_only_its_address_is_printed():
    printed = []
    assert serve("http://host:5000", "", 1, echo=printed.append) == 0
    assert printed == ["MLflow is at http://host:5000"]


@pytest.mark.slow
def test_a_server_shows_tracked_trials_accepts_more_over_http_and_ends_with_all_its_processes(place, tmp_path):
    place.connect().show(study(), complete(1), ())
    port = free_port()
    code = "from sys import argv; from sweeper.track.server import serve; exit(serve(argv[1], argv[2], int(argv[3])))"
    command = [sys.executable, "-u", "-c", code, place.uri, (place.outputs / "mlartifacts").as_uri(), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        try:
            assert f"http://127.0.0.1:{port}" in server.stdout.readline()
            assert "s1/trec-minilm-lora" in server.stdout.readline()
            remote = TrackerSettings(uri=f"http://127.0.0.1:{port}")
            tracker = make_tracker(remote, outputs=tmp_path, sweep="s2", tags={})
            tracker.show(study(), complete(2), [adapter_folder(tmp_path)])
            assert tracker.close(60) == {"shown": 1, "missed": 0}
            children = psutil.Process(server.pid).children(recursive=True)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert place.client.get_experiment_by_name("s2/trec-minilm-lora") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

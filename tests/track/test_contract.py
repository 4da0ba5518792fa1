"""What every tracker guarantees, also when its server is down."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.config.settings import TrackerSettings
from sweeper.track import NullTracker, make_tracker
from tests.track.builders import adapter_folder, complete, study, trial

DEAD = "http://127.0.0.1:9"  # the discard port, on which nothing listens


@pytest.fixture(params=["none", "mlflow", "dead"])
def tracker(request, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # two retries, our default, take five seconds
    settings = {
        "none": TrackerSettings(name="none"),
        "mlflow": TrackerSettings(name="mlflow"),
        "dead": TrackerSettings(name="mlflow", uri=DEAD),
    }[request.param]
    return make_tracker(settings, outputs=place.outputs, sweep="s1", tags={"git_commit": "abc"})


def test_showing_returns_at_once(tracker):
    start = time.perf_counter()
    for chunks in range(7):
        tracker.show(study(), trial(chunks=chunks))
    assert time.perf_counter() - start < 0.5
    tracker.close(0)


def test_closing_counts_every_trial_as_shown_or_missed(tracker):
    tracker.show(study(), complete(1))
    tracker.show(study(), trial(2, chunks=1))
    counts = tracker.close(20)
    assert set(counts) == {"shown", "missed"}
    expected = 0 if isinstance(tracker, NullTracker) else 2
    assert counts["shown"] + counts["missed"] == expected


def test_closing_again_gives_the_same_counts(tracker):
    tracker.show(study(), complete())
    assert tracker.close(20) == tracker.close(20)


def test_files_that_are_gone_do_no_harm(tracker):
    tracker.show(study(), complete(), [Path("no/such/file")])
    tracker.close(20)


def test_closing_with_nothing_shown_counts_nothing(tracker):
    assert tracker.close(0) == {"shown": 0, "missed": 0}


def test_keeping_a_report_raises_nothing(tracker, tmp_path):
    tracker.show(study(), complete())
    tracker.close(20)
    report = tmp_path / "report.html"
    report.write_text("text")
    tracker.keep_report([study()], [report], 20)


def test_a_dead_server_is_logged_and_raises_nothing(place, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    tracker = make_tracker(TrackerSettings(uri=DEAD), outputs=place.outputs, sweep="s1", tags={})
    tracker.show(study(), complete())
    assert tracker.close(20) == {"shown": 0, "missed": 1}
    assert "127.0.0.1:9" in caplog.text
    assert "Connection refused" in caplog.text


def test_a_sweep_is_in_mlflow_once_the_tracker_is_closed(place, tmp_path):
    tracker = make_tracker(TrackerSettings(), outputs=place.outputs, sweep="s1", tags={"git_commit": "abc"})
    tracker.show(study(), trial(1, chunks=2))
    tracker.show(study(), complete(2), [adapter_folder(tmp_path)])
    assert tracker.close(20) == {"shown": 2, "missed": 0}
    states = [(run.info.status, run.data.tags["state"], run.data.tags["git_commit"]) for run in place.runs()]
    assert states == [("SCHEDULED", "running", "abc"), ("FINISHED", "complete", "abc")]


def test_importing_and_making_a_tracker_does_not_import_mlflow(tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from sweeper.config.settings import TrackerSettings; import sweeper.track as t; "
        "t.make_tracker(TrackerSettings(), outputs=Path(sys.argv[1]), sweep='s', tags={}); "
        "sys.exit('mlflow' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])

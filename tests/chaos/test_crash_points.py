"""Kills and power failures at chosen operations of a small sweep, and planted bugs that the suite must find."""

from __future__ import annotations

import pytest

from chaos.crash_points import Result, run
from chaos.crash_report import write_report
from chaos.disk_shim import Fault, Operation
from chaos.strace_points import is_available

SHORT = 150
"""A few points of each kind; the suite itself tries every one."""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["alone", "pack", "files", "reconcile"])
def test_a_sample_of_points_loses_nothing(scenario):
    results = []
    assert run([scenario], kinds=("kill", "power"), every=SHORT, seed=1, results=results) == []
    assert any(result.is_reached for result in results)


@pytest.mark.slow
def test_a_sample_of_errors_ends_with_a_message_and_loses_nothing():
    assert run(["alone"], kinds=("error",), every=100, seed=1) == []


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="strace is not installed, or may not trace")
def test_a_sample_of_kills_at_system_calls_loses_nothing():
    assert run(["alone"], kinds=("strace",), every=2000, seed=1) == []


def result(what, *, fault="before", kind="rename", **more):
    return Result(scenario="alone", fault=Fault(Operation("MainThread", kind, 1, "x"), fault), what=what, **more)


def test_the_table_counts_points_by_kind_and_outcome(tmp_path):
    results = [
        result("killed"),
        result("killed", is_same=True),
        result("killed", is_reached=False),
        result("EIO", fault="EIO", kind="write", complaints=["traceback: one"]),
    ]
    table = write_report(tmp_path / "crash_points", results, seconds=60, command="make crash-points")
    assert "| alone | kill before rename | 3 | 1 | 1 | 1 | 0 |" in table
    assert "| alone | EIO at write | 1 | 0 | 0 | 1 | 1 |" in table
    assert "| all |  | 4 | 1 | 1 | 2 | 1 |" in table
    assert "traceback: one" in (tmp_path / "crash_points.json").read_text()

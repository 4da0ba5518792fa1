"""Simulated sweeps: a seed always gives the same history, many seeds give no complaint, and planted bugs give some."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import chaos.simulator
import sweeper.control.trial_records
import sweeper.search.pruning
import sweeper.search.study
import sweeper.store.trials
from chaos.simulated import Disk, Faults
from chaos.simulator import digest, run, simulate
from sweeper.control.forecast import Forecast
from sweeper.control.study_run import StudyRun
from sweeper.control.trial_records import TrialRecords
from sweeper.store.ledger import Ledger
from sweeper.types import TrialState
from tests.control.bench import Killed

ROOT = Path(__file__).parents[2]
NUM_SEEDS = 150
FEW = range(25)


def names(complaints):
    return {complaint.split(":")[0] for complaint in complaints}


@pytest.mark.slow
def test_many_sweeps_with_faults_break_no_rule():
    assert run(range(NUM_SEEDS)) == []


def test_seeds_that_once_led_to_a_complaint_give_none():
    """9738: the disk failed while a lost worker was replaced. 2039: no chunk fits into the window."""
    assert run([9738, 2039]) == []


def test_a_seed_always_gives_the_same_history(tmp_path):
    first, second = (simulate(1, tmp_path / name) for name in ("first", "second"))
    assert first.events == second.events
    assert (first.settings, first.sessions, first.faults) == (second.settings, second.sessions, second.faults)


@pytest.mark.slow
def test_a_seed_gives_the_same_history_in_another_process(tmp_path):
    outcome = simulate(4, tmp_path / "sweep")
    command = [sys.executable, str(ROOT / "chaos" / "simulator.py"), "--seed", "4"]
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert f"digest {digest(outcome.events)}" in printed
    assert "0 complaints" in printed


def test_different_seeds_give_different_sweeps(tmp_path):
    outcomes = [simulate(seed, tmp_path / str(seed)) for seed in range(4)]
    assert len({json.dumps(outcome.settings) for outcome in outcomes}) == 4


# Each of these bugs breaks one rule. More of them, for all suites, are in chaos/mutants.py.


def tell_before_writing(patch):
    finish = StudyRun._finish

    def replaced(run, trial, state):
        moment = run.records.clock().isoformat()
        run._search_client.tell(dataclasses.replace(trial, state=state, finished_at=moment))
        finish(run, trial, state)

    patch.setattr(StudyRun, "_finish", replaced)


def first_adapter_for_all(patch):
    first, keep = {}, TrialRecords.keep_adapter
    patch.setattr(
        TrialRecords, "keep_adapter", lambda self, trial, files: keep(self, trial, first.setdefault("files", files))
    )


def the_ledger_forgets(patch):
    patch.setattr(Ledger, "_read", lambda _self, _path: None)


def windows_are_ignored(patch):
    patch.setattr(Forecast, "may_train", lambda _self, _run: True)


def the_first_are_pruned(patch):
    rule = sweeper.search.pruning._SuccessiveHalving
    patch.setattr(rule, "should_prune", lambda _self, number, _chunk: number % 3 == 1)


def a_finished_trial_continues(patch):
    resume = StudyRun._resume

    def replaced(run):
        resume(run)
        for number, trial in run.trials.items():
            if trial.state is TrialState.COMPLETE:
                run._queue.add(number)

    patch.setattr(StudyRun, "_resume", replaced)


@pytest.mark.parametrize(
    ("bug", "rule"),
    [
        (tell_before_writing, "order"),
        (first_adapter_for_all, "adapter-own"),
        (the_ledger_forgets, "no-work-without-charge"),
        (windows_are_ignored, "budget"),
        (the_first_are_pruned, "decision-follows"),
        (a_finished_trial_continues, "ends-once"),
    ],
)
def test_a_planted_bug_is_found_by_its_rule(monkeypatch, bug, rule):
    bug(monkeypatch)
    assert rule in names(run(FEW, until={rule}))


def test_no_further_seed_is_simulated_after_a_complaint_that_is_enough(monkeypatch):
    seeds, complaints = iter(FEW), {3: "order: other", 5: "budget: spent", 6: "order: late"}
    monkeypatch.setattr(
        chaos.simulator, "_one", lambda seed: SimpleNamespace(complaints=[complaints.get(seed, "a: b")])
    )
    assert names(run(seeds, until={"budget"})) == {"a", "order", "budget"}
    assert next(seeds) == 6


def test_a_crash_of_the_product_is_a_complaint(monkeypatch, tmp_path):
    monkeypatch.setattr(StudyRun, "absorb", lambda *_: {}["no such key"])
    outcome = simulate(0, tmp_path / "sweep")
    assert "crash" in names(outcome.complaints)
    assert "KeyError: 'no such key'" in "".join(outcome.complaints)


# The simulated disk.


def test_nothing_changes_on_the_disk_after_a_kill(tmp_path):
    disk = Disk(tmp_path)
    disk.begin(Faults(kill_at=1))
    with disk.watching():
        (tmp_path / "one").write_text("1")
        with pytest.raises(Killed):
            (tmp_path / "two").write_text("2")
        with pytest.raises(Killed):
            (tmp_path / "one").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_a_full_disk_still_removes_files_and_has_space_later(tmp_path):
    disk = Disk(tmp_path)
    disk.begin(Faults(disk_at=1, disk_for=2, disk_error=errno.ENOSPC))
    with disk.watching():
        (tmp_path / "one").write_text("1")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "two").write_text("2")
        (tmp_path / "one").unlink()
        (tmp_path / "three").write_text("3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three"]


def test_other_folders_are_not_part_of_the_simulated_disk(tmp_path):
    disk = Disk(tmp_path / "sweep")
    disk.begin(Faults(kill_at=0))
    with disk.watching():
        (tmp_path / "other").write_text("1")
    assert (tmp_path / "other").read_text() == "1"

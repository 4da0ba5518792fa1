"""Every path of a sweep has one definition, and a sweep writes only files of the layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeper.disk.atomic import temporary_name
from sweeper.store import paths
from sweeper.store.paths import OutputsPaths, SweepPaths, TrialPaths

ROOT = Path(__file__).parents[2]
LITERALS = re.compile(
    r"""["'/](sweep\.json|ledger\.json|health\.json|holder\.json|trial\.json|study\.json|best\.json|sweep\.lock|sweep\.log"""
    r"""|optuna\.db|mlflow\.db|mlartifacts|summary\.md|report\.md|trials\.csv)["'}]"""
)


@pytest.fixture
def sweep(tmp_path):
    return SweepPaths(tmp_path / "mine")


def test_the_layout_names_every_file_of_a_sweep(sweep):
    files = [value for name, value in vars(sweep).items() if name != "root"]
    assert len(set(files)) == len(files)
    assert [path for path in files if path.name not in paths.__doc__] == []
    assert {path.parent for path in files} == {sweep.root}


def test_files_of_studies_trials_and_sessions(sweep):
    trial = sweep.trial("toy", 7)
    found = [sweep.study_record("toy"), trial.record, trial.checkpoint(5), trial.adapter, trial.rung_adapter(4)]
    found += [trial.outcomes(4), trial.test_outcomes, sweep.session(3)]
    assert [str(path.relative_to(sweep.root)) for path in found] == [
        "studies/toy/study.json",
        "studies/toy/trials/0007/trial.json",
        "studies/toy/trials/0007/checkpoint-5.safetensors",
        "studies/toy/trials/0007/adapter",
        "studies/toy/trials/0007/adapter-chunk-4",
        "studies/toy/trials/0007/outcomes-4.safetensors",
        "studies/toy/trials/0007/outcomes-test.safetensors",
        "sessions/0003.json",
    ]
    assert sweep.session(3, ".md").name == "0003.md"
    assert sweep.damaged("now", trial.record) == sweep.root / "damaged/now/studies/toy/trials/0007/trial.json"


def test_trials_are_found_by_number_and_other_files_are_left_out(sweep):
    for number in (10000, 2, 9):
        sweep.trial("toy", number).folder.mkdir(parents=True)
    (sweep.study("toy") / "trials" / "notes").mkdir()
    (sweep.study("toy") / "trials" / "0003").touch()
    assert [trial.number for trial in sweep.trials("toy")] == [2, 9, 10000]
    assert sweep.trials("unknown") == []


def test_unfinished_files_of_a_trial_are_found(tmp_path):
    trial = TrialPaths(tmp_path)
    unfinished = [temporary_name(folder) for folder in (trial.adapter, trial.rung_adapter(4))]
    for folder in (*unfinished, trial.adapter, trial.rung_adapter(2)):
        folder.mkdir()
    trial.record.with_name(".trial.json.tmp").touch()
    trial.record.touch()
    assert sorted(trial.unfinished()) == sorted([tmp_path / ".trial.json.tmp", *unfinished])
    assert trial.rung_adapters() == [trial.rung_adapter(2)]


def test_sweeps_are_the_folders_with_a_sweep_json(tmp_path):
    outputs = OutputsPaths(tmp_path)
    for name in ("b", "a"):
        sweep = SweepPaths(outputs.sweep(name))
        sweep.root.mkdir()
        sweep.sweep.touch()
    outputs.mlflow_artifacts.mkdir()
    assert [sweep.root.name for sweep in outputs.sweeps()] == ["a", "b"]
    assert outputs.job_log("nightly") == tmp_path / "jobs" / "nightly.log"


INDEPENDENT = [
    ROOT / "chaos" / f"{name}.py"
    for name in (
        "crash_checks",
        "crash_damage",
        "crash_points",
        "crash_session",
        "history_check",
        "power_loss",
        "simulator",
    )
]
"""Damage and judge what is on the disk, and so do not ask the product where it should be."""


def test_no_other_module_spells_a_path_of_a_sweep():
    sources = [*ROOT.glob("sweeper/*.py"), *ROOT.glob("sweeper/*/*.py"), *ROOT.glob("chaos/*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources
        if path not in (ROOT / "sweeper" / "store" / "paths.py", *INDEPENDENT)
        for line in path.read_text().splitlines()
        if LITERALS.search(line)
    ]
    assert found == []

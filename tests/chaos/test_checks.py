"""The checks of the chaos suite detect each kind of loss. Nothing is killed here."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from chaos.checks import Findings, MlflowRun, check_best, compare_rows, curve_problems, needed_repairs
from chaos.events import EVENTS, EXITS, KILLS, LETHAL
from chaos.evidence import upper_bound
from chaos.faults import expected_failure, is_expected
from chaos.report import Report
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.builders import make_study, make_trial

RECORDS = {0: make_trial(0, 0.9), 1: make_trial(1, 0.8, state=TrialState.PRUNED)}
IN_OPTUNA = [(0, "COMPLETE", 0.9), (1, "PRUNED", None)]
IN_MLFLOW = [(0, "FINISHED complete", 0.9), (1, "FINISHED pruned", 0.8)]


def found(where, rows):
    findings = Findings()
    compare_rows(findings, where, rows, study=make_study(), records=RECORDS)
    return {name for name in ("lost", "repeated", "differing") if getattr(findings, name)}


@pytest.mark.parametrize(("where", "rows"), [("Optuna", IN_OPTUNA), ("MLflow", IN_MLFLOW)])
def test_equal_records_are_no_problem(where, rows):
    assert found(where, rows) == set()


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (IN_MLFLOW[:1], "lost"),
        ([IN_MLFLOW[0], (1, "RUNNING running", None)], "lost"),
        ([*IN_MLFLOW, IN_MLFLOW[0]], "repeated"),
        ([*IN_MLFLOW, (7, "FINISHED complete", 0.5)], "repeated"),
        ([(0, "FINISHED complete", 0.7), IN_MLFLOW[1]], "differing"),
        ([(0, "FAILED infeasible", 0.9), IN_MLFLOW[1]], "differing"),
    ],
)
def test_differences_are_found(rows, kind):
    assert kind in found("MLflow", rows)


def test_a_run_without_its_curve_is_found():
    def complaints(curves):
        return list(curve_problems([MlflowRun(IN_MLFLOW[0], curves)], RECORDS))

    full = {}
    for measurement in RECORDS[0].measurements:
        for name, value in measurement.metrics.items():
            full.setdefault(name, {})[measurement.chunk] = value
    assert complaints(full) == []
    wrong = {name: {step: value + 1e-3 for step, value in points.items()} for name, points in full.items()}
    for curves in ({}, wrong, {**full, "train/other": {1: 0.5}}):
        (complaint,) = complaints(curves)
        assert complaint.startswith("curves-sent: trial 0 ")


@pytest.mark.parametrize(
    ("best", "is_right"),
    [
        ({"trial": 0, "value": 0.9}, True),
        ({"trial": 2, "value": 0.8}, False),
        ({"trial": 2, "value": 0.9}, False),
        (None, False),
    ],
)
def test_a_wrong_best_trial_is_found(tmp_path, best, is_right):
    store, study = TrialStore(tmp_path / "sweep"), make_study()
    records = {**RECORDS, 2: make_trial(2, 0.8)}
    store.root.mkdir()
    store.paths.best.write_text(json.dumps({"studies": [{"name": study.name, "best": best}]}))
    complaints = list(check_best(store, study, records))
    assert [each.split(":")[0] for each in complaints] == ([] if is_right else ["best-follows"])


def test_a_configuration_with_a_fault_may_not_complete_and_one_without_must_not_fail():
    sound = {"lora.r": 4, "lora.alpha_ratio": 1.0}
    broken = {"lora.r": 16, "lora.alpha_ratio": 1.0}
    assert expected_failure(sound) == ""
    assert is_expected(TrialState.COMPLETE, sound)
    assert not is_expected(TrialState.INFEASIBLE, sound)
    assert not is_expected(TrialState.COMPLETE, broken)
    assert is_expected(TrialState.INFEASIBLE, broken)


def test_every_event_has_a_description():
    assert set(EVENTS) >= KILLS | LETHAL | set(EXITS)
    assert all(event.__doc__ for event in EVENTS.values())


def test_the_table_adds_up_the_sweeps():
    report = Report(seed=0)
    row = {"kills": 3, "trials": 9, "sessions": 4, "lost": 0, "compared": 5, "elapsed_s": 60.0, "problems": []}
    for number in range(2):
        report.add({**row, "seed": number, "events": dict(Counter(kill_worker=3)), "exits": {}})
    table = report.table(1e-4)
    assert "(`kill_worker`) | 6 |" in table
    assert "| kills | 6 |" in table
    assert "| lost trials | 0 |" in table


def test_the_bound_for_zero_losses_is_exact():
    assert upper_bound(0) == 1.0
    assert (1 - upper_bound(229)) ** 229 == pytest.approx(0.05)
    report = Report(seed=0)
    report.add({"seed": 0, "events": {}, "exits": {}, "trials": 100, "kills": 59, "lost": 0, "problems": []})
    assert "| trials lost or repeated: highest rate that none seen allows (95 %) | 2.95% |" in report.table(1e-4)
    report.add({"seed": 1, "events": {}, "exits": {}, "trials": 100, "kills": 59, "lost": 1, "problems": ["lost"]})
    assert "highest rate" not in report.table(1e-4)


AGREES = "Sweep chaos: store, Optuna and MLflow agree on every trial.\n"
REPAIRED = """\
┏━━━━━━━━┳━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━┓
┃ where  ┃ study   ┃ trial ┃ difference ┃ repair  ┃
┡━━━━━━━━╇━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━┩
│ MLflow │ tiny    │ 3     │ missing    │ updated │
│        │ -lora   │       │            │         │
{more}└────────┴─────────┴───────┴────────────┴─────────┘
Sweep chaos: repaired. Store, Optuna and MLflow agree now.
"""


def test_a_repair_is_a_problem_unless_the_database_was_taken_away():
    assert needed_repairs(AGREES, mlflow_was_taken=False) == []
    assert needed_repairs(REPAIRED.format(more=""), mlflow_was_taken=True) == []
    (problem,) = needed_repairs(REPAIRED.format(more=""), mlflow_was_taken=False)
    assert problem == "repair-needed: MLflow | tiny | 3 | missing | updated"


def test_a_repair_in_another_place_is_a_problem_although_the_database_was_taken_away():
    output = REPAIRED.format(more="│ Optuna │ tiny    │ 3     │ missing    │ updated │\n")
    (problem,) = needed_repairs(output, mlflow_was_taken=True)
    assert "Optuna" in problem

"""Sweeps whose reports are tested, in the unit tests and in a browser: with everything, and without."""

from __future__ import annotations

import math

from sweeper.analysis.best import best_configurations
from sweeper.analysis.html_report import render_html
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_infeasible, make_measurement, make_study, make_sweep, make_trial
from tests.report_blocks import (
    KEYS,
    interval,
    make_candidate,
    make_confirmation,
    make_difference,
    make_effects,
    make_folklore,
    make_outcomes,
)

EVIL = "</script><img src=x onerror=alert(1)>"
"""A name that would run if it were not escaped."""


def make_trials(count, *, study, best=7):
    """Make the default and so many trials: some complete, most stopped early, one of them the best."""
    trials = [make_default(0.86, study=study)]
    for number in range(1, count):
        params = {
            "lora.r": 2 ** (number % 7),
            "lora.alpha_ratio": 0.25 * 1.1 ** (number % 37),
            "lora.dropout": number % 5 / 25,
            "train.learning_rate": 1e-4 * 1.03 ** (number % 151),
        }
        is_complete = number % 4 == 0 or number == best
        chunks = 12 if is_complete else 3 * (1 + number % 2)
        value = 0.91 if number == best else 0.7 + 0.15 * math.sin(number) ** 2
        rungs = tuple(make_measurement(c, value * c / (c + 1)) for c in (3, 6, 12) if c < chunks)
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        trial = make_trial(number, value, study=study, state=state, chunks=chunks, params=params)
        trials.append(make_trial(number, value, study=study, state=state, chunks=chunks, params=params,
                                 measurements=(*rungs, *trial.measurements)))  # fmt: skip
    return trials


def full_page(root, *, names=("trec", "news"), count=16):
    """Render a finished sweep of two datasets with everything that a report can have; return store and text."""
    studies = []
    for name, dataset in zip(("one", "two"), names, strict=True):
        study = make_study(dataset, name=f"{name}-minilm-lora", labels=("ABBR", "DESC", f"{dataset} label"))
        trials = [*make_trials(count, study=study), make_infeasible(count, f"no memory for {dataset}", study=study)]
        trials += [
            make_trial(2_000_000 + k, 0.9 + 0.001 * k, study=study, phase=Phase.CONFIRMATION, origin="confirm:trial 7")
            for k in range(6)
        ]
        studies.append((study, trials))
    store = make_sweep(root, studies, adapters=[(study.name, 7) for study, _ in studies])
    for study, trials in studies:
        for trial in trials:
            if trial.spec.phase is Phase.CONFIRMATION:
                number = trial.spec.number
                content = make_outcomes(400, len(study.labels), seed=number).to_bytes()
                store.write_outcomes(study.name, number, trial.chunks_done, content)
    return store, render_html(store, with_blocks(best_configurations(store)))


def with_blocks(best):
    """Add the blocks of confirmation, effects and folklore to the content of best.json."""
    for study in best["studies"]:
        study |= {"confirmation": confirmation_of(study), "effects": make_effects(), "folklore": make_folklore()}
    best["folklore"] = make_folklore("refuted")
    return best


def confirmation_of(study):
    """Make the confirmation of a study of `full_page`: a better trial, an undecided recipe, and the default."""
    baseline = {
        "name": "frozen_probe",
        "label": "probe",
        "value": 0.899,
        "beaten": False,
        "gain": interval(0.001),
        "sentence": "No adapter is clearly better than the probe.",
    }
    own, default = ({key: study[name]["params"][key] for key in KEYS} for name in ("best", "default"))
    test = {
        "value": 0.896,
        "metrics": {},
        "num_rows": 1000,
        "num_seeds": 3,
        "interval": interval(0.896, 0.018),
        "expected": interval(0.9, 0.02),
    }
    return make_confirmation([
        make_candidate("trial 7", own, value=0.9, test=test),
        make_candidate("alpha_2r", {**default, "lora.alpha_ratio": 2.0}, value=0.88, source="recipe", first=2_000_003,
                       against_default=make_difference(0.005, "undecided", seeds_needed=9, rows_needed=1600)),
        make_candidate("peft_default", default, value=0.875, source="recipe", first=2_000_003, against_default=None,
                       optimism=None),
    ], baseline=baseline)  # fmt: skip


def search_page(root, trials, *, study=None):
    """Render a sweep that has only been searched; return its text."""
    store = make_sweep(root, [(study or make_study(), trials)])
    return render_html(store, best_configurations(store))

"""Writes report.html, report.md, best.json and trials.csv of a sweep.

Both reports are rendered from the content of best.json, so their numbers cannot differ. They do not contain the time of
writing: the same store gives the same files. `sweeper.sweep.run` calls this after every session, and `sweeper report`
at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sweeper.analysis.best import best_configurations
from sweeper.analysis.final import FINAL_COLUMNS, final_row, is_trained_on_all
from sweeper.analysis.frames import trial_frame
from sweeper.analysis.html_report import render_html
from sweeper.analysis.sessions import session_rows
from sweeper.analysis.texts import adapter_text, bound_advice, duration, flatten, train_command
from sweeper.analysis.trial_summary import trial_summary
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.disk.atomic import write_atomic
from sweeper.figures.baselines import baseline_descriptions
from sweeper.figures.comparison import NOISE_ERRORS
from sweeper.figures.failure_counts import count_failures, has_recovered
from sweeper.figures.hyperparameters import number_text, params_text
from sweeper.figures.pareto import COST_LABELS, rung_costs
from sweeper.figures.ranking import best_trial, rank_trials
from sweeper.figures.rungs import best_rung_text, epochs_text
from sweeper.figures.text import markdown_code, markdown_text, plural
from sweeper.figures.training_rows import capped_rows, length_sentence, proposal
from sweeper.store.damage import adapter_warnings
from sweeper.store.health import read_health
from sweeper.store.lock import hold_report
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState

__all__ = ["render_report", "write_reports"]

_TOP = 5


def write_reports(store: TrialStore, *, space: SearchSpace | None = None) -> dict[str, Path]:
    """Write the four files of a sweep, each atomically, one process at a time.

    Args:
        store: The sweep, finished or not.
        space: The search space, to find best values at its bounds; not checked if None.

    Returns:
        The paths by file name.
    """
    with hold_report(store):
        best = best_configurations(store, space=space)
        texts = {
            store.paths.report: render_report(store, best),
            store.paths.report_html: render_html(store, best),
            store.paths.best: json.dumps(best, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
            store.paths.trials_csv: trial_frame(store).to_csv(index=False, lineterminator="\n"),
        }
        for path, text in texts.items():
            write_atomic(path, text.encode())
    return {path.name: path for path in texts}


def render_report(store: TrialStore, best: Mapping[str, Any]) -> str:
    """Return the text of report.md.

    Args:
        store: The sweep.
        best: The result of `best_configurations`.
    """
    extras = {study["name"]: _extras(store, study) for study in best["studies"]}
    sweep = store.read_sweep() if store.exists else {}
    template = _environment().get_template("report.md.j2")
    names = {name for study in best["studies"] for name in study["baselines"]}
    provenance = flatten(sweep.get("provenance") or {})
    sessions = session_rows(store, sweep.get("settings") or {})
    health = [*read_health(store.root).lines(), *adapter_warnings(store)]
    return template.render(
        best,
        extras=extras,
        baseline_descriptions=baseline_descriptions(names),
        provenance=provenance,
        noise_errors=NOISE_ERRORS,
        health=health,
        sessions=sessions,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {
        "score": _score,
        "signed": "{:+.4f}".format,
        "inline": markdown_text,
        "code": markdown_code,
        "configuration": partial(params_text, separator=", "),
        "duration": duration,
        "number": number_text,
        "bounds": bound_advice,
        "plural": plural,
        "differences": _differences,
        "literal": partial(json.dumps, ensure_ascii=False),  # Python source of a string or a list of strings
    }
    environment.filters.update(filters)
    return environment


def _extras(store: TrialStore, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report has of a study beside its content of best.json."""
    study, trials = store.read_study(content["name"]), store.trials(content["name"])
    by_number = {trial.spec.number: trial for trial in trials}
    pareto = [by_number[number] for number in content["pareto"]]
    top = [trial_summary(store, study, trial) for trial in rank_trials(study, trials, _TOP)]
    best_record = best_trial(study, trials)
    return {
        "top": top,
        "pareto": [
            {"summary": trial_summary(store, study, trial), "cost": rung_costs(trial)[content["cost"]]}
            for trial in pareto
        ],
        "cost_label": COST_LABELS[content["cost"]],
        "adapter": adapter_text(content),
        "epochs": epochs_text(study),
        "finals": [final_row(training) for training in content["final"]],
        "final_columns": FINAL_COLUMNS,
        "is_trained_on_all": is_trained_on_all(study, content["final"]),
        "train_command": train_command(store.root.name, study.name, outputs=_outputs(store)),
        "best_rung": best_rung_text(study, best_record) if best_record else "",
        "capped_rows": capped_rows(study),
        "row_notes": [text for text in (length_sentence(study), proposal(study)) if text],
        "infeasible": count_failures((t for t in trials if t.state is TrialState.INFEASIBLE), by_message=True),
        "failed": count_failures((t for t in trials if t.state is TrialState.FAILED), by_message=True),
        "recovered": count_failures(t for t in trials if has_recovered(t)),
        "base": _base_model(content["best"]),
    }


def _outputs(store: TrialStore) -> str:
    settings = (store.read_sweep() if store.exists else {}).get("settings") or {}
    return str(settings.get("outputs") or DEFAULT_OUTPUTS)


def _base_model(best: Mapping[str, Any] | None) -> str | None:
    """Return the base model that the adapter of the best trial names; None without an adapter or a name."""
    if best is None or best["adapter"] is None:
        return None
    path = Path(best["adapter"]) / "adapter_config.json"
    if not path.is_file():
        return None
    return str(json.loads(path.read_text()).get("base_model_name_or_path") or "") or None


def _score(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _differences(values: Mapping[str, Sequence[ParamValue]]) -> str:
    """Return what a reference changes, e.g. ```lora.r` = 16 instead of 8``."""
    pairs = ((key, *map(number_text, both)) for key, both in values.items())
    return ", ".join(f"`{key}` = {own} instead of {default}" for key, own, default in pairs)

"""The section of one dataset in report.html: verdict, choices, plots and health, as plain values for the template.

Everything that has been concluded is in best.json already; this module chooses what is shown and words it. It draws no
conclusions of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.choices import Choice, Choices, candidate_named, gain_text, scored_text, value_text
from sweeper.analysis.final import final_row, is_trained_on_all
from sweeper.analysis.plot_parts import interval_text, metric_title
from sweeper.analysis.study_plots import PlotGroup, StudyPlots, quality_text
from sweeper.analysis.texts import adapter_text, bound_advice, duration, train_command
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.figures.comparison import NOISE_ERRORS
from sweeper.figures.failure_counts import FailureCount, count_failures, has_recovered
from sweeper.figures.hyperparameters import params_text
from sweeper.figures.rungs import epochs_text
from sweeper.figures.text import plural
from sweeper.figures.training_rows import capped_rows, length_sentence, proposal
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState

__all__ = ["StudySection", "study_section", "verdict_kind"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySection:
    """All that report.html shows of one study."""

    id: str
    dataset: str
    study: str
    intro: str
    verdict: str
    kind: str
    """Kind of the verdict, see `verdict_kind`."""
    warning: str
    """What must be read before the verdict; empty without."""
    advice: Sequence[str]
    setting: str
    """The recommended configuration as one line; the best of the search if nothing is confirmed."""
    score: str
    gain: str
    trials: str
    choices: Sequence[Choice]
    groups: Sequence[PlotGroup]
    adapter: str
    """Which adapter is recommended; empty without one."""
    finals: Sequence[Sequence[str]]
    """Every final training, as rows of a table under `FINAL_COLUMNS`."""
    is_trained_on_all: bool
    """Whether the search or a complete final training used all rows."""
    train_command: str
    """Trains the recommended configuration on all rows."""
    comparisons: Sequence[Sequence[str]]
    """Every candidate with its scores, as rows of a table."""
    folklore: Sequence[Mapping[str, Any]]
    health: Mapping[str, str]
    problems: Sequence[str]
    space: Mapping[str, str]


def study_section(store: TrialStore, study: Mapping[str, Any], *, index: int) -> StudySection:
    """Return the section of a study.

    Args:
        store: The sweep.
        study: Its entry in best.json.
        index: Its position among the sections; part of the ids.
    """
    return _Section(store, study, index).build()


def verdict_kind(study: Mapping[str, Any]) -> str:
    """Return the verdict on a study's recommended configuration against the default, in a word.

    Returns:
        A `Verdict`; ``default`` if the default is recommended, ``unconfirmed`` without a confirmation, ``none`` without
        a complete trial.
    """
    confirmation = study.get("confirmation")
    if confirmation is None or not confirmation["recommended"]:
        return "unconfirmed" if study["best"] else "none"
    if confirmation["recommended"] == confirmation["default"]:
        return "default"
    against = candidate_named(confirmation, confirmation["recommended"])["against_default"]
    return str(against["verdict"]) if against else "undecided"


class _Section:
    """Builds the section of one study."""

    def __init__(self, store: TrialStore, study: Mapping[str, Any], index: int) -> None:
        self._store, self._study, self._index = store, study, index
        self._record = store.read_study(study["name"])
        self._trials = store.trials(study["name"])
        self._choices = Choices(store, study)
        self._confirmation: Mapping[str, Any] | None = study.get("confirmation")
        self._effects: Mapping[str, Any] | None = study.get("effects")
        settings = (store.read_sweep() if store.exists else {}).get("settings") or {}
        self._outputs = str(settings.get("outputs") or DEFAULT_OUTPUTS)
        self._budget = int((settings.get("budget") or {}).get("trials") or 0)
        self._title = metric_title(str(study["metric"]))

    def build(self) -> StudySection:
        study = self._study
        choices = self._choices.all()
        shown = choices[0] if choices else None
        return StudySection(
            id=f"dataset-{self._index}",
            dataset=study["dataset"],
            study=study["name"],
            intro=self._intro(),
            verdict=self._verdict(),
            kind=verdict_kind(study),
            warning=self._warning(),
            advice=list(self._confirmation["advice"]) if self._confirmation else [],
            setting=shown.text if shown else "",
            score=shown.score if shown else "",
            gain=shown.gain if shown else "",
            trials=self._trial_counts(),
            choices=choices,
            groups=self._plots().groups(),
            adapter=adapter_text(study),
            finals=[final_row(training) for training in study["final"]],
            is_trained_on_all=is_trained_on_all(self._record, study["final"]),
            train_command=train_command(self._store.root.name, study["name"], outputs=self._outputs),
            comparisons=self._choices.comparisons(),
            folklore=study.get("folklore") or [],
            health=self._health(),
            problems=self._problems(),
            space=study["space"],
        )

    def _plots(self) -> StudyPlots:
        ranked = self._choices.ranked_candidates()
        return StudyPlots(self._store, self._study, trials=self._trials, ranked=ranked)

    def _intro(self) -> str:
        study = self._study
        labels = plural(len(study["labels"]), "choice" if study["task"] == "causal_lm" else "label")
        train = capped_rows(self._record) or plural(study["num_rows"].get("train", 0), "row")
        goal = (
            f"Goal: {study['direction']} {self._title} on {plural(study['validation_rows'], 'validation row')}. "
            f"Training: {train}, {epochs_text(self._record)} a trial; "
            f"{labels if study['labels'] else 'open completions'}."
        )
        notes = (goal, length_sentence(self._record), proposal(self._record), f"Study {study['name']}.")
        return " ".join(text for text in notes if text)

    def _verdict(self) -> str:
        study = self._study
        if self._confirmation and self._confirmation["verdict"]:
            return str(self._confirmation["verdict"])
        if study["best"] is None:
            return "No trial is complete, so there is no best configuration yet."
        return self._search_verdict(study["best"], study["default"], study["gain_over_default"])

    @staticmethod
    def _search_verdict(
        best: Mapping[str, Any], default: Mapping[str, Any] | None, gain: Mapping[str, Any] | None
    ) -> str:
        """Return a sentence on the best trial of a search that was not confirmed."""
        text = f"Search only, nothing is confirmed: trial {best['trial']} scored best ({scored_text(best)})"
        if default is not None and default["trial"] == best["trial"]:
            return f"{text}; it is the default recipe."
        if gain is None:
            return f"{text}. The default recipe has no complete trial, so there is no comparison."
        lead = gain_text(gain["gain"], gain["standard_error"])
        if gain["is_noise"] is None:
            return f"{text}, {lead} against the default. This metric has no simple error, so the lead may be noise."
        if gain["is_noise"]:
            return f"{text}. Its lead over the default, {lead}, is within the noise of the validation rows."
        return (
            f"{text}. Its lead over the default, {lead}, exceeds {NOISE_ERRORS:g} standard errors, but it was selected "
            "on the same rows."
        )

    def _warning(self) -> str:
        baseline = (self._confirmation or {}).get("baseline")
        if baseline is None:
            return str(self._study["baseline_warning"] or "")
        if baseline["beaten"]:
            return ""
        gain = f": the gain is {interval_text(baseline['gain'], signed=True)}" if baseline.get("gain") else ""
        return (
            f"The recommended configuration does not clearly beat the {baseline['label']} "
            f"({value_text(baseline['value'])}){gain}."
        )

    def _trial_counts(self) -> str:
        counts = {state: number for state, number in self._study["trials"].items() if number}
        total = self._study["num_trials"]
        of = f" of {self._budget}" if self._budget > total else ""
        return f"{total}{of}: " + (", ".join(f"{number} {state}" for state, number in counts.items()) or "none yet")

    def _health(self) -> dict[str, str]:
        study = self._study
        rows = study["num_rows"]
        ended = sum(number for state, number in study["trials"].items() if state != TrialState.RUNNING)
        pruned = study["trials"].get(TrialState.PRUNED, 0)
        found = {f"{split} rows": f"{number:,}" for split, number in rows.items()}
        found["rows available for training"] = (
            f"{study['num_available']:,}" + (" (a cap is in effect)" if capped_rows(self._record) else "")
            if study["num_available"]
            else "unknown"
        )
        found["trials of the search"] = self._trial_counts()
        found["stopped early"] = (
            f"{pruned / ended:.0%} of {plural(ended, 'ended trial')}" if ended else "no trial has ended"
        )
        for origin in study["origins"]:
            best = "" if origin["best"] is None else f", best {origin['best']:.4f}"
            found[f"trials from {origin['origin']}"] = (
                f"{origin['num_trials']}: {origin['num_complete']} complete, {origin['num_stopped']} stopped{best}"
            )
        retried = sum(has_recovered(trial) for trial in self._trials)
        found["interrupted by a failure and resumed"] = plural(retried, "trial")
        found["device time"] = duration(study["device_s"])
        found["wall-clock time, breaks excluded"] = duration(study["wall_s"])
        found["rows trained on"] = f"{study['rows_trained']:,}"
        found["tokens trained on"] = f"{study['tokens']:,}"
        if study["num_within_noise_of_best"] is not None:
            found["complete trials within noise of the best"] = (
                f"{study['num_within_noise_of_best']} of {study['num_complete']}"
            )
        if study["rung_optimism"] is not None:
            found["mean gain if each trial counted at its best rung"] = f"{study['rung_optimism']:.4f}"
        found["quality of the surrogate"] = (
            quality_text(self._effects["quality"]) if self._effects else "not fitted: too few scored trials"
        )
        for entry in (self._effects or {}).get("rung_correlation") or ():
            share = entry["chunk"] / self._record.num_chunks
            found[f"rank correlation after {share:.0%} of the training"] = (
                f"{interval_text(entry['correlation'])}, {plural(entry['num_trials'], 'trial')}"
            )
        return found

    def _problems(self) -> list[str]:
        lines = []
        for title, state in (("Infeasible", TrialState.INFEASIBLE), ("Failed", TrialState.FAILED)):
            causes = count_failures((trial for trial in self._trials if trial.state is state), by_message=True)
            lines += [_cause_text(title, cause) for cause in causes]
        best = self._study["best"]
        if best is not None:
            advice = bound_advice(self._study["at_bounds"] or {}, best["params"])
            lines += [line.replace("`", "") for line in advice]
        return lines


def _cause_text(title: str, cause: FailureCount) -> str:
    numbers = ", ".join(map(str, cause.numbers[:8])) + (" and more" if len(cause.numbers) > 8 else "")  # noqa: PLR2004
    example = params_text(cause.trials[0].spec.params)
    text = f"{title}, {cause.cause}: {plural(len(cause.trials), 'trial')} ({numbers}), e.g. {example}. {cause.message}."
    return f"{text} {cause.remedy}".strip()

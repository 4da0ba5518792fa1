"""The plots of one dataset in report.html, by heading, from best.json and the trials of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis import effect_plots, label_plots, search_plots, verdict_plots
from sweeper.analysis.choices import ROLES, candidate_named
from sweeper.analysis.plot_parts import GREEN, ORANGE, Plot, interval_text
from sweeper.analysis.row_outcomes import confusion_counts, recalls
from sweeper.analysis.search_plots import Curve, Marked, ScoredTrial
from sweeper.analysis.texts import duration
from sweeper.figures.ranking import finite_value
from sweeper.figures.recipes import recipe_origin
from sweeper.figures.rungs import has_all_rows, rung_epoch
from sweeper.figures.text import plural
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["PlotGroup", "StudyPlots", "quality_text"]

_SEARCH_PHASES = (Phase.SEARCH, Phase.REFERENCE)
_UNLEARNT = "(label of no training row)"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotGroup:
    """Plots under one heading, and what is said instead if there is none."""

    title: str
    plots: Sequence[Plot]
    notes: Sequence[str] = ()


class StudyPlots:
    """Chooses what is drawn of one study.

    Args:
        store: The sweep.
        study: Its entry in best.json.
        trials: Its trials.
        ranked: The candidates of its confirmation, best first.
    """

    def __init__(
        self,
        store: TrialStore,
        study: Mapping[str, Any],
        *,
        trials: Sequence[TrialRecord],
        ranked: Sequence[Mapping[str, Any]],
    ) -> None:
        self._store, self._study, self._ranked = store, study, ranked
        self._record: StudyRecord = store.read_study(study["name"])
        self._by_number = {trial.spec.number: trial for trial in trials}
        self._search = [trial for trial in trials if trial.spec.phase in _SEARCH_PHASES]
        self._confirmation: Mapping[str, Any] | None = study.get("confirmation")
        self._effects: Mapping[str, Any] | None = study.get("effects")
        self._metric = str(study["metric"])

    def groups(self) -> list[PlotGroup]:
        """Return all plots in the order of the page."""
        return [
            self._finalists(),
            self._course(),
            self._effect_plots(),
            self._errors(),
        ]

    def _finalists(self) -> PlotGroup:
        title = "Finalists"
        found = self._confirmation
        if not found:
            note = "No configuration was trained again with fresh seeds, so no score here is confirmed."
            return PlotGroup(title=title, plots=[], notes=[note])
        roles: dict[str, str] = {}
        for key, role in ROLES.items():
            if found.get(key):
                roles[found[key]] = f"{roles[found[key]]}, {role}" if found[key] in roles else role
        ranked = self._ranked
        drawn = [verdict_plots.finalists_plot(ranked, metric=self._metric, roles=roles)] if ranked else []
        gains = verdict_plots.gains_plot(ranked, metric=self._metric, margin=found["margin"], roles=roles)
        return PlotGroup(title=title, plots=[*drawn, *([gains] if gains else [])], notes=[_confirmation_text(found)])

    def _course(self) -> PlotGroup:
        study, marked = self._study, self._marked()
        maximize = study["direction"] == "maximize"
        scored = [self._scored_trial(trial) for trial in self._search]
        ended = sorted(
            (trial for trial in self._search if trial.finished_at and trial.spec.phase is Phase.SEARCH),
            key=lambda trial: (trial.finished_at, trial.spec.number),
        )
        searched = [trial for trial in scored if self._by_number[trial.number].spec.phase is Phase.SEARCH]
        keys = [key for key in study["space"] if any(key in trial.params for trial in scored)]
        found = [
            search_plots.curves_plot(
                [self._curve(trial) for trial in self._search], metric=self._metric, marked=marked
            ),
            search_plots.history_plot(
                [self._scored_trial(trial) for trial in ended],
                metric=self._metric,
                maximize=maximize,
                lines=self._comparison_lines(),
            ),
            search_plots.parallel_plot(
                [trial for trial in searched if trial.value is not None], keys=keys, metric=self._metric, marked=marked
            ),
            *(
                search_plots.pareto_plot(scored, cost=cost, metric=self._metric, maximize=maximize, marked=marked)
                for cost in ("num_parameters", "device_s")
            ),
        ]
        drawn = [plot for plot in found if plot]
        notes = self._early_rungs() if drawn else ["No trial has been scored yet."]
        return PlotGroup(title="Course of the search", plots=drawn, notes=notes)

    def _early_rungs(self) -> list[str]:
        """Return a note on the rungs that score fewer rows, whose scores have larger errors."""
        rungs = [rung for trial in self._search for rung in trial.measurements if rung.is_rung]
        fewer = {rung.scored_rows for rung in rungs if not has_all_rows(self._record, rung)}
        num_rows = self._record.num_rows.get("validation", 0)
        return [
            f"Early rungs score only the first {scored:,} of {plural(num_rows, 'validation row')}."
            for scored in sorted(fewer)
        ]

    def _effect_plots(self) -> PlotGroup:
        title, effects = "Effects of the hyperparameters", self._effects
        if not effects:
            return PlotGroup(title=title, plots=[], notes=["There are too few scored trials to estimate effects."])
        quality = effects["quality"]
        rungs = effect_plots.rung_correlation_plot(
            effects.get("rung_correlation") or [], num_chunks=self._record.num_chunks
        )
        if not quality["is_sufficient"]:
            note = f"{quality_text(quality)} This is too low, so no effect is claimed."
            return PlotGroup(title=title, plots=[rungs] if rungs else [], notes=[note])
        marks = {
            label: found["hyperparameters"]
            for label, found in self._marked_configurations().items()
            if found is not None
        }
        drawn = [
            effect_plots.importance_plot(effects),
            effect_plots.path_plot(effects.get("path") or [], metric=self._metric),
            *(effect_plots.profile_plot(profile, metric=self._metric) for profile in effects.get("profiles") or ()),
            *(
                effect_plots.contour_plot(found, metric=self._metric, marked=marks)
                for found in effects.get("contours") or ()
            ),
            rungs,
        ]
        return PlotGroup(title=title, plots=[plot for plot in drawn if plot], notes=[quality_text(quality)])

    def _errors(self) -> PlotGroup:
        title = "Errors by label"
        labels = self._study["labels"]
        if not labels:
            return PlotGroup(title=title, plots=[], notes=["Completions are open, so there are no labels to confuse."])
        (name, own), *rest = self._outcome_trials() or [("", [])]
        counted = confusion_counts(self._store, own, len(labels))
        if counted is None:
            return PlotGroup(title=title, plots=[], notes=["No outcomes of single rows were recorded."])
        counts_CC, num_seeds = counted
        num_unlearnt = int(counts_CC[-1].sum()) // num_seeds
        size = len(labels) + (num_unlearnt > 0)
        shown = [*labels, _UNLEARNT][:size]
        matrix = counts_CC[:size, :size].tolist()
        drawn = [label_plots.confusion_plot(matrix, shown, name=name, num_seeds=num_seeds)]
        for default, trials in rest:
            others = confusion_counts(self._store, trials, len(labels))
            if others is not None:
                change = [
                    None if one is None or other is None else one - other
                    for one, other in zip(recalls(counts_CC)[:-1], recalls(others[0])[:-1], strict=True)
                ]
                rows = [int(number) // num_seeds for number in counts_CC[:-1].sum(axis=1)]
                plot = label_plots.class_change_plot(labels, change, rows, name=name, default=default)
                drawn += [plot] if plot else []
        return PlotGroup(title=title, plots=drawn, notes=[_unlearnt_text(num_unlearnt)] if num_unlearnt else [])

    def _outcome_trials(self) -> list[tuple[str, list[TrialRecord]]]:
        """Return the trials of the recommended configuration, and of the default if that is another one."""
        found = self._confirmation
        if found and found["recommended"]:
            names = dict.fromkeys((found["recommended"], found["default"]))
            return [(name, self._seed_trials(candidate_named(found, name))) for name in names if name]
        both = [("the best of the search", self._study["best"]), ("the default", self._study["default"])]
        unique = {trial["trial"]: (name, [self._by_number[trial["trial"]]]) for name, trial in reversed(both) if trial}
        return list(reversed(unique.values()))

    def _seed_trials(self, candidate: Mapping[str, Any]) -> list[TrialRecord]:
        return [self._by_number[seed["trial"]] for seed in candidate["seeds"] if seed["trial"] in self._by_number]

    def _marked(self) -> list[Marked]:
        """Return the trials of the search whose configurations are recommended, and the default's."""
        styles = {"recommended": (ORANGE, "star"), "best of the search": (ORANGE, "star")}
        found: dict[int, Marked] = {}
        for label, configuration in self._marked_configurations().items():
            number = None if configuration is None else self._search_trial(configuration)
            if number is not None and number not in found:
                color, symbol = styles.get(label, (GREEN, "square"))
                found[number] = Marked(trial=number, label=label, color=color, symbol=symbol)
        return list(found.values())

    def _marked_configurations(self) -> dict[str, Mapping[str, Any] | None]:
        found = self._confirmation
        if found and found["recommended"]:
            default = candidate_named(found, found["default"]) if found["default"] else self._study["default"]
            return {"recommended": candidate_named(found, found["recommended"]), "default": default}
        return {"best of the search": self._study["best"], "default": self._study["default"]}

    def _search_trial(self, configuration: Mapping[str, Any]) -> int | None:
        """Return the trial of the search that has a configuration: a trial of best.json, or a candidate by its name."""
        if "trial" in configuration:
            return int(configuration["trial"])
        name = str(configuration["name"])
        number = name.removeprefix("trial ")
        if number != name and number.isdigit():
            return int(number)
        return next((t.spec.number for t in self._search if t.spec.origin == recipe_origin(name)), None)

    def _comparison_lines(self) -> dict[str, float]:
        study = self._study
        lines = {}
        if study["default"] is not None and study["default"]["state"] == TrialState.COMPLETE:
            lines["default"] = study["default"]["value"]
        if study["best_baseline"]:
            baseline = study["baselines"][study["best_baseline"]]
            lines[baseline["label"]] = baseline["value"]
        return {name: value for name, value in lines.items() if value is not None}

    def _scored_trial(self, trial: TrialRecord) -> ScoredTrial:
        return ScoredTrial(
            number=trial.spec.number,
            value=finite_value(self._record, trial),
            is_complete=trial.state is TrialState.COMPLETE,
            params=trial.spec.by_key(),
            num_parameters=trial.num_parameters,
            device_s=trial.cost.device_s,
        )

    def _curve(self, trial: TrialRecord) -> Curve:
        scored = [
            (rung_epoch(self._record, rung), rung.metrics[self._metric])
            for rung in trial.measurements
            if self._metric in rung.metrics
        ]
        return Curve(
            number=trial.spec.number,
            epochs=tuple(epoch for epoch, _ in scored),
            values=tuple(value for _, value in scored),
            is_complete=trial.state is TrialState.COMPLETE,
            is_stopped=trial.state is TrialState.PRUNED,
        )


def _unlearnt_text(num_rows: int) -> str:
    return (
        f"{plural(num_rows, 'scored row')} {'has' if num_rows == 1 else 'have'} a label that no training row has. They "
        "count as errors of every trial; take more training rows, or add some with these labels."
    )


def _confirmation_text(found: Mapping[str, Any]) -> str:
    state = {
        "complete": "The confirmation is complete",
        "running": "The confirmation is still running",
        "stopped early": "The confirmation stopped early: its time was spent while comparisons were undecided",
    }.get(found["state"], f"State of the confirmation: {found['state']}")
    cost = (
        f"{duration(found['device_s'])} of device time, {found['share']:.0%} of the search's (at most "
        f"{found['max_share']:.0%})"
    )
    optimism = found.get("optimism")
    measured = f" Optimism of the search's best: {interval_text(optimism, signed=True)}." if optimism else ""
    return (
        f"{state}. {plural(found['num_seeds'], 'fresh seed')} at most, the same for every candidate; {cost}. Intervals "
        f"are at {found['confidence']:.0%} confidence, for seeds and rows; the margin of equivalence is "
        f"±{found['margin']:g}.{measured}"
    )


def quality_text(quality: Mapping[str, Any]) -> str:
    """Return how well the surrogate predicts scores that it was not fitted to."""
    correlation = quality["rank_correlation"]
    known = "unknown" if correlation is None else f"{correlation:.2f}"
    return (
        f"The surrogate's rank correlation with held-out scores is {known} (minimum {quality['minimum']:.2f}), from "
        f"{plural(quality['num_values'], 'score')} of {plural(quality['num_trials'], 'trial')}."
    )

"""The configurations that report.html offers, each with YAML to paste, adapter and command, and their comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.plot_parts import interval_text
from sweeper.analysis.texts import duration, recipe_yaml, reproduce_command
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import number_text, params_text, short_name
from sweeper.figures.text import plural
from sweeper.store.trials import TrialStore

__all__ = ["ROLES", "Choice", "Choices", "candidate_named", "gain_text", "scored_text", "value_text"]

ROLES = {
    "recommended": "recommended",
    "simplest": "simplest equivalent",
    "best_under_cap": "best under the cap",
    "default": "default",
}
"""Keys of best.json's confirmation that name a candidate, and what that candidate is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A configuration that the user may take."""

    title: str
    name: str
    """The candidate, e.g. ``trial 9``."""
    is_recommended: bool
    params: Mapping[str, str]
    text: str
    """The hyperparameters as one line."""
    score: str
    gain: str
    """Against the default recipe; empty for the default itself."""
    verdict: str
    """``better``, ``worse``, ``equivalent`` or ``undecided``; empty if there was no comparison."""
    facts: Sequence[str]
    yaml: str
    adapter: str
    adapter_note: str
    command: str


class Choices:
    """What a user may take from one study.

    Args:
        store: The sweep.
        study: Its entry in best.json.
    """

    def __init__(self, store: TrialStore, study: Mapping[str, Any]) -> None:
        self._study = study
        self._sweep = store.root.name
        settings = (store.read_sweep() if store.exists else {}).get("settings") or {}
        self._outputs = str(settings.get("outputs") or DEFAULT_OUTPUTS)
        self._confirmation: Mapping[str, Any] | None = study.get("confirmation")
        self._metric = str(study["metric"])

    def all(self) -> list[Choice]:
        """Return the choices, the recommended one first; without a confirmation, the search's best and the default."""
        if self._confirmation:
            return self._confirmed_choices(self._confirmation)
        best, default = self._study["best"], self._study["default"]
        found = []
        if best is not None:
            is_default = default is not None and default["trial"] == best["trial"]
            title = "Best of the search, which is the default" if is_default else "Best of the search, not confirmed"
            found.append(self._trial_choice(best, title=title))
        if default is not None and (best is None or default["trial"] != best["trial"]):
            found.append(self._trial_choice(default, title="Default"))
        return found

    def comparisons(self) -> list[list[str]]:
        """Return a row for each candidate: name, seeds, score, gain, verdict, test, and what would settle it."""
        if not self._confirmation:
            return []
        return [
            [
                candidate["name"],
                str(len(candidate["seeds"])),
                interval_text(candidate["metrics"][self._metric]) if candidate["metrics"].get(self._metric) else "-",
                interval_text(candidate["against_default"]["gain"], signed=True)
                if candidate["against_default"]
                else "-",
                candidate["against_default"]["verdict"] if candidate["against_default"] else "the default",
                _test_text(candidate["test"]) if candidate["test"] else "-",
                _needed_text(candidate["against_default"]),
            ]
            for candidate in self.ranked_candidates()
        ]

    def ranked_candidates(self) -> list[Mapping[str, Any]]:
        """Return the candidates by their mean over fresh seeds, best first; those without a score last."""
        sign = -1 if self._study["direction"] == "maximize" else 1
        candidates = (self._confirmation or {}).get("candidates", [])

        def order(candidate: Mapping[str, Any]) -> tuple[bool, float]:
            mean = candidate["metrics"].get(self._metric)
            return (mean is None, sign * mean["estimate"] if mean else 0.0)

        return sorted(candidates, key=order)

    def _trial_choice(self, trial: Mapping[str, Any], *, title: str) -> Choice:
        gain = self._study["gain_over_default"]
        is_best = self._study["best"] is not None and trial["trial"] == self._study["best"]["trial"]
        is_default = self._study["default"] is not None and trial["trial"] == self._study["default"]["trial"]
        facts = [
            f"From {trial['origin']}, {trial['state']}",
            *_cost_facts(trial["num_parameters"], trial["device_s"], "its one trial"),
        ]
        return self._choice(
            trial,
            title=title,
            name=f"trial {trial['trial']}",
            is_recommended=False,
            score=scored_text(trial),
            gain=gain_text(gain["gain"], gain["standard_error"]) if gain and is_best and not is_default else "",
            verdict="",
            facts=facts,
            trial=trial["trial"],
            adapter=trial["adapter"],
            seed=trial["seed"],
        )

    def _confirmed_choices(self, confirmation: Mapping[str, Any]) -> list[Choice]:
        roles: dict[str, list[str]] = {}
        for key, title in ROLES.items():
            if confirmation.get(key):
                roles.setdefault(confirmation[key], []).append(title)
        return [
            self._confirmed_choice(candidate_named(confirmation, name), ", ".join(titles), "recommended" in titles)
            for name, titles in roles.items()
        ]

    def _confirmed_choice(self, found: Mapping[str, Any], title: str, is_recommended: bool) -> Choice:
        against = found["against_default"]
        kept = next((seed for seed in found["seeds"] if seed["adapter"]), None)
        first = kept or next(iter(found["seeds"]), None)
        mean = found["metrics"].get(self._metric)
        facts = [f"Trained with {plural(len(found['seeds']), 'fresh seed')}"]
        facts += _cost_facts(found["num_parameters"], found["device_s"], "each seed")
        if found["optimism"] is not None:
            facts.append(f"Search score minus fresh-seed mean: {found['optimism']:+.3f}")
        if found["test"]:
            facts.append(f"Test: {_test_text(found['test'])}; it reports and never chooses")
        return self._choice(
            found,
            title=title[:1].upper() + title[1:],
            name=found["name"],
            is_recommended=is_recommended,
            score=interval_text(mean) if mean else "-",
            gain=interval_text(against["gain"], signed=True) if against else "",
            verdict=str(against["verdict"]) if against else "",
            facts=facts,
            trial=first["trial"] if first else None,
            adapter=kept["adapter"] if kept else None,
            seed=kept["seed"] if kept else None,
        )

    def _choice(
        self, found: Mapping[str, Any], *, trial: int | None, adapter: str | None, seed: int | None, **texts: Any
    ) -> Choice:
        params: Mapping[str, ParamValue] = found["params"]
        default = (self._study["default"] or {}).get("hyperparameters", {})
        others = {key: value for key, value in found["hyperparameters"].items() if default.get(key, value) != value}
        name = f"{self._study['dataset']} {texts['name']}"
        return Choice(
            params={short_name(key): number_text(value) for key, value in params.items()},
            text=params_text(params),
            yaml=recipe_yaml(name, {**params, **others}),
            adapter=adapter or "",
            adapter_note=f"This adapter was trained with seed {seed}." if adapter else "Its adapter is not on disk.",
            command=""
            if trial is None
            else reproduce_command(self._sweep, self._study["name"], trial, outputs=self._outputs),
            **texts,
        )


def candidate_named(confirmation: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the candidate of a confirmation that has this name."""
    found: Mapping[str, Any] = next(entry for entry in confirmation["candidates"] if entry["name"] == name)
    return found


def scored_text(trial: Mapping[str, Any]) -> str:
    """Return the score of a trial of best.json with its standard error, e.g. ``0.910 ± 0.014``."""
    error = trial["standard_error"]
    return value_text(trial["value"]) + (f" ± {error:.3f}" if error is not None else "")


def _cost_facts(num_parameters: int, device_s: float, what: str) -> list[str]:
    return [plural(num_parameters, "trainable parameter"), f"{duration(device_s)} of device time for {what}"]


def _needed_text(against: Mapping[str, Any] | None) -> str:
    """Return how many more seeds or rows would settle an undecided comparison."""
    if not against or against["verdict"] != "undecided":
        return "-"
    parts = [
        f"{against[key]:,} {unit}"
        for key, unit in (("seeds_needed", "seeds each"), ("rows_needed", "rows"))
        if against.get(key)
    ]
    return " or ".join(parts) or "no number of seeds"


def _test_text(test: Mapping[str, Any]) -> str:
    text = interval_text(test["interval"]) if test.get("interval") else value_text(test["value"])
    return f"{text} on {plural(test['num_rows'], 'row')}"


def gain_text(gain: float, error: float | None) -> str:
    """Return a gain with its standard error, e.g. ``+0.025 ± 0.026``."""
    return f"{gain:+.3f}" + (f" ± {error:.3f}" if error is not None else "")


def value_text(value: float | None) -> str:
    """Return a score with three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"

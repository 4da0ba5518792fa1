"""Texts that the reports share: durations, YAML to paste, commands, and advice on the bounds of the search space."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.config.keys import find_key
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.config.values import ParamValue
from sweeper.figures.hyperparameters import ALPHA, number_text

__all__ = ["adapter_text", "bound_advice", "duration", "flatten", "recipe_yaml", "reproduce_command", "train_command"]


def adapter_text(study: Mapping[str, Any]) -> str:
    """Return which adapter of a study is recommended, in a sentence; empty without one.

    Args:
        study: Its entry in best.json.
    """
    found = study["recommended_adapter"]
    if found is None:
        return ""
    text = f"The recommended adapter is that of trial {found['trial']}, seed {found['seed']}, {found['text']}"
    rung = found["best_rung"]
    if rung and rung["adapter"] and rung["adapter"] != found["adapter"]:
        text += f". The adapter of that epoch is kept beside it, in {Path(rung['adapter']).name}"
    return f"{text}." if found["adapter"] else f"{text}. It is not on disk."


def duration(seconds: float) -> str:
    """Return a duration such as ``1 h 02 min`` or ``3 min 20 s``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{seconds:.1f} s"


def bound_advice(bounds: Mapping[str, str], params: Mapping[str, ParamValue]) -> list[str]:
    """Return advice for each bound: widen the space, unless the bound is the limit of the hyperparameter."""
    lines = []
    for key, side in bounds.items():
        limit = find_key(key).at_least if side == "low" else find_key(key).at_most
        value = params[key]
        at = f"`{key}` = {number_text(value)} is at the {side} end of the space"
        is_natural = not isinstance(value, str) and value == limit
        advice = ", which is the limit of the hyperparameter." if is_natural else ": widen it and search again."
        lines.append(f"{at}{advice}")
    return lines


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def recipe_yaml(name: str, params: Mapping[str, ParamValue]) -> str:
    """Return a configuration as an entry of ``search.recipes``, to be pasted into a file of one's own.

    Numbers have six significant digits; no score can tell more.

    Args:
        name: Name of the recipe.
        params: Values by dotted key; alpha, which is no key of the configuration, becomes a comment.
    """
    lines = [f"- name: {json.dumps(name)}", "  params:"]
    lines += [f"    {key}: {_scalar(value)}" for key, value in params.items() if key != ALPHA]
    if ALPHA in params:
        lines.append(f"# PEFT: lora_alpha={number_text(params[ALPHA])}")
    return "\n".join(lines)


def reproduce_command(sweep: str, study: str, trial: int, *, outputs: str = DEFAULT_OUTPUTS) -> str:
    """Return the command that trains a trial again."""
    return _command(["sweeper", "reproduce", f"{sweep}/{study}/{trial}"], outputs)


def train_command(sweep: str, study: str, *, outputs: str = DEFAULT_OUTPUTS) -> str:
    """Return the command that trains the chosen configuration of a study on all rows."""
    return _command(["sweeper", "train", f"{sweep}/{study}", "--rows", "all"], outputs)


def _command(words: list[str], outputs: str) -> str:
    if Path(outputs) != Path(DEFAULT_OUTPUTS):
        words += ["--outputs", outputs]
    return shlex.join(words)


def _scalar(value: ParamValue) -> str:
    """Return a value as YAML 1.1 reads it: without a point, 1e-05 would be text."""
    if isinstance(value, float):
        text = repr(float(f"{value:.6g}"))
        mantissa, exponent, power = text.partition("e")
        return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{exponent}{power}"
    return json.dumps(value, ensure_ascii=False)

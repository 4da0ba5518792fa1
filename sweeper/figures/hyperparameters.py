"""Names and text of hyperparameters in everything that is read by people: terminal, report, best.json, MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sweeper.config.settings import LoraSettings
from sweeper.config.values import ParamValue
from sweeper.types import TrialSpec

__all__ = ["ALPHA", "alpha", "differing_params", "number_text", "params_text", "short_name", "shown_params"]

ALPHA = "lora.alpha"
"""Key under which `alpha` appears in tables and MLflow; not a key of the configuration."""

_SHORT_NAMES = {
    "lora.r": "r",
    ALPHA: "alpha",
    "lora.alpha_ratio": "alpha/r",
    "lora.dropout": "dropout",
    "lora.use_rslora": "rslora",
    "train.learning_rate": "lr",
    "train.head_lr_ratio": "head/lr",
    "train.head_init": "head",
    "train.weight_decay": "wd",
    "train.warmup_ratio": "warmup",
    "train.lr_schedule": "schedule",
    "train.batch_size": "batch",
    "train.max_grad_norm": "clip",
    "train.adam_beta1": "beta1",
    "train.adam_beta2": "beta2",
}
_ALWAYS_SHOWN = ("lora.r", ALPHA, "lora.alpha_ratio", "lora.dropout", "train.learning_rate")


def alpha(lora: LoraSettings) -> int | float:
    """Return PEFT's ``lora_alpha``, r * alpha_ratio; an int if it is integral."""
    product = lora.r * float(lora.alpha_ratio)
    return int(product) if product.is_integer() else product


def shown_params(spec: TrialSpec, searched: Iterable[str]) -> dict[str, ParamValue]:
    """Return the hyperparameters to show: rank, alpha, dropout, learning rate, and every searched one.

    Args:
        spec: The trial.
        searched: Dotted keys of the space.

    Returns:
        Values by dotted key, with `ALPHA` beside its ratio.
    """
    values = {**spec.by_key(), ALPHA: alpha(spec.lora)}
    return {key: values[key] for key in dict.fromkeys((*_ALWAYS_SHOWN, *searched))}


def differing_params(one: TrialSpec, other: TrialSpec) -> dict[str, tuple[ParamValue, ParamValue]]:
    """Return the hyperparameters in which two configurations differ: both values by dotted key."""
    values, others = one.by_key(), other.by_key()
    return {key: (value, others[key]) for key, value in values.items() if value != others[key]}


def params_text(params: Mapping[str, ParamValue], separator: str = " ") -> str:
    """Return hyperparameters as one line, e.g. ``r=8 alpha=16 dropout=0.05 lr=0.0012``.

    Args:
        params: Values by dotted key. With `ALPHA`, the ratio is left out.
        separator: Text between two of them.
    """
    left_out = "lora.alpha_ratio" if ALPHA in params else ""
    return separator.join(f"{short_name(key)}={number_text(value)}" for key, value in params.items() if key != left_out)


def short_name(key: str) -> str:
    """Return the short name of a hyperparameter for tables and charts, e.g. ``lr``."""
    return _SHORT_NAMES.get(key, key.rpartition(".")[2])


def number_text(value: ParamValue) -> str:
    """Return a value as short text: floats with three significant digits, 1e-5 instead of 1e-05."""
    if isinstance(value, bool):
        return str(value).lower()  # as in YAML
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("e-0", "e-")  # noqa: PLR2004  not 1e+03

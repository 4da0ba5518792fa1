"""How settings are named and written wherever a person reads them: screen, report, best.json."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.config.values import ParamValue
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["alpha", "number_text", "params_text", "shown_params"]

_SHORT = {"learning_rate": "lr", "batch_size": "batch", "weight_decay": "wd", "warmup_ratio": "warmup"}
_ALWAYS = ("lora.r", "lora.alpha", "lora.alpha_ratio", "lora.dropout", "train.learning_rate")


def alpha(settings: Mapping[str, ParamValue]) -> float | None:
    """Return peft's ``lora_alpha``, which is r * alpha_ratio; None if a setting lacks."""
    r, ratio = settings.get("lora.r"), settings.get("lora.alpha_ratio")
    if r is None or ratio is None:
        return None
    product = float(r) * float(ratio)
    return int(product) if product.is_integer() else product


def shown_params(study: StudyRecord, record: TrialRecord) -> dict[str, ParamValue]:
    """Return the settings that a reader wants: rank, alpha, dropout, learning rate, and all that was searched."""
    settings = record.spec.by_key()
    found = alpha(settings)
    if found is not None:
        settings["lora.alpha"] = found
    keys = (*_ALWAYS, *(key for key in study.space if key not in _ALWAYS))
    return {key: settings[key] for key in keys if key in settings}


def params_text(params: Mapping[str, ParamValue], separator: str = " ") -> str:
    """Return settings in one line, e.g. ``r=8 alpha=16 dropout=0.05 lr=0.0012``; alpha stands for its ratio."""
    skipped = "lora.alpha_ratio" if "lora.alpha" in params else ""
    return separator.join(f"{_short(key)}={number_text(value)}" for key, value in params.items() if key != skipped)


def number_text(value: ParamValue) -> str:
    """Return a value as short as it can be read: three significant digits of a fraction."""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)  # noqa: PLR2004 - 1e+03 is no help


def _short(key: str) -> str:
    name = key.rpartition(".")[2]
    return _SHORT.get(name, name)

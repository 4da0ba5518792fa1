"""What every key of the settings means, as one table: for the command line's help, and to name keys in errors."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import get_args, get_type_hints

from sweeper.config.settings import Recipe, SweepSettings

__all__ = ["SettingDoc", "setting_docs"]


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """A documented key."""

    kind: str
    default: str
    doc: str


def setting_docs(kind: type = SweepSettings, prefix: str = "") -> dict[str, SettingDoc]:
    """Return every dotted key with its type, default and documentation; ``<name>`` stands for a dataset's name."""
    found: dict[str, SettingDoc] = {}
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        inner = next((arg for arg in (*get_args(hint), hint) if is_dataclass(arg) and arg is not Recipe), None)
        if inner is not None:
            name = entry.name if inner is hint else f"{entry.name}.<name>"
            found |= setting_docs(inner, f"{prefix}{name}.")  # type: ignore[arg-type]
            continue
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        shown = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
        found[f"{prefix}{entry.name}"] = SettingDoc(shown, str(default), entry.metadata["doc"])
    return found

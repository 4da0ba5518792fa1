"""Composes and checks the configuration; the only importer of Hydra.

An override in Hydra's sweep grammar (``lora.r=choice(4,8)``) adds a dimension to the space, a plain value of a searched
key takes its dimension out. Everything wrong is a `ConfigError` before anything expensive starts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, OverrideType, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.checks import check_settings
from sweeper.config.keys import Key, all_keys, searchable_keys
from sweeper.config.settings import SweepSettings
from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.urls import mask_url, redact_urls
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError, SpaceError, did_you_mean

__all__ = ["CONFIG_DIR", "SweepConfig", "as_yaml", "compose", "parse_dimension"]

CONFIG_DIR = Path(__file__).parent / "conf"
_SECRET = "***"  # noqa: S105 - stands for one
_MAY_BE_NULL = ("experiment", "debug")
_ELSEWHERE = {
    "lr": "train.learning_rate",
    "rank": "lora.r",
    "alpha": "lora.alpha_ratio",
    "lora_alpha": "lora.alpha_ratio",
}
"""Names that other libraries give to our keys."""
_SCALES = {frozenset(): Scale.LINEAR, frozenset({"log"}): Scale.LOG, frozenset({"log2"}): Scale.LOG2}


@dataclasses.dataclass(frozen=True, slots=True)
class SweepConfig:
    """A checked configuration."""

    settings: SweepSettings
    space: SearchSpace


def compose(overrides: Sequence[str], *, config_dir: Path | None = None) -> SweepConfig:
    """Return the configuration that the overrides ask for.

    Args:
        overrides: Hydra overrides, e.g. ``["dataset=[trec,sms_spam]", "lora.r=choice(4,8)"]``.
        config_dir: A folder with further YAML files, laid out like conf/.

    Raises:
        ConfigError: A key, a value or a combination of values is wrong.
    """
    plain, varied = _split([_checked(text) for text in overrides])
    composed = _compose(plain, config_dir)
    settings = _typed(composed)
    fixed = {key for text in plain for key in _keys(_parse(text))}
    texts = {k: v for k, v in settings.space.dimensions.items() if v is not None and k not in fixed} | varied
    settings.space.dimensions = {**texts}
    space = SearchSpace(tuple(parse_dimension(key, text) for key, text in texts.items()))
    check_settings(settings, space)
    return SweepConfig(settings, space)


def as_yaml(config: SweepConfig) -> str:
    """Return the whole configuration as YAML, without what only those who are told may know."""
    shown = OmegaConf.structured(config.settings)
    shown.notify.urls = [mask_url(url) for url in config.settings.notify.urls]
    return OmegaConf.to_yaml(shown)


def parse_dimension(key: str, text: str) -> Dimension:
    """Return the dimension that ``key=text`` means in Hydra's sweep grammar.

    Raises:
        SpaceError: It is not of that grammar, or cannot be searched.
    """
    try:
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
    except HydraException as error:
        raise SpaceError(key, text, "this is not Hydra's sweep grammar", str(error).splitlines()[0]) from error
    if isinstance(value, ChoiceSweep):
        return _choices(key, text, [_scalar(item) for item in value.list])
    if isinstance(value, RangeSweep):
        return _choices(key, text, [_scalar(item) for item in value.range()])
    if isinstance(value, IntervalSweep):
        tags = frozenset(value.tags)
        if tags not in _SCALES:
            remedy = f"Use tag(log,...) or tag(log2,...), not {', '.join(sorted(tags))}."
            raise SpaceError(key, text, "a scale is log or log2", remedy)
        return Dimension(
            key=key, text=text, scale=_SCALES[tags], low=float(value.start or 0), high=float(value.end or 0)
        )
    raise SpaceError(key, text, "this is one value, not a dimension", "Use choice(...), interval(...) or range(...).")


def _choices(key: str, text: str, values: list[ParamValue]) -> Dimension:
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    scale = Scale.ORDERED if are_numbers else Scale.CATEGORICAL
    ordered = sorted(values, key=float) if are_numbers else values
    return Dimension(key=key, text=text, scale=scale, choices=tuple(ordered))


def _scalar(value: Any) -> ParamValue:
    text = getattr(value, "text", value)
    if isinstance(text, bool | int | float | str):
        return text
    raise SpaceError("space", value, "a choice is a number, a word, true or false", "Write choice(4,8,16).")


def _split(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return plain overrides, and those that vary something by key; of two for one key the later counts."""
    plain: list[str] = []
    varied: dict[str, str] = {}
    for text in overrides:
        override, value = _parse(text), text.partition("=")[2]
        key = override.key_or_group
        if not override.is_sweep_override():
            varied.pop(key, None)
            plain.append(text)
        elif key == "dataset":
            plain.append(f"dataset=[{value}]")
        else:
            _check_searchable(key, value)
            varied[key] = value
    return plain, varied


def _keys(override: Override) -> list[str]:
    """Return the dotted keys that an override sets: several, of ``lora={r: 4, dropout: 0}``."""
    key, value = override.key_or_group, override.value()
    return [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]


def _check_searchable(key: str, value: str) -> None:
    if key not in searchable_keys():
        near = "" if key in all_keys() else _near(key, searchable_keys())
        remedy = near or f"Searchable keys are: {', '.join(searchable_keys())}."
        raise SpaceError(key, value, "this key cannot be searched", remedy)


def _checked(text: str) -> str:
    """Refuse what Hydra would take and sweeper would not: added and deleted keys, and Hydra's own settings."""
    override = _parse(text)
    key, value = override.key_or_group, _shown(text).partition("=")[2]
    if override.type is not OverrideType.CHANGE:
        rule = "keys can be changed, not added or deleted"
        raise ConfigError(text.partition("=")[0], value, rule, _near(key, all_keys()) or f"Write {key}=value.")
    if key.partition(".")[0] == "hydra":
        remedy = "Further YAML files go into a folder that --config-dir names."
        raise ConfigError(key, value, "Hydra's own settings have no effect here", remedy)
    return text


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = _shown(text).partition("=")
        said = "" if value == _SECRET else f" ({str(error).splitlines()[0]})"
        remedy = "Write key=value, e.g. budget.trials=40; quote values that have spaces or brackets."
        raise ConfigError(key, value, f"this is not an override{said}", remedy) from (None if not said else error)


def _compose(overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=SweepSettings)
    extra = [] if config_dir is None else [f"hydra.searchpath=['{_quoted(config_dir)}']"]
    try:
        with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3", job_name="sweeper"):
            return hydra_compose("config", overrides=[*extra, *map(_forced, overrides)])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _translated(error, overrides, config_dir) from error


def _forced(text: str) -> str:
    """Let an override add keys to a mapping of the user's own, such as ``dataset.<name>.where``."""
    found = _documented(text.partition("=")[0])
    return f"++{text}" if found is not None and found.kind.startswith("dict[str, str]") else text


def _documented(key: str) -> Key | None:
    """Return what is told of a key, or of the mapping that it belongs to."""
    known, pattern = all_keys(), _pattern(key)
    parent = known.get(pattern.rpartition(".")[0])
    return known.get(pattern) or (parent if parent is not None and parent.kind.startswith("dict[str, str]") else None)


def _typed(composed: DictConfig) -> SweepSettings:
    try:
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        rule = str(error.msg or error).splitlines()[0]
        raise ConfigError(key, "", rule, "See `sweeper config --help-keys`.") from error
    if not isinstance(settings, SweepSettings):
        raise TypeError(f"conf/config.yaml has lost its schema: {type(settings)}")
    for name, dataset in settings.dataset.items():
        dataset.name = dataset.name or name
    return settings


def _translated(error: Exception, overrides: Sequence[str], config_dir: Path | None) -> ConfigError:
    """Turn Hydra's message into key, value, rule and remedy."""
    causes = [error]
    while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    said = " ".join(str(cause) for cause in causes)
    for text in map(_shown, overrides):
        key, _, value = text.partition("=")
        options = _options(key, config_dir)
        if options and value == "null" and key not in _MAY_BE_NULL:
            return ConfigError(key, value, f"a {key} is needed", f"There are: {', '.join(options)}.")
        if options and f"'{key}/" in said:
            wrong = [item for item in re.split(r"[\[\],\s]+", value) if item and item not in options]
            if wrong:
                remedy = did_you_mean(wrong[0], options) or f"There are: {', '.join(options)}."
                return ConfigError(key, value, f"there is no {key} '{wrong[0]}'", remedy)
        if not options and re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", said):
            return _wrong_key(key, value, str(causes[-1]))
    shown = redact_urls(" ".join(map(_shown, overrides)))
    in_file = re.search(r"In '([^']+)'.*\n(.+)\n\s+full_key: (\S+)", said)
    if in_file:
        return ConfigError(in_file[3], shown, in_file[2], f"Check {in_file[1]}.yaml.")
    return ConfigError("configuration", shown, str(error).splitlines()[0].rstrip("."), "Check the overrides.")


def _wrong_key(key: str, value: str, said: str) -> ConfigError:
    known, pattern, found = all_keys(), _pattern(key), _documented(key)
    if found is not None:
        rule = "this value does not fit" if value == _SECRET else said.splitlines()[0].rstrip(".")
        if "not Optional" in said:
            rule = "a value is needed"
        elif any(
            part in said for part in ("not in struct", "Could not override", "is not a subclass of DatasetSettings")
        ):
            rule = "this dataset is not among the chosen ones"
        return ConfigError(key, value, rule, found.doc)
    near = _near(pattern, known).replace("<name>", key.split(".")[1] if "." in key else "<name>")
    return ConfigError(key, value, "there is no such key", near or "`sweeper config --help-keys` lists all keys.")


def _shown(text: str) -> str:
    """Return an override as an error message may repeat it."""
    key = text.partition("=")[0]
    return f"{key}={_SECRET}" if key.lstrip("+~").startswith("notify.urls") else text


def _pattern(key: str) -> str:
    return re.sub(r"^dataset\.[^.]+\.", "dataset.<name>.", key)


def _near(key: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean ...?"`` for a key that is misspelt, or that goes by another name elsewhere."""
    elsewhere = _ELSEWHERE.get(key.rpartition(".")[2])
    return f"Did you mean '{elsewhere}'?" if elsewhere else did_you_mean(key, known)


def _quoted(folder: Path) -> str:
    return f"file://{folder.absolute()}".replace("\\", "\\\\").replace("'", "\\'")


def _options(group: str, config_dir: Path | None) -> list[str]:
    folders = [CONFIG_DIR / group] + ([config_dir / group] if config_dir else [])
    return sorted({path.stem for folder in folders for path in folder.glob("[!_]*.yaml")})

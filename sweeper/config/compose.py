"""Composes the configuration with Hydra and checks it.

An override in Hydra's sweep grammar (``lora.r=choice(4,8)``) adds a dimension to the space; a plain value of a searched
key removes its dimension. Every mistake raises a `ConfigError` before anything expensive starts.

``space=auto`` and ``recipes=auto`` stand for the files of these groups for the kind of model. If only the model can
tell its kind, the configuration is composed for the likelier one, so that mistakes show early, and again for the right
one (`SweepConfig.for_kind`) when the model is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.checks import check_settings
from sweeper.config.dimensions import parse_space
from sweeper.config.hydra_errors import translate_error, translate_unresolved
from sweeper.config.hyperparameters import without_head_keys
from sweeper.config.overrides import described_key, keys_set_by, split_overrides
from sweeper.config.settings import MODEL_KINDS, SweepSettings
from sweeper.config.space import SearchSpace
from sweeper.config.trust import check_remote_code, limited_environment
from sweeper.errors import SpaceError
from sweeper.urls import mask_url, redact_urls

__all__ = ["CONFIG_DIR", "SweepConfig", "as_yaml", "compose"]

CONFIG_DIR = Path(__file__).parent / "conf"


_AUTO = "auto"
_PENDING = """\
# model.kind=auto: what is shown of the space and the recipes is a guess. config.json of the model decides once it is
# fetched, or set model.kind.
"""
_SPACES = {"encoder": "default"}
"""The file in conf/space for a kind of model, if it is not named after it."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a configuration was composed of."""

    texts: tuple[str, ...]
    config_dir: Path | None


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """A checked configuration."""

    settings: SweepSettings
    space: SearchSpace
    pending: Overrides | None = None
    """What to compose again once the kind of model is known; None if space and recipes are final."""

    def for_kind(self, kind: str) -> SweepConfig:
        """Return the configuration with space and recipes for a kind of model; unchanged if they are final.

        Args:
            kind: One of `MODEL_KINDS`.

        Raises:
            ConfigError: The overrides do not fit its space.
        """
        if self.pending is None:
            return self
        made = _compose_for(self.pending, kind).settings
        # Only these depend on the kind: the caller may have changed others since they were composed.
        search = dataclasses.replace(
            self.settings.search, recipes=made.search.recipes, references=made.search.references
        )
        settings = dataclasses.replace(
            self.settings,
            model=dataclasses.replace(self.settings.model, kind=kind),
            space=made.space,
            search=search,
        )
        return SweepConfig(settings, parse_space(made.space.dimensions))


def compose(overrides: Sequence[str], *, config_dir: Path | None = None) -> SweepConfig:
    """Return the configuration that the overrides describe.

    Args:
        overrides: Hydra overrides, e.g. ``["dataset=[trec,sms_spam]", "lora.r=choice(4,8)"]``.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        ConfigError: A key, a value or a combination of values is wrong.
    """
    return _compose_for(Overrides(tuple(overrides), config_dir.absolute() if config_dir else None), _AUTO)


def _compose_for(overrides: Overrides, kind: str) -> SweepConfig:
    """Return the configuration for a kind of model; ``auto`` leaves that to the settings."""
    plain, varied = split_overrides(overrides.texts)
    settings, automatic = _settings_for(plain, overrides.config_dir, kind)
    fixed = {key for text in plain for key in keys_set_by(text)}
    if "model.trust_remote_code" not in fixed:
        check_remote_code(settings.model, source="a configuration file")
    preset = {key: text for key, text in settings.space.dimensions.items() if text is not None and key not in fixed}
    if not settings.task.has_head:
        _reject_head_dimensions(varied, settings.task.name)
        preset = without_head_keys(preset)
        for recipe in (*settings.search.recipes, *settings.search.references):
            recipe.params = without_head_keys(recipe.params)
    dimensions = preset | varied
    settings.space.dimensions = {**dimensions}
    space = parse_space(dimensions)
    check_settings(settings, space)
    is_pending = kind == settings.model.kind == _AUTO and bool(automatic)
    return SweepConfig(settings, space, pending=overrides if is_pending else None)


def _settings_for(plain: Sequence[str], config_dir: Path | None, kind: str) -> tuple[SweepSettings, list[str]]:
    """Return the settings with space and recipes for a kind of model, and which of these two groups are auto."""
    with limited_environment():
        settings, chosen = _to_settings(*_compose(plain, config_dir))
    automatic = [group for group in ("space", "recipes") if chosen[group] == _AUTO]
    known = kind if kind != _AUTO else settings.model.kind
    wanted = known if known != _AUTO else "encoder" if settings.task.has_head else "language_model"
    # The files named auto contain those for encoders; `check_settings` rejects an unknown kind.
    if automatic and wanted != "encoder" and wanted in MODEL_KINDS:
        files = {"space": _SPACES.get(wanted, wanted), "recipes": wanted}
        with limited_environment():
            texts = [text for text in plain if text.partition("=")[0] not in automatic]
            composed = _compose([*texts, *(f"{group}={files[group]}" for group in automatic)], config_dir)
            settings, _ = _to_settings(*composed)
    if known == _AUTO and "space" in automatic and settings.space.name == _SPACES.get(wanted, wanted):
        settings.space.name = _AUTO  # the name of the space that was guessed would mislead
    return settings, automatic


def _reject_head_dimensions(dimensions: Mapping[str, str], task: str) -> None:
    """Reject dimensions from the command line that a task without a head would search in vain."""
    kept = without_head_keys(dimensions)
    for key, text in dimensions.items():
        if key not in kept:
            rule = f"task={task} adds no head to the model, so this key has no effect"
            raise SpaceError(key, text, rule, "Leave it out.")


def as_yaml(config: SweepConfig) -> str:
    """Return the complete configuration as YAML, without passwords and notification URLs.

    Comments name what the model will decide.
    """
    masked = OmegaConf.structured(config.settings)
    masked.notify.urls = [mask_url(url) for url in config.settings.notify.urls]
    return _PENDING * (config.pending is not None) + redact_urls(OmegaConf.to_yaml(masked))


@cache
def _register_schema() -> None:
    """Name the settings for conf/config.yaml; once, since it takes a tenth of the time of composing."""
    ConfigStore.instance().store(name="schema", node=SweepSettings)


def _compose(overrides: Sequence[str], config_dir: Path | None) -> tuple[DictConfig, dict[str, str]]:
    """Return the composed configuration, and the chosen option of each group."""
    _register_schema()
    extra = []
    if config_dir is not None:
        quoted = f"file://{config_dir.absolute()}".replace("\\", "\\\\").replace("'", "\\'")
        extra = [f"hydra.searchpath=['{quoted}']"]
    try:
        with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3", job_name="sweeper"):
            texts = [*extra, *map(_allow_new_entries, overrides)]
            composed = hydra_compose("config", overrides=texts, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Without its cause, which quotes overrides, and with them passwords.
        raise translate_error(error, overrides, partial(_options, config_dir=config_dir)) from None
    chosen = {group: str(option) for group, option in composed.hydra.runtime.choices.items()}
    with open_dict(composed):
        del composed["hydra"]
    return composed, chosen


def _allow_new_entries(text: str) -> str:
    """Let an override add entries to a mapping with free keys, such as ``dataset.<name>.where``."""
    key = described_key(text.partition("=")[0])
    return f"++{text}" if key is not None and key.kind.startswith("dict[str, str]") else text


def _to_settings(composed: DictConfig, chosen: dict[str, str]) -> tuple[SweepSettings, dict[str, str]]:
    try:
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise translate_unresolved(error) from None
    if not isinstance(settings, SweepSettings):
        raise TypeError(f"conf/config.yaml does not name its schema: {type(settings)}")
    for name, dataset in settings.dataset.items():
        dataset.name = dataset.name or name
    return settings, chosen


def _options(group: str, *, config_dir: Path | None) -> list[str]:
    folders = [CONFIG_DIR / group] + ([config_dir / group] if config_dir else [])
    return sorted({path.stem for folder in folders for path in folder.glob("[!_]*.yaml")})

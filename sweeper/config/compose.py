"""Composes the configuration with Hydra and checks it.

An override in Hydra's sweep grammar (``lora.r=choice(4,8)``) adds a dimension to the space; a plain value of a searched
key removes its dimension. Every mistake raises a `ConfigError` before anything expensive starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.checks import check_settings
from sweeper.config.dimensions import parse_space
from sweeper.config.hydra_errors import translate_error, translate_unresolved
from sweeper.config.hyperparameters import without_head_keys
from sweeper.config.overrides import described_key, keys_set_by, split_overrides
from sweeper.config.settings import SweepSettings
from sweeper.config.space import SearchSpace
from sweeper.config.trust import check_remote_code, limited_environment
from sweeper.errors import SpaceError
from sweeper.urls import mask_url, redact_urls

__all__ = ["CONFIG_DIR", "SweepConfig", "as_yaml", "compose"]

CONFIG_DIR = Path(__file__).parent / "conf"


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """A checked configuration."""

    settings: SweepSettings
    space: SearchSpace


def compose(overrides: Sequence[str], *, config_dir: Path | None = None) -> SweepConfig:
    """Return the configuration that the overrides describe.

    Args:
        overrides: Hydra overrides, e.g. ``["dataset=[trec,sms_spam]", "lora.r=choice(4,8)"]``.
        config_dir: A folder with more YAML files, laid out like conf/.

    Raises:
        ConfigError: A key, a value or a combination of values is wrong.
    """
    plain, varied = split_overrides(overrides)
    with limited_environment():
        settings = _to_settings(_compose(plain, config_dir))
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
    return SweepConfig(settings, space)


def _reject_head_dimensions(dimensions: Mapping[str, str], task: str) -> None:
    """Reject dimensions from the command line that a task without a head would search in vain."""
    kept = without_head_keys(dimensions)
    for key, text in dimensions.items():
        if key not in kept:
            rule = f"task={task} adds no head to the model, so this key has no effect"
            raise SpaceError(key, text, rule, "Leave it out.")


def as_yaml(config: SweepConfig) -> str:
    """Return the complete configuration as YAML, without passwords and notification URLs."""
    masked = OmegaConf.structured(config.settings)
    masked.notify.urls = [mask_url(url) for url in config.settings.notify.urls]
    return redact_urls(OmegaConf.to_yaml(masked))


def _compose(overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=SweepSettings)
    extra = []
    if config_dir is not None:
        quoted = f"file://{config_dir.absolute()}".replace("\\", "\\\\").replace("'", "\\'")
        extra = [f"hydra.searchpath=['{quoted}']"]
    try:
        with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3", job_name="sweeper"):
            return hydra_compose("config", overrides=[*extra, *map(_allow_new_entries, overrides)])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Without its cause, which quotes overrides, and with them passwords.
        raise translate_error(error, overrides, partial(_options, config_dir=config_dir)) from None


def _allow_new_entries(text: str) -> str:
    """Let an override add entries to a mapping with free keys, such as ``dataset.<name>.where``."""
    key = described_key(text.partition("=")[0])
    return f"++{text}" if key is not None and key.kind.startswith("dict[str, str]") else text


def _to_settings(composed: DictConfig) -> SweepSettings:
    try:
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise translate_unresolved(error) from None
    if not isinstance(settings, SweepSettings):
        raise TypeError(f"conf/config.yaml does not name its schema: {type(settings)}")
    for name, dataset in settings.dataset.items():
        dataset.name = dataset.name or name
    return settings


def _options(group: str, *, config_dir: Path | None) -> list[str]:
    folders = [CONFIG_DIR / group] + ([config_dir / group] if config_dir else [])
    return sorted({path.stem for folder in folders for path in folder.glob("[!_]*.yaml")})

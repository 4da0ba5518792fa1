"""Limits what a configuration file can do that its user may not have read: read secrets, and run a model's code.

`compose` uses both; `sweeper.jobs` and the commands that read a stored sweep check the second one themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError

__all__ = ["READABLE_VARIABLES", "REMOTE_CODE_VARIABLE", "check_remote_code", "limited_environment"]

READABLE_VARIABLES = ("HOME", "USER", "TMPDIR", "SCRATCH", "SLURM_JOB_ID", "SLURM_TMPDIR")
"""Variables that a configuration may read beside those that start with `_PREFIX`: folders and names, not secrets."""
REMOTE_CODE_VARIABLE = "SWEEPER_TRUST_REMOTE_CODE"
"""Names the models, separated by spaces, whose code may run although no override on the command line says so."""
_PREFIX = "SWEEPER_"
_RESOLVER = "oc.env"


@contextmanager
def limited_environment() -> Iterator[None]:
    """Let ``${oc.env:NAME}`` read only variables that are meant for configurations, during the block.

    Otherwise, a file from someone else could send ``${oc.env:HF_TOKEN}`` to an address of its own.

    Raises:
        ConfigError: A key reads another variable, instead of the error that OmegaConf's message became in the block.
    """
    refused: list[str] = []

    def read(name: str, *default: Any) -> str | None:
        if not name.startswith(_PREFIX) and name not in READABLE_VARIABLES:
            refused.append(name)
            raise PermissionError(name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver(_RESOLVER, read, replace=True)
    try:
        yield
    except ConfigError as error:
        if not refused:
            raise
        raise _refusal(error.key, refused[0]) from None
    finally:
        # The program that called `sweeper.run` may use OmegaConf itself.
        OmegaConf.register_new_resolver(_RESOLVER, oc.env, replace=True)


def check_remote_code(model: ModelSettings, *, source: str) -> None:
    """Check that the user has confirmed the code of a model, if a file asks to run it.

    Args:
        model: The model.
        source: What asks for it, e.g. ``the job mine.yaml``.

    Raises:
        ConfigError: `REMOTE_CODE_VARIABLE` does not name the model.
    """
    name = model.id or model.package
    if not model.trust_remote_code or name in os.environ.get(REMOTE_CODE_VARIABLE, "").split():
        return
    rule = f"{source} sets this, but only you can decide to run the code of {name}"
    remedy = (
        "If you trust its authors, write model.trust_remote_code=true on the command line of `sweeper run`, or set the "
        f"environment variable {REMOTE_CODE_VARIABLE}={name}."
    )
    raise ConfigError("model.trust_remote_code", "true", rule, remedy)


def _refusal(key: str, name: str) -> ConfigError:
    allowed = f"{', '.join(READABLE_VARIABLES)} and those that start with {_PREFIX}"
    rule = f"of the environment variables, a configuration can only read {allowed}"
    own = f"{_PREFIX}{name}"
    remedy = f'Choose such a name: export {own}="${name}", and write ${{oc.env:{own}}}.'
    return ConfigError(key, f"${{oc.env:{name}}}", rule, remedy)

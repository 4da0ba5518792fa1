"""Loads the frozen base model for a task; workers call it.

A classification head is newly initialised and never used, since each trial has its own. `device_choice` chooses number
type and attention kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeper.errors import ModelError, first_line
from sweeper.models.device_choice import PADDED_SDPA, SHORT

__all__ = ["KINDS", "load_model", "model_config", "quiet"]

KINDS = {"sequence_classification": "AutoModelForSequenceClassification", "causal_lm": "AutoModelForCausalLM"}
"""Classes of transformers by the kind of their head."""


def load_model(
    path: Path, *, kind: str, num_labels: int, dtype: torch.dtype, attention: str, trust_remote_code: bool = False
) -> nn.Module:
    """Load a model in evaluation mode, with all parameters frozen.

    Args:
        path: Folder with config.json, tokenizer and safetensors.
        kind: ``sequence_classification`` (with a new head) or ``causal_lm``.
        num_labels: Number of outputs of the new head.
        dtype: Type of all weights.
        attention: Attention kernel: ``eager``, ``sdpa``, `PADDED_SDPA` or `SHORT`.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        ModelError: transformers cannot load it.
    """
    import transformers

    if attention == SHORT:
        from sweeper.models import short_attention

        short_attention.register()
    elif attention == PADDED_SDPA:
        from sweeper.models import padded_attention

        padded_attention.register()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # so that the new head is the same in every process
            config = model_config(path, kind=kind, num_labels=num_labels, trust_remote_code=trust_remote_code)
            _set_pad_token(config, path, trust_remote_code=trust_remote_code)
            model: nn.Module = getattr(transformers, KINDS[kind]).from_pretrained(
                path, config=config, dtype=dtype, attn_implementation=attention, use_safetensors=True, **local
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(_failure(path, kind, attention, error)) from error
    return model.eval().requires_grad_(requires_grad=False)


def model_config(path: Path, *, kind: str, num_labels: int, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a model for a task, from config.json alone; for the arguments see `load_model`."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    if kind == "sequence_classification":
        config.num_labels, config.problem_type = num_labels, "single_label_classification"
    else:
        config.use_cache = False
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and progress bars of transformers, which warns about the new head on every load."""
    from transformers import utils

    logging: Any = utils.logging  # has no type stubs
    before, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


def _set_pad_token(config: Any, path: Path, *, trust_remote_code: bool) -> None:
    """Set the padding token that many configs leave out; classifiers that read a row's last token find it by that."""
    if getattr(config, "pad_token_id", None) is not None:
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _failure(path: Path, kind: str, attention: str, error: Exception) -> str:
    cause = first_line(error)
    head = "sequence classification head" if kind == "sequence_classification" else "language-model head"
    remedy = f"Choose a transformers model with a {head} and safetensors weights."
    if "attention" in cause:
        remedy = f"Set model.attention=eager instead of {attention}."
    if "trust_remote_code" in str(error):
        remedy = "If you trust the model's authors, set model.trust_remote_code=true."
    return f"{path} cannot be loaded: {cause} {remedy}"

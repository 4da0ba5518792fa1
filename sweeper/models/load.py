"""Load a frozen base model for a kind of task, and choose its number type and attention kernel; workers call it.

Its classification head is new and of no use: each trial brings its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeper.errors import ModelError
from sweeper.models.device_choice import SHORT

__all__ = ["load_model", "quiet"]

KINDS = {"sequence_classification": "AutoModelForSequenceClassification", "causal_lm": "AutoModelForCausalLM"}


def load_model(
    path: Path, *, kind: str, num_labels: int, dtype: torch.dtype, attention: str, trust_remote_code: bool = False
) -> nn.Module:
    """Load a model for a kind of task: evaluation mode, no parameter trainable.

    Args:
        path: Folder with config.json, tokenizer and safetensors.
        kind: ``sequence_classification`` (with a new head) or ``causal_lm``.
        num_labels: Outputs of the new head.
        dtype: Type of all weights.
        attention: ``eager`` or ``sdpa``.
        trust_remote_code: Run the model's own code.

    Raises:
        ModelError: transformers cannot load it.
    """
    import transformers

    if attention == SHORT:
        from sweeper.models.short_attention import register

        register()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the new head is the same in every process
            config = transformers.AutoConfig.from_pretrained(path, **local)
            if kind == "sequence_classification":
                config.num_labels, config.problem_type = num_labels, "single_label_classification"
            else:
                config.use_cache = False
            _set_pad_token(config, path, trust_remote_code=trust_remote_code)
            model: nn.Module = getattr(transformers, KINDS[kind]).from_pretrained(
                path, config=config, dtype=dtype, attn_implementation=attention, use_safetensors=True, **local
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(_failure(path, kind, attention, error)) from error
    return model.eval().requires_grad_(requires_grad=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers off the screen."""
    # That the head is newly initialised is what we want; transformers warns of it on every load.
    from transformers import utils

    chatter: Any = utils.logging  # without types
    before, shown = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(before)
        if shown:
            chatter.enable_progress_bar()


def _set_pad_token(config: Any, path: Path, *, trust_remote_code: bool) -> None:
    """Models that score the last token find it by the padding token; many configs name none."""
    if getattr(config, "pad_token_id", None) is not None:
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _failure(path: Path, kind: str, attention: str, error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    head = "sequence classification head" if kind == "sequence_classification" else "language-model head"
    remedy = f"Choose a transformers model that has a {head} and safetensors weights."
    if "attention" in said:
        remedy = f"Set model.attention=eager instead of {attention}."
    if "trust_remote_code" in str(error):
        remedy = "If you trust the model's authors, set model.trust_remote_code=true."
    return f"{path} cannot be loaded: {said} {remedy}"

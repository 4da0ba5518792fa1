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

from sweeper.errors import ConfigError, ModelError, did_you_mean

__all__ = ["choose_attention", "choose_dtype", "cpu_flags", "load_model", "quiet"]

SHORT = "sweeper_short"
"""See `attention`; named here so that no transformers is loaded."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
ATTENTIONS = ("eager", "sdpa", SHORT)
KINDS = {"sequence_classification": "AutoModelForSequenceClassification", "causal_lm": "AutoModelForCausalLM"}
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As Linux names them on x86 (the first two) and on ARM."""


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
        from sweeper.models.attention import register

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


def choose_dtype(
    wanted: str, device: torch.device | str, *, flags: frozenset[str] | None = None
) -> tuple[torch.dtype, str]:
    """Return the type of the frozen weights, and why.

    Args:
        wanted: The setting ``model.dtype``.
        device: Where the model will be.
        flags: Features of the CPU; those of this one if None.

    Raises:
        ConfigError: The setting is none of auto, bfloat16, float32.
    """
    if wanted in DTYPES:
        return DTYPES[wanted], f"{wanted}, as model.dtype says"
    if wanted != "auto":
        rule = f"must be auto, {' or '.join(DTYPES)}"
        raise ConfigError("model.dtype", wanted, rule, did_you_mean(wanted, ["auto", *DTYPES]))
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16, in which this GPU computes"
        return torch.float32, "float32: this GPU does not compute in bfloat16"
    found = sorted(BF16_FLAGS & (cpu_flags() if flags is None else flags))
    if torch.device(device).type == "cpu" and found:
        return torch.bfloat16, f"bfloat16, in which this CPU computes ({', '.join(found)})"
    return torch.float32, f"float32: this {torch.device(device).type.upper()} is not known to compute in bfloat16"


def choose_attention(wanted: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """Return the attention kernel, and why.

    Args:
        wanted: The setting ``model.attention``.
        device: Where the model will be.
        dtype: Type of its weights.

    Raises:
        ConfigError: There is no such kernel.
    """
    if wanted in ATTENTIONS:
        return wanted, f"{wanted}, as model.attention says"
    if wanted != "auto":
        rule = f"must be auto, {' or '.join(ATTENTIONS)}"
        raise ConfigError("model.attention", wanted, rule, did_you_mean(wanted, ["auto", *ATTENTIONS]))
    if torch.device(device).type == "cpu":
        if dtype is torch.bfloat16:
            return SHORT, f"{SHORT}: up to twice as fast as eager on short rows in bfloat16"
        return "eager", "eager: on a CPU the fused kernel's backward pass is several times slower"
    return "sdpa", "sdpa, the fused kernel of this GPU"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features of the CPU as Linux names them; none where it does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    names = ("flags", "Features")
    found = next((line for line in lines if line.split(":")[0].strip() in names), ":")
    return frozenset(found.split(":", maxsplit=1)[1].split())


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

"""The kind of a base model, which its default search space and recipes depend on: from config.json and the task alone.

`sweep.plan` asks when the model is known. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.models.targets import TARGETS

__all__ = ["count_parameters", "is_language_model", "kind_of"]

_ENCODERS = frozenset(
    ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta-v2", "distilbert", "mpnet", "modernbert")
)
"""Architectures of `TARGETS` that read a text as a whole; the others continue it."""
_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the classes of language models end, for architectures that are not in `TARGETS`."""
_UNGATED = ("gpt2", "gpt_neox", "opt", "phi")
"""Architectures of `TARGETS` whose feed-forward layers have two matrices instead of three."""
_TIED = ("gpt2", "opt", "gemma", "gemma2", "gemma3_text", "smollm3")
"""Architectures of `TARGETS` whose input and output embeddings are one matrix unless config.json says otherwise."""
_LARGE = 10**9
"""Parameters from which on a language model is trained with the learning rates of large ones."""


def kind_of(architecture: Mapping[str, Any], *, has_head: bool) -> str:
    """Return the kind of a model, one of `sweeper.config.settings.MODEL_KINDS`.

    Args:
        architecture: Content of its config.json.
        has_head: Whether the task adds a head. A task without one continues texts, so its models are language models.
    """
    if has_head and not is_language_model(architecture):
        return "encoder"
    # A size that cannot be told counts as large: learning rates that are too low cost time, too high ones diverge.
    return "small_language_model" if 0 < count_parameters(architecture) < _LARGE else "language_model"


def is_language_model(architecture: Mapping[str, Any]) -> bool:
    """Whether a model continues texts, by the content of its config.json."""
    model_type = architecture.get("model_type")
    if model_type in TARGETS:
        return model_type not in _ENCODERS
    return any(str(name).endswith(_CAUSAL) for name in architecture.get("architectures") or ())


def count_parameters(architecture: Mapping[str, Any]) -> int:
    """Return how many parameters a decoder has: its embeddings and the matrices of its blocks, within a few percent.

    Args:
        architecture: Content of its config.json.

    Returns:
        The number; 0 if config.json does not give the sizes.
    """
    sizes = {
        "width": _size(architecture, "hidden_size", "n_embd", "d_model"),
        "layers": _size(architecture, "num_hidden_layers", "n_layer"),
        "heads": _size(architecture, "num_attention_heads", "n_head"),
        "tokens": _size(architecture, "vocab_size"),
    }
    if not all(sizes.values()):
        return 0
    width, heads = sizes["width"], sizes["heads"]
    head_width = _size(architecture, "head_dim") or width // heads
    key_heads = _size(architecture, "num_key_value_heads") or heads
    inner = _size(architecture, "intermediate_size", "ffn_dim", "n_inner") or 4 * width
    experts = max(1, _size(architecture, "num_local_experts", "num_experts"))
    model_type = architecture.get("model_type")
    matrices = 2 if model_type in _UNGATED else 3
    block = 2 * width * head_width * (heads + key_heads) + matrices * width * inner * experts
    embeddings = 1 if architecture.get("tie_word_embeddings", model_type in _TIED) else 2
    return embeddings * sizes["tokens"] * width + sizes["layers"] * block


def _size(architecture: Mapping[str, Any], *names: str) -> int:
    """Return the first of some sizes that config.json gives; 0 if it gives none."""
    found = (architecture.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)

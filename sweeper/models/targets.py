"""The linear layers that get an adapter, by architecture: all those inside the transformer blocks.

LoRA matches full fine-tuning when every linear layer of a block is adapted, not only query and value (QLoRA, Dettmers
et al. 2023, arXiv:2305.14314, figure 2). Names are suffixes as in PEFT: ``x`` matches the module ``x`` and every module
whose name ends in ``.x``. They do not match poolers or heads. Importing this module loads no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from sweeper.errors import ModelError, did_you_mean

__all__ = ["TARGETS", "group_targets", "targets_for"]

_BERT = ("query", "key", "value", "intermediate.dense", "output.dense")
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

TARGETS: dict[str, tuple[str, ...]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "intermediate.dense", "output.dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "mpnet": ("attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"),
    "modernbert": ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
    "llama": _LLAMA,
    "smollm3": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": ("q_proj", "k_proj", "v_proj", "self_attn.dense", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
"""Suffixes of module names, by ``model_type`` of config.json."""


_SAME_INPUT = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("gate_proj", "up_proj"),
)
"""Names of sibling layers that read the same tensor."""


def group_targets(targets: Sequence[str], *, alone: Collection[str] = ()) -> list[list[str]]:
    """Return the targets in their order, with those that read the same tensor in one group.

    Args:
        targets: Full names of layers; only neighbours are grouped.
        alone: Targets that read a tensor of their own, although their names are those of siblings.
    """

    def input_of(name: str) -> str:
        parent, _, child = name.rpartition(".")
        siblings = next((names for names in _SAME_INPUT if child in names), ())
        return name if name in alone or not siblings else f"{parent}.{siblings}"

    return [list(group) for _, group in itertools.groupby(targets, key=input_of)]


def targets_for(model_type: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the suffixes of the layers that get an adapter.

    Args:
        model_type: As in the model's config.json, e.g. ``bert``.
        wanted: The setting ``model.target_modules``; returned as it is unless it is empty.

    Raises:
        ModelError: ``wanted`` is empty and the architecture is unknown.
    """
    if wanted:
        return tuple(wanted)
    if model_type not in TARGETS:
        raise ModelError(
            f"no LoRA targets are known for the architecture '{model_type}'. {did_you_mean(model_type, TARGETS)} "
            f"Known architectures: {', '.join(sorted(TARGETS))}. Set model.target_modules to the names of the linear "
            f"layers in a block, e.g. 'model.target_modules=[q_proj,v_proj]'; print(model) lists them."
        )
    return TARGETS[model_type]

"""Computes the last layer of an encoder for the first token only, where a classifier reads no other.

A classifier of the BERT family pools the first token of the last layer. Of the other tokens it needs only keys and
values; the rest of that layer is never read, which is a seventh of all arithmetic with six layers. The result is the
same. `sweeper.train` installs this, and turns it off while it needs the states of all tokens.

Shapes: T tokens of a row, I width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward

__all__ = ["all_tokens", "narrow_layers", "read_first_token", "reads_first_token"]

_FAMILY = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})
"""Architectures whose classification heads read the first token, and whose layers have the parts of a `BertLayer`."""


def read_first_token(model: nn.Module) -> None:
    """Compute the last layer of a classifier for its first token only, if its architecture is known to read no other.

    Args:
        model: Loaded with ``kind="sequence_classification"``.
    """
    if not reads_first_token(model):
        return
    base: Any = getattr(model, str(model.base_model_prefix))
    last = base.encoder.layer[-1]
    last.attention = _FirstTokenAttention(last.attention)


def reads_first_token(model: nn.Module) -> bool:
    """Whether the head of a classifier is known to read the first token only."""
    config: Any = model.config
    return config.model_type in _FAMILY and not config.is_decoder


@contextmanager
def all_tokens(model: nn.Module) -> Iterator[None]:
    """Compute the last layer for all tokens while the context is open."""
    layers = [module for module in model.modules() if isinstance(module, _FirstTokenAttention)]
    for layer in layers:
        layer.is_narrow = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_narrow = True


def narrow_layers(model: nn.Module) -> frozenset[str]:
    """Return the names of the layers whose input is the first token only, unlike that of their siblings."""
    found = (name for name, module in model.named_modules() if isinstance(module, _FirstTokenAttention))
    return frozenset(f"{name}.self.query" for name in found)


class _FirstTokenAttention(nn.Module):
    """Replaces a `BertAttention`; its parts keep their names, so the targets of adapters do, too."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.self, self.output = attention.self, attention.output
        self.is_narrow = True

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Map ``[rows, T, I]`` to ``[rows, 1, I]``, or to ``[rows, T, I]`` within `all_tokens`."""
        # Slices keep the dimension of length 1: the kernels and everything after them see rows of one query.
        kwargs.pop("past_key_values", None)
        queried = hidden_states[:, :1] if self.is_narrow else hidden_states
        mask = attention_mask[:, :, :1] if self.is_narrow and attention_mask is not None else attention_mask
        inner = self.self
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(inner.config._attn_implementation, eager_attention_forward)
        query, key, value = (
            layer(states).unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2)
            for layer, states in ((inner.query, queried), (inner.key, hidden_states), (inner.value, hidden_states))
        )
        attended, _ = attend(inner, query, key, value, mask, dropout=0.0, scaling=inner.scaling, **kwargs)
        return self.output(attended.reshape(*queried.shape[:-1], -1), queried), None

"""The last layer of an encoder whose first token alone is read: queries and everything after them for that token only.

A classifier of the BERT family pools the first token of the last layer. What that layer does for the other tokens,
beyond their keys and values, is never read: with six layers a seventh of all arithmetic. The result is the same.
`sweeper.train` installs it and, to see the states of all tokens, suspends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward

__all__ = ["all_tokens", "narrow_layers", "read_first_token"]

_FAMILY = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})
"""Architectures whose classification heads read the first token, and whose layers have the parts of a `BertLayer`."""


def read_first_token(model: nn.Module) -> None:
    """Make the last layer of a classifier work for its first token only, if the architecture is known to read no other.

    Args:
        model: Loaded with ``kind="sequence_classification"``.
    """
    config: Any = model.config
    if config.model_type not in _FAMILY or config.is_decoder:
        return
    base: Any = getattr(model, str(model.base_model_prefix))
    last = base.encoder.layer[-1]
    last.attention = _FirstTokenAttention(last.attention)


@contextmanager
def all_tokens(model: nn.Module) -> Iterator[None]:
    """Let the last layer work for all tokens meanwhile."""
    layers = [module for module in model.modules() if isinstance(module, _FirstTokenAttention)]
    for layer in layers:
        layer.is_narrow = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_narrow = True


def narrow_layers(model: nn.Module) -> frozenset[str]:
    """Return the names of the layers that see the first token only while their siblings see all."""
    found = (name for name, module in model.named_modules() if isinstance(module, _FirstTokenAttention))
    return frozenset(f"{name}.self.query" for name in found)


class _FirstTokenAttention(nn.Module):
    """Stands in the place of a `BertAttention`, with its parts under their own names."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.self, self.output = attention.self, attention.output
        self.is_narrow = True

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Map ``[rows, T, I]`` to ``[rows, 1, I]``, or to ``[rows, T, I]`` while suspended."""
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

"""Tells dropout of hidden states from dropout of attention, which ``model.dropout`` leaves off.

Architectures differ: most never call their layer for attention probabilities, DeBERTa and MPNet do.
"""

from __future__ import annotations

from torch import nn

from sweeper.errors import ModelError

__all__ = ["hidden_dropouts", "no_dropout_layers"]

_QUERIES = frozenset({"query", "query_proj", "q", "q_lin"})
"""Names of the layers of queries: a layer named ``dropout`` beside one of them drops attention probabilities."""
_OF_ATTENTION = "attn_dropout"


def hidden_dropouts(model: nn.Module) -> dict[str, int]:
    """Return the dropout layers of hidden states by name, each with its position among all dropout layers."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    return {name: position for position, name in enumerate(names) if not _is_of_attention(model, name)}


def no_dropout_layers(model: str, probability: float) -> ModelError:
    """Return the error of a model, by its architecture, that cannot have the dropout that the settings ask for."""
    return ModelError(f"model.dropout={probability:g}: {model} has no dropout layers. Set model.dropout=0.")


def _is_of_attention(model: nn.Module, name: str) -> bool:
    parent, _, leaf = name.rpartition(".")
    siblings = {child for child, _ in model.get_submodule(parent).named_children()}
    return leaf == _OF_ATTENTION or (leaf == "dropout" and bool(siblings & _QUERIES))

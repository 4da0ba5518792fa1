"""Reads the sizes of a base model from config.json: transformers builds it on the meta device, which holds no values.

`sweeper plan` calls this before any weight is fetched. The layers that are adapted are found by the same function as in
a worker, `adapted_layers`, so counts of parameters are exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeper.errors import ModelError, first_line
from sweeper.figures.model_shapes import BlockShapes, HeadShape, LoraShape, ModelShapes
from sweeper.models.first_token import reads_first_token
from sweeper.models.hidden_dropout import hidden_dropouts
from sweeper.models.linear import is_linear, layers_in_blocks, num_parameters, weight_of
from sweeper.models.load import model_config, quiet
from sweeper.models.targets import group_targets, targets_for

__all__ = ["adapted_layers", "read_shapes", "shapes_of"]

_BLOCK = re.compile(r"^(.*?\.)(\d+)\.")
_READ_AGAIN = {"deberta-v2": ("key_proj", "value_proj"), "phi": ("fc1",)}
"""Layers that read the same tensor as a layer before them, but are not multiplied as one with it, by architecture."""
_DROPS_TWICE = ("phi",)
"""Architectures that call the dropout layer of a block for the attention and for the MLP."""
_DROPS_INNER = "mlp.drop"
"""Name of ModernBERT's dropout layer between the linear layers of the MLP."""
_POST_NORM = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta-v2", "distilbert", "mpnet")
"""Architectures whose blocks normalise their outputs."""
_PYTHON_GELU = ("gelu_new", "gelu_fast", "gelu_python")
"""Activation functions of several operations, which together save four tensors."""
_CLASSIFIER_DECODER = "score"
"""Name of the head of decoders that classify; it reads every token."""


def adapted_layers(
    model: nn.Module, suffixes: Sequence[str], head_modules: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the names of the linear layers that get an adapter, and of those that each trial trains in full.

    Args:
        model: The model.
        suffixes: Ends of the names of adapted layers; see `targets_for`.
        head_modules: Names of the modules of the task head.

    Raises:
        ModelError: No layer can have an adapter.
    """
    linear = [name for name, module in model.named_modules() if is_linear(module)]
    head = [name for name in linear if name.split(".")[0] in head_modules]
    ends = tuple(f".{suffix}" for suffix in suffixes)
    targets = [name for name in linear if name not in head and f".{name}".endswith(ends)]
    if not targets:
        raise ModelError(
            f"no linear layer of the model has a name that ends in {', '.join(suffixes)}. Set model.target_modules to "
            "the names of its linear layers."
        )
    return targets, head


def read_shapes(
    folder: Path,
    *,
    kind: str,
    num_labels: int,
    target_modules: Sequence[str],
    head_modules: Callable[[nn.Module], Sequence[str]],
    trust_remote_code: bool = False,
) -> ModelShapes:
    """Return the sizes of a model of which only config.json is needed.

    Args:
        folder: Folder with config.json.
        kind: ``sequence_classification`` (with a new head) or ``causal_lm``.
        num_labels: Number of outputs of the new head.
        target_modules: The setting ``model.target_modules``.
        head_modules: Returns the names of the modules that each trial trains in full.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        ModelError: transformers does not know the model, or no layer can have an adapter.
    """
    import transformers

    from sweeper.models.load import KINDS

    try:
        with quiet(), torch.device("meta"):
            config = model_config(folder, kind=kind, num_labels=num_labels, trust_remote_code=trust_remote_code)
            if getattr(config, "pad_token_id", None) is None:
                config.pad_token_id = 0  # some models cannot be built without one; sizes do not depend on it
            auto = getattr(transformers, KINDS[kind])
            model: nn.Module = auto.from_config(config, trust_remote_code=trust_remote_code).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} describes no model that can be planned: {first_line(error)}"
        ) from error
    return shapes_of(model, target_modules=target_modules, head_modules=head_modules(model), kind=kind)


def shapes_of(
    model: nn.Module, *, target_modules: Sequence[str], head_modules: Sequence[str], kind: str
) -> ModelShapes:
    """Return the sizes of a model, which may be on the meta device and must not be packed yet.

    Args:
        model: The model.
        target_modules: The setting ``model.target_modules``.
        head_modules: Names of the modules that each trial trains in full.
        kind: As for `read_shapes`.

    Raises:
        ModelError: No layer can have an adapter.
    """
    config: Any = model.config
    suffixes = targets_for(config.model_type, target_modules)
    targets, head = adapted_layers(model, suffixes, head_modules)
    inside = layers_in_blocks(model)
    weights = {name: weight_of(model.get_submodule(name)) for name in {*targets, *head, *inside}}
    lora = tuple(LoraShape(name, weights[name].shape[1], weights[name].shape[0]) for name in targets)
    in_head = sum(parameter.numel() for name in head for parameter in model.get_submodule(name).parameters())
    return ModelShapes(
        model_type=config.model_type,
        parameters=num_parameters(model) - in_head,
        quantisable=sum(weights[name].numel() for name in inside),
        quantisable_rows=sum(len(weights[name]) for name in inside),
        dequantised=_dequantised(weights, targets, inside),
        width=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        longest=int(getattr(config, "max_position_embeddings", 0) or 0),
        block=_block(model, lora, {name: weights[name] for name in inside}),
        has_pre_norm=config.model_type not in _POST_NORM,
        reads_first_token=kind == "sequence_classification" and reads_first_token(model),
        has_token_loss=kind == "causal_lm",
        head_reads_tokens=any(name == _CLASSIFIER_DECODER for name in head),
        lora=lora,
        head=tuple(_head_shape(model, name) for name in head),
    )


def _dequantised(weights: dict[str, torch.Tensor], targets: Sequence[str], inside: Sequence[str]) -> int:
    # Only adapted layers are grouped (`sweeper.train.packed`); the others are multiplied one by one.
    groups = [*group_targets(targets), *([name] for name in inside)]
    sizes = ([weights[name].numel() for name in group] for group in groups)
    return max(sum(each) + (max(each) if len(each) > 1 else 0) for each in sizes)


def _head_shape(model: nn.Module, name: str) -> HeadShape:
    layer = model.get_submodule(name)
    weight = weight_of(layer)
    return HeadShape(name, weight.shape[1], weight.shape[0], getattr(layer, "bias", None) is not None)


def _block(model: nn.Module, lora: Sequence[LoraShape], inside: dict[str, torch.Tensor]) -> BlockShapes:
    config: Any = model.config
    heads, layers, width = config.num_attention_heads, config.num_hidden_layers, config.hidden_size
    per_head = getattr(config, "head_dim", None) or width // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    inner, is_gated = _inner_width(config), any("gate" in name or name.endswith(".Wi") for name in inside)
    activation = str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", ""))
    activation = str(getattr(config, "hidden_activation", None) or activation)
    is_inner_adapted = any(shape.num_in == inner for shape in lora)
    saves = 3 if is_gated else 4 if activation.startswith(_PYTHON_GELU) else 1
    is_relu = activation == "relu" and not is_gated  # its result is what it saves, and also the next layer's input
    groups = group_targets([shape.name for shape in lora])
    num_in = {shape.name: shape.num_in for shape in lora}
    again = _READ_AGAIN.get(config.model_type, ())
    dropped = sum(num_in[names[0]] for names in groups)
    repeated = sum(num_in[names[0]] for names in groups if names[0].rpartition(".")[2] in again)
    norms = _norms(model, heads=heads, key_heads=key_heads)
    is_parallel = config.model_type == "phi" or bool(getattr(config, "use_parallel_residual", False))
    at_width = [values for values, _ in norms if values == width]
    return BlockShapes(
        heads=heads,
        query=heads * per_head,
        key=key_heads * per_head,
        inner=inner,
        adapted=len(lora) / layers,
        inputs=(dropped - repeated) / layers,
        dropped_inputs=dropped / layers,
        activation=0 if is_relu and is_inner_adapted else saves * inner,
        dropped_activation=inner if is_relu and is_inner_adapted else 0,
        dropped=_dropped(model, width=width, inner=inner),
        # Parallel branches normalise one and the same tensor.
        norm=sum(values for values, _ in norms) - (sum(at_width[1:]) if is_parallel else 0),
        has_rms_norm=any(is_rms for _, is_rms in norms),
        normalises_queries=any(name.endswith(".q_norm") for name, _ in model.named_modules()),
        caps_scores=getattr(config, "attn_logit_softcapping", None) is not None,
        has_rotary=any("rotary" in name for name, _ in model.named_modules()),
    )


def _dropped(model: Any, *, width: int, inner: int) -> int:
    last = f".{model.config.num_hidden_layers - 1}."
    names = [name for name in hidden_dropouts(model) if (match := _BLOCK.match(name)) and f".{match[2]}." == last]
    times = 2 if model.config.model_type in _DROPS_TWICE else 1
    return times * sum(inner if name.endswith(_DROPS_INNER) else width for name in names)


def _inner_width(config: Any) -> int:
    for name in ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim"):
        if value := getattr(config, name, None):
            return int(value)
    return 4 * int(config.hidden_size)  # GPT-2's n_inner of None


def _norms(model: Any, *, heads: int, key_heads: int) -> list[tuple[int, bool]]:
    """Return how many values per token each normalisation of the last block reads, and whether it is an RMS norm."""
    found = []
    config: Any = model.config
    last = f".{config.num_hidden_layers - 1}."
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        kind = type(module).__name__
        match = _BLOCK.match(name)
        if match and f".{match[2]}." == last and "Norm" in kind and isinstance(weight, torch.Tensor):
            leaf = name.rpartition(".")[2]
            per_head = {"q_norm": heads, "k_norm": key_heads} if len(weight) < config.hidden_size else {}
            repeats = per_head.get(leaf, 1)
            found.append((len(weight) * repeats, "RMSNorm" in kind))
    return found

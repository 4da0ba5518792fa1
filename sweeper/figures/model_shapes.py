"""The sizes of a base model that memory, parameters and disk space follow from. `sweeper.models.shapes` reads them.

They come from config.json alone: no weights are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "FUSED_MODELS",
    "BlockShapes",
    "HeadShape",
    "LoraShape",
    "ModelShapes",
    "bucket_rank",
    "trainable_parameters",
]

_SMALLEST_BUCKET = 8


@dataclass(frozen=True, slots=True)
class LoraShape:
    """An adapted linear layer."""

    name: str
    num_in: int
    num_out: int


@dataclass(frozen=True, slots=True)
class HeadShape:
    """A linear layer of the task head, trained in full."""

    name: str
    num_in: int
    num_out: int
    has_bias: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockShapes:
    """One transformer block, in values per token."""

    heads: int
    query: int
    """Width of all queries: heads times their width."""
    key: int
    """Width of all keys, which is that of the values."""
    inner: int
    """Width between the linear layers of the MLP."""
    adapted: float
    """Number of adapted layers, a mean over the blocks."""
    inputs: float
    """Widths of the inputs of the adapted layers; what several of them read counts once."""
    dropped_inputs: float
    """The same with dropout: layers that are not multiplied as one then have an input of their own."""
    activation: int
    """What the activation function of the MLP saves for the backward pass."""
    dropped_activation: int
    """What it saves beyond that if the input of the next layer is dropped, so that the two share no tensor."""
    dropped: int
    """Hidden states that dropout layers of the model drop, if ``model.dropout`` is set."""
    norm: int
    """Inputs of the normalisations."""
    has_rms_norm: bool
    """Whether they are normalised in float32, as in Llama; a LayerNorm saves its input in the type of the weights."""
    normalises_queries: bool
    """Whether queries and keys are normalised, too, as in Qwen 3."""
    caps_scores: bool
    """Whether attention scores go through a tanh, as in Gemma 2."""
    has_rotary: bool


FUSED_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Architectures whose norms, rotary embeddings and gates are those of Llama: one kernel each on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShapes:
    """A base model, and the layers that trials train."""

    model_type: str
    """Architecture, as in config.json."""
    parameters: int
    """Parameters of the frozen model. A head that every trial has for itself is not among them."""
    quantisable: int
    """Those that a quantised model keeps in fewer bits: the weights of the linear layers of the blocks."""
    quantisable_rows: int
    """Outputs of these layers."""
    dequantised: int
    """Most of their weights that exist dequantised at once: those of one product, and one of its layers again if it has
    several."""
    width: int
    num_layers: int
    vocabulary: int
    longest: int
    """Most tokens of a row; 0 if the model has no limit."""
    block: BlockShapes
    has_pre_norm: bool
    """Whether a block normalises its input, as in decoders, and not its output, as in BERT."""
    reads_first_token: bool
    """Whether the last block is computed for the first token only (`sweeper.models.first_token`)."""
    has_token_loss: bool
    """Whether tokens are predicted. If not, a head classifies rows."""
    head_reads_tokens: bool
    """Whether the head is computed for every token, as in classifiers that are decoders."""
    lora: tuple[LoraShape, ...]
    head: tuple[HeadShape, ...]

    def trainable(self, rank: int) -> int:
        """Return the trainable parameters of a trial."""
        return trainable_parameters(self.lora, self.head, rank)


def trainable_parameters(lora: Sequence[LoraShape], head: Sequence[HeadShape], rank: int) -> int:
    """Return the values of all A and B matrices of a rank, and of the task head."""
    adapters = rank * sum(shape.num_in + shape.num_out for shape in lora)
    return adapters + sum(shape.num_out * (shape.num_in + shape.has_bias) for shape in head)


def bucket_rank(rank: int) -> int:
    """Return the rank that a lane is padded to: a power of two, at least 8, so that there are few buckets."""
    return max(_SMALLEST_BUCKET, 1 << (rank - 1).bit_length())

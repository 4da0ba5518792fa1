"""How likely a language model finds given tokens, without logits of more than a few hundred places in memory at once.

Cross-entropy through the frozen output layer: its gradient is known as soon as the logits are (softmax minus one-hot),
so each block's is taken back to the hidden states at once, and the logits go. `causal_lm` calls it. No task itself.

As in transformers, logits are made in the type of the weights. Those of the tokens asked for are made in float32: in
bfloat16 neighbouring logits are 0.06 to 0.12 apart, and choices would tie.

Shapes: N tokens asked for, B rows, S places of a row, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.errors import ModelError

__all__ = ["OutputLayer", "TokenLoss", "log_likelihoods", "output_layer"]

BLOCK = 256
"""Places whose logits are in memory at once: 50 MB in float32 for a vocabulary of 49,152."""
_OTHER_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "mup_base_width")


class OutputLayer(NamedTuple):
    """What turns hidden states into logits."""

    weight: torch.Tensor
    """``[V, H]``."""
    bias: torch.Tensor | None
    """``[V]``."""
    softcap: float | None
    """Logits are ``softcap * tanh(logits / softcap)`` if it is given, as in Gemma 2 (arXiv:2408.00118)."""

    def logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Return logits of places, ``[N, V]`` float32."""
        return self._capped(F.linear(states_NH, self.weight, self.bias).float())

    def logits_of(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logit of one token for each hidden state, multiplied in float32."""
        logits = (states.float() * self.weight[tokens].float()).sum(-1)
        return self._capped(logits if self.bias is None else logits + self.bias[tokens].float())

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def output_layer(model: nn.Module) -> OutputLayer:
    """Return a model's output layer.

    Raises:
        ModelError: It is of a kind that is not known here.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    config: Any = model.config
    scaled = [name for name in _OTHER_SCALES if getattr(config, name, None) not in (None, 1, 1.0)]
    if not isinstance(layer, nn.Linear) or scaled:
        what = f"scales its logits by {scaled[0]}" if scaled else f"has a {type(layer).__name__} as output layer"
        raise ModelError(
            f"{type(model).__name__} {what}, which causal_lm does not know. Choose another model, and leave the output "
            "layer out of model.target_modules."
        )
    return OutputLayer(layer.weight, layer.bias, getattr(config, "final_logit_softcapping", None))


class TokenLoss(torch.autograd.Function):
    """Negative log-likelihood of a token after each hidden state: ``[N, H]``, ``[N]`` to ``[N]`` float32."""

    @staticmethod
    def forward(ctx: Any, states_NH: torch.Tensor, tokens_N: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
        """Compute loss and gradient, block by block."""
        nll_N = torch.empty(len(tokens_N), device=states_NH.device)
        grad_NH = torch.empty_like(states_NH) if ctx.needs_input_grad[0] else None
        for first in range(0, len(tokens_N), BLOCK):
            block = slice(first, first + BLOCK)
            states, tokens = states_NH[block], tokens_N[block, None]
            logits = layer.logits(states)
            exact = layer.logits_of(states, tokens[:, 0])
            logits.scatter_(1, tokens, exact[:, None])
            total = logits.logsumexp(1, keepdim=True)
            nll_N[block] = total[:, 0] - exact
            if grad_NH is not None:
                grad_NH[block] = _gradient(logits, total, tokens, layer)
        ctx.save_for_backward(grad_NH)
        return nll_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient."""
        (grad_NH,) = ctx.saved_tensors
        return grad_NH * grads[0][:, None].to(grad_NH.dtype), None, None


def _gradient(logits: torch.Tensor, total: torch.Tensor, tokens: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
    """Return the gradient of hidden states; ``logits`` is used up."""
    slope = None if layer.softcap is None else 1 - (logits / layer.softcap).square()
    share = logits.sub_(total).exp_()
    share.scatter_add_(1, tokens, share.new_full(tokens.shape, -1.0))
    if slope is not None:
        share *= slope
    return share.to(layer.weight.dtype) @ layer.weight


@torch.no_grad()
def log_likelihoods(
    states_BSH: torch.Tensor, place_N: torch.Tensor, token_N: torch.Tensor, layer: OutputLayer
) -> torch.Tensor:
    """Return the log-likelihood of the same tokens in every row, ``[B, N]`` float32.

    Args:
        states_BSH: Hidden states of each row's places.
        place_N: The place after which each token stands.
        token_N: The tokens.
        layer: The model's output layer.
    """
    found = []
    rows = max(1, BLOCK // states_BSH.shape[1])
    for states in torch.split(states_BSH, rows):
        logits = layer.logits(states.flatten(0, 1)).view(*states.shape[:2], -1)
        exact_bN = layer.logits_of(states[:, place_N], token_N)
        logits[:, place_N, token_N] = exact_bN
        found.append(exact_bN - logits.logsumexp(2)[:, place_N])
    return torch.cat(found)

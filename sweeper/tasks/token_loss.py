"""Log-likelihoods of given tokens, with the logits of only a few hundred positions in memory at once.

The loss is the cross-entropy through the frozen output layer. Its gradient is known as soon as the logits are (softmax
minus one-hot), so it is propagated to the hidden states block by block, and the logits are dropped. `causal_lm` calls
this.

As in transformers, logits are computed in the type of the weights. Those of the target tokens are computed in float32:
neighbouring bfloat16 logits are 0.06 to 0.12 apart, so choices would tie.

Shapes: N target tokens, B rows, b rows of a block, S positions of a row, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.errors import ModelError
from sweeper.figures.memory import POSITIONS_OF_LOGITS

__all__ = ["OutputLayer", "TokenLoss", "log_likelihoods", "output_layer"]

BLOCK = POSITIONS_OF_LOGITS
"""Positions whose logits are in memory at once."""
_OTHER_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "mup_base_width")


class OutputLayer(NamedTuple):
    """The layer that maps hidden states to logits."""

    weight: torch.Tensor
    """``[V, H]``."""
    bias: torch.Tensor | None
    """``[V]``."""
    softcap: float | None
    """If set, logits are ``softcap * tanh(logits / softcap)``, as in Gemma 2 (arXiv:2408.00118)."""

    def logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Return the logits of positions, ``[N, V]`` float32."""
        return self._capped(F.linear(states_NH, self.weight, self.bias).float())

    def logits_of(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logit of one token for each hidden state, computed in float32."""
        logits = (states.float() * self.weight[tokens].float()).sum(-1)
        return self._capped(logits if self.bias is None else logits + self.bias[tokens].float())

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def output_layer(model: nn.Module) -> OutputLayer:
    """Return a model's output layer.

    Raises:
        ModelError: It is not an `nn.Linear`, or the model scales its logits.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    config: Any = model.config
    scaled = [name for name in _OTHER_SCALES if getattr(config, name, None) not in (None, 1, 1.0)]
    if not isinstance(layer, nn.Linear) or scaled:
        what = f"scales its logits by {scaled[0]}" if scaled else f"has a {type(layer).__name__} as output layer"
        raise ModelError(
            f"{type(model).__name__} {what}, which causal_lm does not support. Leave the output layer out of "
            f"model.target_modules, or choose another model."
        )
    return OutputLayer(layer.weight, layer.bias, getattr(config, "final_logit_softcapping", None))


class TokenLoss(torch.autograd.Function):
    """Negative log-likelihood of one token after each hidden state: maps ``[N, H]`` and ``[N]`` to ``[N]`` float32."""

    @staticmethod
    def forward(ctx: Any, states_NH: torch.Tensor, tokens_N: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
        """Compute loss and gradient block by block."""
        nll_N = torch.empty(len(tokens_N), device=states_NH.device)
        grad_NH = torch.empty_like(states_NH) if ctx.needs_input_grad[0] else None
        for first in range(0, len(tokens_N), BLOCK):
            block = slice(first, first + BLOCK)
            states, tokens = states_NH[block], tokens_N[block, None]
            logits = layer.logits(states)
            # The target's exact logit replaces the rounded one in the sum as well, so that no probability exceeds 1.
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
        """Scale the gradient of the forward pass."""
        (grad_NH,) = ctx.saved_tensors
        return grad_NH * grads[0][:, None].to(grad_NH.dtype), None, None


def _gradient(logits: torch.Tensor, total: torch.Tensor, tokens: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
    """Return the gradient of the hidden states; overwrites ``logits``."""
    # d tanh: logits are capped already, so 1 - tanh² can be read off them.
    slope = None if layer.softcap is None else 1 - (logits / layer.softcap).square()
    share = logits.sub_(total).exp_()
    share.scatter_add_(1, tokens, share.new_full(tokens.shape, -1.0))
    if slope is not None:
        share *= slope
    return share.to(layer.weight.dtype) @ layer.weight


@torch.no_grad()
def log_likelihoods(
    states_BSH: torch.Tensor, position_N: torch.Tensor, token_N: torch.Tensor, layer: OutputLayer
) -> torch.Tensor:
    """Return the log-likelihood of the same tokens in every row, ``[B, N]`` float32.

    Args:
        states_BSH: Hidden states of each row's positions.
        position_N: Position that predicts each token.
        token_N: The tokens.
        layer: The model's output layer.
    """
    found = []
    rows = max(1, BLOCK // states_BSH.shape[1])
    for states in torch.split(states_BSH, rows):
        logits = layer.logits(states.flatten(0, 1)).view(*states.shape[:2], -1)
        # As in `TokenLoss`: the exact logits of the targets replace the rounded ones before the sum.
        exact_bN = layer.logits_of(states[:, position_N], token_N)
        logits[:, position_N, token_N] = exact_bN
        found.append(exact_bN - logits.logsumexp(2)[:, position_N])
    return torch.cat(found)

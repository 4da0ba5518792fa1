"""Completions of prompts by a language model: loss and perplexity a token, and accuracy where completions are choices.

Only tokens of completions bear a loss, their end included; what pads a row never does, whatever token it is. Logits are
made at these tokens alone and a block at a time, never for whole rows: a vocabulary is 100 times as wide as a model.

Where completions are a closed set, all choices of a row are scored in one sequence: its prompt, then every choice, none
of which sees another. So a row costs little more than its prompt, however many choices there are.

Shapes: B rows, T tokens of a row, P tokens of the longest prompt, C tokens of all choices, N tokens that bear a loss,
H hidden width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.tasks.base import Batch, Examples

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sweeper.data.base import TokenisedSplits

__all__ = ["Task"]

_FIXED = 2
"""Outputs before the scores of the choices: loss and number of tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A language model that learns what to say to a prompt."""

    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of each choice with its end; empty if completions are open."""

    peft_task_type = "CAUSAL_LM"
    metrics = ("accuracy", "loss", "perplexity")
    has_probe = False
    model_kind = "causal_lm"
    takes_completions = True

    def of(self, tokens: TokenisedSplits) -> Task:
        """Return the task with the choices of a dataset."""
        return Task(tokens.choices)

    def default_metric(self, num_labels: int) -> str:
        """Return accuracy for a closed set of completions, else the loss."""
        return "accuracy" if num_labels else "loss"

    def direction(self, metric: str) -> str:
        """Return ``maximize`` for the accuracy, ``minimize`` otherwise."""
        return "maximize" if metric == "accuracy" else "minimize"

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002 - a task like the others
        """Return none: the model's own output layer is used, frozen."""
        return ()

    def check(self, model: nn.Module) -> None:
        """Check that logits can be made from hidden states.

        Raises:
            ModelError: The output layer is adapted, or of a kind that is not known.
        """
        from sweeper.tasks.token_loss import output_layer

        output_layer(model)

    def examples(self, tokens: TokenisedSplits, split: str) -> Examples:
        """Return rows, each with the tokens before its completion and its choice; it counts its completion's tokens."""
        rows = getattr(tokens, split)
        prompts, lengths = list(rows["prompt"]), list(rows["length"])
        targets = [[prompt, label] for prompt, label in zip(prompts, rows["label"], strict=True)]
        weights = [float(length - prompt) for length, prompt in zip(lengths, prompts, strict=True)]
        return Examples(list(rows["input_ids"]), targets, weights)

    def row_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the negative log-likelihood of each row's completion, ``[B]``."""
        import torch

        from sweeper.tasks.token_loss import TokenLoss, output_layer

        states_BTH = _states(model, input_ids=batch.ids, attention_mask=batch.mask)
        places = torch.arange(batch.ids.shape[1] - 1, device=batch.ids.device)
        ends = batch.mask.sum(1, keepdim=True) - 1
        rows_N, places_N = ((places >= batch.targets[:, :1] - 1) & (places < ends)).nonzero(as_tuple=True)
        asked = (states_BTH[rows_N, places_N], batch.ids[rows_N, places_N + 1], output_layer(model))
        nll_N: torch.Tensor = TokenLoss.apply(*asked)  # type: ignore[no-untyped-call]
        return nll_N.new_zeros(len(batch.ids)).index_add(0, rows_N, nll_N)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return loss, number of tokens, and the log-likelihood of each choice, ``[B, 2 + choices]``."""
        import torch

        tokens = (batch.mask.sum(1) - batch.targets[:, 0]).float()
        if not self.choices:
            return torch.stack([self.row_loss(model, batch), tokens], 1)
        scores = self._choice_scores(model, batch)
        loss = -scores.gather(1, batch.targets[:, 1:])
        return torch.cat([loss, tokens[:, None], scores], 1)

    def score(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> Mapping[str, float]:
        """Return loss and perplexity a token, and the accuracy of the likeliest choice if there are choices."""
        loss = (outputs_NF[:, 0].double().sum() / outputs_NF[:, 1].double().sum()).item()
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss}
        if outputs_NF.shape[1] == _FIXED:
            return scores
        predicted = outputs_NF[:, _FIXED:].argmax(1)
        return {**self.score_labels(predicted, targets_N[:, 1], outputs_NF.shape[1] - _FIXED), **scores}

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:  # noqa: ARG002 - a task like the others
        """Return the accuracy."""
        return {"accuracy": (predicted_N == labels_N).double().mean().item()}

    def _choice_scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the log-likelihood of each choice after each row's prompt, ``[B, choices]``."""
        import torch

        from sweeper.tasks.token_loss import log_likelihoods, output_layer

        block = _ChoiceBlock(self.choices, batch.ids.device)
        prompts_B1 = batch.targets[:, :1]
        longest, width = int(prompts_B1.max()), len(block.inputs_C)
        places = torch.arange(longest + width, device=batch.ids.device).expand(len(batch.ids), -1)
        states = _states(
            model,
            input_ids=torch.cat([batch.ids[:, :longest], block.inputs_C.expand(len(batch.ids), -1)], 1),
            attention_mask=_additive(_choice_mask(prompts_B1[:, 0], longest, block.sees_CC), model)[:, None],
            position_ids=torch.cat([places[:, :longest], prompts_B1 + block.offsets_C], 1),
        )
        read = torch.cat([prompts_B1 - 1, places[:, longest:]], 1)
        states_BSH = states.gather(1, read[..., None].expand(-1, -1, states.shape[-1]))
        likely_BN = log_likelihoods(states_BSH, block.place_N, block.token_N, output_layer(model))
        scores = likely_BN.new_zeros(len(batch.ids), len(self.choices))
        return scores.index_add(1, block.choice_N, likely_BN)


class _ChoiceBlock:
    """All choices one after another, and which of their tokens is predicted from which place.

    The last token of a choice is predicted and never read, so it has no place in the block. Places are counted from 0
    for the end of the prompt; the block's first token has place 1.
    """

    def __init__(self, choices: Sequence[Sequence[int]], device: torch.device) -> None:
        import torch

        inputs: list[int] = []
        offsets: list[int] = []
        owners: list[int] = []
        predicted: list[tuple[int, int, int]] = []
        for number, ids in enumerate(choices):
            before = len(inputs)
            predicted += [(0 if n == 0 else before + n, token, number) for n, token in enumerate(ids)]
            inputs += ids[:-1]
            offsets += range(len(ids) - 1)
            owners += [number] * (len(ids) - 1)
        self.inputs_C = torch.tensor(inputs, dtype=torch.int64, device=device)
        self.offsets_C = torch.tensor(offsets, dtype=torch.int64, device=device)
        places, tokens, owner = zip(*predicted, strict=True)
        self.place_N = torch.tensor(places, device=device)
        self.token_N = torch.tensor(tokens, device=device)
        self.choice_N = torch.tensor(owner, device=device)
        owner_C = torch.tensor(owners, dtype=torch.int64, device=device)
        self.sees_CC = (owner_C[:, None] == owner_C) & (self.offsets_C[:, None] >= self.offsets_C)
        """Whether a token (first axis) sees another."""


def _choice_mask(prompts_B: torch.Tensor, longest: int, sees_CC: torch.Tensor) -> torch.Tensor:
    """Return who sees whom: the prompt what is before, a choice the row's prompt and itself, ``[B, P + C, P + C]``."""
    import torch

    device, rows, width = prompts_B.device, len(prompts_B), len(sees_CC)
    places = torch.arange(longest, device=device)
    mask = torch.zeros(rows, longest + width, longest + width, dtype=torch.bool, device=device)
    mask[:, :longest, :longest] = places[:, None] >= places
    mask[:, longest:, :longest] = (places < prompts_B[:, None])[:, None]
    mask[:, longest:, longest:] = sees_CC
    return mask


def _states(model: nn.Module, **inputs: Any) -> torch.Tensor:
    """Return the last hidden states, which the output layer turns into logits."""
    base = getattr(model, str(model.base_model_prefix))
    states: torch.Tensor = base(**inputs, use_cache=False).last_hidden_state
    return states


def _additive(mask: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return a mask as both attention kernels take it: 0 where seen, the lowest number where not."""
    import torch

    dtype = next(model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)

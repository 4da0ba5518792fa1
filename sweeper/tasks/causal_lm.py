"""Completions of prompts by a language model: loss and perplexity per token, and accuracy if completions are choices.

Only the tokens of completions, including their end token, have a loss; padding never does, whichever token it is.
Logits are computed at these tokens only and block by block, never for whole rows, since a vocabulary is about 100 times
as wide as a model.

If completions are a closed set, all choices of a row are scored in one sequence: the prompt, then every choice, none of
which attends to another. So a row costs little more than its prompt, however many choices there are.

Shapes: B rows, T tokens of a row, P tokens of the longest prompt, C tokens of the block of choices, N tokens with a
loss, H hidden width, S = 1 + C positions that predict tokens of choices.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.tasks.base import Batch, Examples

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sweeper.data.base import TokenisedSplits
    from sweeper.store.outcomes import RowOutcomes

__all__ = ["Task"]

_FIXED = 2
"""Number of outputs before the scores of the choices: loss and number of tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A language model that learns the completions of prompts."""

    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of each choice, with its end token; empty if completions are open."""

    peft_task_type = "CAUSAL_LM"
    metrics = ("accuracy", "loss", "perplexity")
    has_probe = False
    has_head = False
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

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002  part of the contract
        """Return no names: the model's own output layer stays frozen."""
        return ()

    def check(self, model: nn.Module) -> None:
        """Check that logits can be computed from hidden states.

        Raises:
            ModelError: The output layer is adapted or not supported.
        """
        from sweeper.tasks.token_loss import output_layer

        output_layer(model)

    def examples(self, tokens: TokenisedSplits, split: str) -> Examples:
        """Return rows with the length of the prompt and the choice as targets, weighted by their tokens with a loss."""
        rows = getattr(tokens, split)
        prompts, lengths = list(rows["prompt"]), list(rows["length"])
        targets = [[prompt, label] for prompt, label in zip(prompts, rows["label"], strict=True)]
        spans = [[(prompt, length)] for prompt, length in zip(prompts, lengths, strict=True)]
        weights = [float(sum(end - start for start, end in found)) for found in spans]
        return Examples(list(rows["input_ids"]), targets, weights, spans)

    def row_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the negative log-likelihood of each row's tokens that have a loss, ``[B]``."""
        from sweeper.tasks.token_loss import TokenLoss, output_layer

        predicted_N = _predicted(batch)
        states_BTH = _states(model, input_ids=batch.ids, attention_mask=batch.mask)
        # Each position predicts the next token, so the first token of a completion is predicted by the prompt's last.
        states_NH = states_BTH.flatten(0, 1)[predicted_N - 1]
        inputs = (states_NH, batch.ids.flatten()[predicted_N], output_layer(model))
        nll_N: torch.Tensor = TokenLoss.apply(*inputs)  # type: ignore[no-untyped-call]
        return _sum_by_row(nll_N, batch)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return loss, number of tokens, and the log-likelihood of each choice, ``[B, 2 + choices]``."""
        import torch

        tokens = _sum_by_row(torch.ones(len(_predicted(batch)), device=batch.ids.device), batch)
        if not self.choices:
            return torch.stack([self.row_loss(model, batch), tokens], 1)
        scores = self._choice_scores(model, batch)
        loss = -scores.gather(1, batch.targets[:, 1:])
        return torch.cat([loss, tokens[:, None], scores], 1)

    def score(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> Mapping[str, float]:
        """Return loss and perplexity per token, and the accuracy of the likeliest choice if there are choices."""
        loss = (outputs_NF[:, 0].double().sum() / outputs_NF[:, 1].double().sum()).item()
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss}
        if outputs_NF.shape[1] == _FIXED:
            return scores
        predicted = outputs_NF[:, _FIXED:].argmax(1)
        return {**self.score_labels(predicted, targets_N[:, 1], outputs_NF.shape[1] - _FIXED), **scores}

    def row_outcomes(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> RowOutcomes:
        """Return loss and tokens of each completion, and the likeliest choice if there are choices."""
        from sweeper.store.outcomes import RowOutcomes

        loss_N, tokens_N = outputs_NF[:, 0].numpy(), outputs_NF[:, 1].numpy()
        num_labels = outputs_NF.shape[1] - _FIXED
        if not num_labels:
            return RowOutcomes.of(loss_N, tokens_N=tokens_N)
        return RowOutcomes.of(
            loss_N,
            predicted_N=outputs_NF[:, _FIXED:].argmax(1).numpy(),
            target_N=targets_N[:, 1].numpy(),
            tokens_N=tokens_N,
            num_labels=num_labels,
        )

    def majority_score(self, metric: str, counts: Sequence[int], num_labels: int) -> float | None:
        """Return the accuracy of always predicting the commonest choice; None for losses and open completions."""
        return max(counts[:num_labels]) / sum(counts) if metric == "accuracy" and counts else None

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:  # noqa: ARG002  part of the contract
        """Return the accuracy."""
        return {"accuracy": (predicted_N == labels_N).double().mean().item()}

    def _choice_scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the log-likelihood of each choice after each row's prompt, ``[B, choices]``."""
        import torch

        from sweeper.tasks.token_loss import log_likelihoods, output_layer

        # Prompts are padded to the longest, then comes the same block of choices for every row. Position ids let each
        # choice follow its row's prompt directly, as if it stood there alone.
        block = _choice_block(self.choices, batch.ids.device)
        prompts_B1 = batch.targets[:, :1]
        longest, width = max(spans[0][0] for spans in batch.spans), len(block.inputs_C)
        columns = torch.arange(longest + width, device=batch.ids.device).expand(len(batch.ids), -1)
        states = _states(
            model,
            input_ids=torch.cat([batch.ids[:, :longest], block.inputs_C.expand(len(batch.ids), -1)], 1),
            attention_mask=_additive(_choice_mask(prompts_B1[:, 0], longest, block.sees_CC), model)[:, None],
            position_ids=torch.cat([columns[:, :longest], prompts_B1 + block.offsets_C], 1),
        )
        # The end of each prompt predicts the first token of every choice, the block predicts all others.
        read = torch.cat([prompts_B1 - 1, columns[:, longest:]], 1)
        states_BSH = states.gather(1, read[..., None].expand(-1, -1, states.shape[-1]))
        likely_BN = log_likelihoods(states_BSH, block.position_N, block.token_N, output_layer(model))
        scores = likely_BN.new_zeros(len(batch.ids), len(self.choices))
        return scores.index_add(1, block.choice_N, likely_BN)


class _ChoiceBlock:
    """All choices one after another, and the position that predicts each of their tokens.

    The last token of a choice is only predicted, never an input, so the block leaves it out. Position 0 is the end of
    the prompt; the first token of the block has position 1.
    """

    def __init__(self, choices: Sequence[Sequence[int]], device: torch.device) -> None:
        import torch

        inputs: list[int] = []
        offsets: list[int] = []
        owners: list[int] = []
        predicted: list[tuple[int, int, int]] = []  # position, token and choice
        for number, ids in enumerate(choices):
            before = len(inputs)
            predicted += [(0 if n == 0 else before + n, token, number) for n, token in enumerate(ids)]
            inputs += ids[:-1]
            offsets += range(len(ids) - 1)
            owners += [number] * (len(ids) - 1)
        self.inputs_C = torch.tensor(inputs, dtype=torch.int64, device=device)
        self.offsets_C = torch.tensor(offsets, dtype=torch.int64, device=device)
        positions, tokens, owner = zip(*predicted, strict=True)
        self.position_N = torch.tensor(positions, device=device)
        self.token_N = torch.tensor(tokens, device=device)
        self.choice_N = torch.tensor(owner, device=device)
        owner_C = torch.tensor(owners, dtype=torch.int64, device=device)
        self.sees_CC = (owner_C[:, None] == owner_C) & (self.offsets_C[:, None] >= self.offsets_C)
        """Whether a token (first axis) attends to another."""


@functools.lru_cache(maxsize=4)
def _choice_block(choices: tuple[tuple[int, ...], ...], device: torch.device) -> _ChoiceBlock:
    """Return the block of these choices, which is copied to the device once and not with every batch."""
    return _ChoiceBlock(choices, device)


def _choice_mask(prompts_B: torch.Tensor, longest: int, sees_CC: torch.Tensor) -> torch.Tensor:
    """Return which token attends to which, ``[B, P + C, P + C]``: causal, and no choice attends to another."""
    import torch

    device, rows, width = prompts_B.device, len(prompts_B), len(sees_CC)
    columns = torch.arange(longest, device=device)
    mask = torch.zeros(rows, longest + width, longest + width, dtype=torch.bool, device=device)
    mask[:, :longest, :longest] = columns[:, None] >= columns
    mask[:, longest:, :longest] = (columns < prompts_B[:, None])[:, None]  # not to the padding of a shorter prompt
    mask[:, longest:, longest:] = sees_CC
    return mask


def _predicted(batch: Batch) -> torch.Tensor:
    assert batch.predicted is not None  # noqa: S101  `examples` gives every row its spans
    return batch.predicted


def _sum_by_row(values_N: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sum over each row's tokens that have a loss, ``[B]``."""
    rows_N = _predicted(batch) // batch.ids.shape[1]
    return values_N.new_zeros(len(batch.ids)).index_add(0, rows_N, values_N)


def _states(model: nn.Module, **inputs: Any) -> torch.Tensor:
    """Return the last hidden states, the input of the output layer."""
    base = getattr(model, str(model.base_model_prefix))
    states: torch.Tensor = base(**inputs, use_cache=False).last_hidden_state
    return states


def _additive(mask: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return a mask in the form that all attention kernels accept: 0 where True, the lowest number elsewhere."""
    import torch

    dtype = next(model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)

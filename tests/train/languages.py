"""A tiny language model in a pack, its rows, and the same trial trained alone through stock PEFT."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from sweeper.models.linear import is_linear
from sweeper.models.targets import targets_for
from sweeper.tasks.base import Examples
from sweeper.tasks.causal_lm import Task
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack
from tests.tasks.languages import END, language_model, pairs
from tests.train.tiny import CPU, no_peft_deprecation, optimizer_of


def targets_of(model):
    suffixes = tuple(f".{suffix}" for suffix in targets_for(model.config.model_type, ()))
    return [name for name, module in model.named_modules() if is_linear(module) and name.endswith(suffixes)]


def language_pack(kind="llama", dtype=torch.float32):
    model = language_model(kind).to(dtype)
    return Pack(model, targets=targets_of(model), head=[], dtype=dtype)


def examples_of(rows):
    targets = [[len(prompt), choice] for prompt, _, choice in rows]
    spans = [[(len(p), len(p) + len(c))] for p, c, _ in rows]
    return Examples([[*p, *c] for p, c, _ in rows], targets, [float(len(c)) for _, c, _ in rows], spans)


def evaluation_of(rows):
    return EvaluationBatches(examples_of(rows), batch_size=4, pad_token_id=END, device=CPU)


@dataclass
class LanguageData:
    """Training rows in 10 chunks of 5 micro-batches of 4, as `tests.train.tiny.Data`."""

    choices: tuple = ()
    pairs: list = field(init=False)
    rows: TrainingRows = field(init=False)

    def __post_init__(self):
        self.pairs = pairs(100, choices=self.choices)
        plan = ChunkPlan.of(100, micro_batch=4, chunks_per_epoch=5, epochs=2)
        self.rows = TrainingRows(examples_of(self.pairs), plan, seed=7, pad_token_id=END, device=CPU)


def train_language(pack, lanes, data, chunks):
    """Train lanes and return the mean loss per token of every micro-batch by trial number."""
    steps = []

    def recorded(model, batch):
        losses = Task().row_loss(model, batch)
        tokens = (batch.mask.sum(1) - batch.targets[:, 0]).view(len(lanes), -1).sum(1)
        steps.append(losses.detach().view(len(lanes), -1).sum(1) / tokens)
        return losses

    for _ in range(chunks):
        pack.train_chunk(lanes, data.rows, recorded)
    return {lane.spec.number: losses for lane, losses in zip(lanes, torch.stack(steps, 1), strict=True)}


def train_language_with_peft(kind, trial, data, chunks, *, base=None):
    """Train alone as one would with labels of -100, and a mean over the tokens of an optimizer step."""
    model = _peft_model(kind, trial, language_model(kind) if base is None else base)
    settings, plan = trial.by_key(), data.rows.plan
    window = int(settings["train.batch_size"]) // plan.micro_batch
    optimizer, scheduler = optimizer_of(model, settings, plan.num_chunks * -(-plan.micro_batches // window))
    losses = []
    for chunk in range(chunks):
        picked = list(data.rows.chunk(chunk, trial.seed))
        for first in range(0, len(picked), window):
            group = [batch_with_labels([data.pairs[n] for n in rows]) for rows in picked[first : first + window]]
            tokens = sum(int((labels != -100).sum()) for _, _, labels in group)
            for ids, mask, labels in group:
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
                total = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
                (total / tokens).backward()
                losses.append(total.detach() / (labels != -100).sum())
            if settings["train.max_grad_norm"]:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings["train.max_grad_norm"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return torch.stack(losses)


def batch_with_labels(rows):
    """Pad rows; labels are -100 on prompts and padding, never on an end that the row itself has."""
    longest = max(len(prompt) + len(completion) for prompt, completion, _ in rows)
    ids, mask, labels = [], [], []
    for prompt, completion, _ in rows:
        padding = longest - len(prompt) - len(completion)
        ids.append([*prompt, *completion, *[END] * padding])
        mask.append([1] * (longest - padding) + [0] * padding)
        labels.append([-100] * len(prompt) + completion + [-100] * padding)
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)


def _peft_model(kind, trial, base):
    from peft import LoraConfig, get_peft_model

    values = trial.by_key()
    rank = values["lora.r"]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank * values["lora.alpha_ratio"],
        use_rslora=values["lora.use_rslora"],
        target_modules=targets_of(base),
        fan_in_fan_out=kind == "gpt2",
    )
    with no_peft_deprecation():
        model = get_peft_model(base, config).eval()
    lane = Lane.start(trial, language_pack(kind).shape, CPU)
    with torch.no_grad():
        for layer, matrix in zip(lane.layout.lora, lane.layout.views_a(lane.parameters[None]), strict=True):
            model.get_submodule(f"base_model.model.{layer.name}").lora_A["default"].weight.copy_(matrix[0])
    return model

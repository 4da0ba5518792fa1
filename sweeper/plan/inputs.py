"""What a plan knows: the sizes of the model, and the rows of each dataset, or what is assumed of them.

Rows are read if the dataset is either the user's own files or in the cache; without a tokenizer, their lengths follow
from the bytes of their texts. Otherwise every row counts as long as the longest that the settings allow, which is an
upper bound; with ``model.max_length=auto`` that is the most that it ever chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.settings import DatasetSettings, SweepSettings
from sweeper.data import open_rows, prepare, prepare_splits, repeat_warnings
from sweeper.data.lengths import MOST_AUTO_TOKENS, choose_length, most_positions
from sweeper.fetch.progress import Progress
from sweeper.figures.model_shapes import ModelShapes
from sweeper.models.hidden_dropout import no_dropout_layers
from sweeper.models.shapes import read_shapes
from sweeper.tasks import make_task
from sweeper.tasks.base import Examples

if TYPE_CHECKING:
    from sweeper.data.base import Splits

__all__ = ["StudyRows", "read_model_shapes", "study_rows"]

_ASSUMED_LABELS = 2
_BYTES_PER_TOKEN = 3
"""Of a text whose tokenizer is not there. English has 4 to 5, Chinese about 3, and code a little more than that."""
_AROUND_TEXT, _AROUND_PROMPT = 2, 40
"""Tokens beside those of the text: special ones, and what a template adds to a prompt."""
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
        ModelError: The model is unknown to transformers, no layer can have an adapter, or ``model.dropout`` is set and
            it has no dropout layers.
    """
    task = make_task(settings.task.name)
    shapes = read_shapes(
        model_dir,
        kind=task.model_kind,
        num_labels=num_labels,
        target_modules=settings.model.target_modules,
        head_modules=task.head_modules,
        trust_remote_code=settings.model.trust_remote_code,
    )
    if settings.model.dropout and not shapes.block.dropped:
        raise no_dropout_layers(shapes.model_type, settings.model.dropout)
    return shapes


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
    if not is_at_hand:
        return _assumed(settings, dataset, model_dir, micro_batch)
    if not _has_tokenizer(model_dir):
        splits = prepare_splits(dataset, cache=cache, completions=completions, loss_on=loss_on, progress=progress)
        return _from_texts(settings, splits, model_dir)
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


def _from_texts(settings: SweepSettings, splits: Splits, model_dir: Path) -> StudyRows:
    """Return rows with the lengths that follow from their bytes."""
    needed = _lengths(splits, "train")
    longest = _longest(settings, model_dir)
    if isinstance(settings.model.max_length, str):
        longest = choose_length(needed, least=0, most=longest)
    counted = f"rows are taken to have a token for every {_BYTES_PER_TOKEN} bytes of text"
    choices = splits.labels if make_task(settings.task.name).takes_completions else ()
    return StudyRows(
        dataset=splits.name,
        train=_rows(settings, [min(length, longest) for length in needed]),
        validation=_rows(settings, [min(length, longest) for length in _lengths(splits, "validation")]),
        num_train=len(splits.train),
        num_labels=len(splits.labels),
        num_choice_tokens=sum(_num_tokens(choice) for choice in choices),
        assumed=f"{model_dir} has no tokenizer: {counted}",
    )


def _lengths(splits: Splits, name: str) -> list[int]:
    """Return about how many tokens each row of a split has; an empty completion is part of the content."""
    part = splits.parts[name]
    if "completion" not in part.column_names:
        return [_num_tokens(text) + _AROUND_TEXT for text in part[splits.kind]]
    rows = zip(part[splits.kind], part["completion"], strict=True)
    return [_num_tokens(content) + _num_tokens(completion) + _AROUND_PROMPT for content, completion in rows]


def _num_tokens(text: str) -> int:
    return -(-len(text.encode(errors="surrogatepass")) // _BYTES_PER_TOKEN)


def _longest(settings: SweepSettings, model_dir: Path) -> int:
    """Return the most tokens that a row may have."""
    asked = settings.model.max_length
    return min(MOST_AUTO_TOKENS if isinstance(asked, str) else asked, most_positions(model_dir))


def _assumed(settings: SweepSettings, dataset: DatasetSettings, model_dir: Path, micro_batch: int) -> StudyRows:
    """Return rows that are all as long as the longest one may be."""
    num_train, longest = dataset.train_rows, _longest(settings, model_dir)
    is_auto = isinstance(settings.model.max_length, str)
    allows = "the most that model.max_length=auto chooses" if is_auto else "as model.max_length allows"
    what = f"rows are taken to be {longest:,} tokens long, {allows}"
    what += "" if num_train else f", and their number is unknown without dataset.{dataset.name}.train_rows"
    has_head = settings.task.has_head and not dataset.labels
    what += f"; {_ASSUMED_LABELS} labels" if has_head else ""
    return StudyRows(
        dataset=dataset.name,
        train=_rows(settings, [longest] * (min(num_train, micro_batch) or micro_batch)),
        validation=_rows(settings, [longest] * micro_batch),
        num_train=num_train,
        num_labels=len(dataset.labels) or (_ASSUMED_LABELS if settings.task.has_head else 0),
        assumed=f"the dataset has not been fetched: {what}",
    )


def _rows(settings: SweepSettings, lengths: Sequence[int]) -> Examples:
    """Return rows of these lengths; those of one length share their ids."""
    completions = make_task(settings.task.name).takes_completions
    ids = {length: [0] * length for length in set(lengths)}
    targets: Sequence[int | Sequence[int]] = [[length // 2, 0] if completions else 0 for length in lengths]
    return Examples([ids[length] for length in lengths], targets, [1.0] * len(lengths))

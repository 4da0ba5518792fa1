"""Token ids of chats, and which of them have a loss; `tokens` calls this.

The whole chat is tokenised at once, as for the model's answers at inference and as in TRL. It ends with the last answer
that is learnt, since nothing after that has an effect.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.data.chat_template import AnswerFinder, Range
from sweeper.data.chats import has_loss, to_last_answer
from sweeper.data.disk import to_dataset
from sweeper.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ChatEncoder"]

log = logging.getLogger(__name__)

TYPES: dict[str, str | list[str]] = {
    "input_ids": ["int32"],
    "length": "int32",
    "label": "int64",
    "prompt": "int32",
    "spans": ["int32"],
}


@dataclass(frozen=True, slots=True)
class _Row:
    """Token ids of a chat and the ranges that have a loss."""

    ids: list[int]
    spans: list[Range]

    def window(self, begin: int, length: int) -> _Row:
        """Return the tokens of a window, and the parts of the ranges inside it."""
        end = begin + length
        # The first token of the window has nothing before it that could predict it.
        inside = [(max(start, begin + 1) - begin, min(stop, end) - begin) for start, stop in self.spans]
        return _Row(self.ids[begin:end], [(start, stop) for start, stop in inside if start < stop])

    @property
    def num_learnt(self) -> int:
        return sum(stop - start for start, stop in self.spans)


class ChatEncoder:
    """Turns chats of one dataset into token ids.

    Args:
        tokenizer: A tokenizer of transformers.
        name: Name of the dataset.
        loss_on: Which answers are learnt: ``all`` or the ``last`` one.
        max_length: Most tokens of a row.

    Raises:
        ModelError: The tokenizer cannot say which characters a token stands for.
    """

    def __init__(self, tokenizer: Any, name: str, *, loss_on: str, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"dataset {name} needs a tokenizer that knows the place of each token in the text, and the model's, "
                f"{type(tokenizer).__name__}, does not. Choose a model with a tokenizer.json."
            )
        self._tokenizer, self._name, self._loss_on, self._max_length = tokenizer, name, loss_on, max_length
        self._finder = AnswerFinder(tokenizer, name)

    def encode(self, part: Dataset, name: str) -> Dataset:
        """Return the token ids of a split.

        Args:
            part: Rows of the split.
            name: Name of the split, for messages.

        Raises:
            DataError: The chat template refuses a chat or changes it so that no answer can be found in it; or an answer
                that alone is learnt is too long.
        """
        whole = [self._whole(json.loads(chat)) for chat in part["chat"]]
        rows = [self._cut(row, number, name) for number, row in enumerate(whole, start=1)]
        self._warn(whole, rows, name)
        content = {
            "input_ids": [row.ids for row in rows],
            "length": [len(row.ids) for row in rows],
            "label": list(part["label"]),
            "prompt": [row.spans[0][0] for row in rows],
            "spans": [[end for span in row.spans for end in span] for row in rows],
        }
        return to_dataset(content, TYPES)

    def _whole(self, chat: dict[str, Any]) -> _Row:
        # A last answer is learnt as it is given, when nothing has come after it yet.
        messages = chat["messages"] if self._loss_on == "all" else to_last_answer(chat["messages"])
        answers = [index for index, message in enumerate(messages) if has_loss(message)]
        wanted = answers if self._loss_on == "all" else answers[-1:]
        text, ranges = self._finder.find(messages, chat.get("tools"), wanted)
        encoded = self._tokenizer(text, add_special_tokens=False)
        spans: list[Range] = []
        for start, stop in ranges:
            first, last = (
                self._token(encoded, places) for places in (range(start, stop), range(stop - 1, start - 1, -1))
            )
            if first is None or last is None:
                continue  # an answer of characters that the vocabulary lacks
            # No token twice, and none that nothing predicts.
            first = max(first, spans[-1][1] if spans else 1)
            if first <= last:
                spans.append((first, last + 1))
        if not spans:
            raise DataError(
                f"dataset {self._name}: the model's chat template shows no answer of the chat {text[:80]!r}. Mark the "
                "answers in the template with {% generation %} and {% endgeneration %}, or choose another model."
            )
        return _Row(list(encoded["input_ids"][: spans[-1][1]]), spans)

    @staticmethod
    def _token(encoded: Any, places: range) -> int | None:
        """Return the token of the first of some characters that belongs to one."""
        tokens = (encoded.char_to_token(place) for place in places)
        return next((token for token in tokens if token is not None), None)

    def _cut(self, row: _Row, number: int, name: str) -> _Row:
        room = self._max_length
        if len(row.ids) <= room:
            return row
        start, stop = row.spans[0]
        if self._loss_on == "last":
            if stop - start >= room:
                raise DataError(
                    f"dataset {self._name}: {name} row {number} has an answer of {stop - start} tokens with its end, "
                    f"which leaves no room for a prompt in model.max_length={room}. Raise model.max_length if the "
                    "model takes that, or remove the row."
                )
            return row.window(len(row.ids) - room, room)
        if start < room:
            return row.window(0, room)
        # All of the first window would be prompt. An answer that is too long for any window keeps half of it as prompt.
        return row.window(max(0, min(start - room // 2, stop - room)), room)

    def _warn(self, whole: Sequence[_Row], rows: Sequence[_Row], name: str) -> None:
        cut = [(before, after) for before, after in zip(whole, rows, strict=True) if before is not after]
        if not cut:
            return
        lost = sum(before.num_learnt - after.num_learnt for before, after in cut)
        share = lost / sum(row.num_learnt for row in whole)
        end = "beginning" if self._loss_on == "last" else "end"
        message = (
            "dataset %s: %d of %d %s chats were cut at the %s to fit model.max_length=%d; %.1f %% of the answers' "
            "tokens are lost"
        )
        log.warning(message, self._name, len(cut), len(whole), name, end, self._max_length, 100 * share)

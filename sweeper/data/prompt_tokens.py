"""Token ids of prompts with completions, and of plain texts; `tokens` calls this.

Prompt and completion are tokenised separately, so that no token spans both, and so that all choices of a closed set
follow the same prompt. A row that is too long loses the beginning of its prompt, never a token of its completion. In a
closed set every prompt leaves room for the longest choice; otherwise the length of a prompt would reveal the answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.config.settings import ModelSettings
from sweeper.data.base import Splits
from sweeper.data.content import shorten
from sweeper.data.disk import to_dataset
from sweeper.errors import ConfigError, DataError, ModelError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["PromptEncoder", "chat_use", "check_chat_template", "encode_documents"]

log = logging.getLogger(__name__)

TYPES: dict[str, str | list[str]] = {"input_ids": ["int32"], "length": "int32", "label": "int64", "prompt": "int32"}
CHAT_NAMES = ("instruct", "chat", "-it", "-sft", "-dpo")
"""Parts of the names of models that were trained on chats."""
_ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{more}### Response:\n"
)
"""The prompt of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), for models without a chat template."""
_ANCHOR = "\n"
_ANSWER = "answer"


def chat_use(model: ModelSettings) -> str:
    """Return when prompts go into the chat template: ``always``, ``never``, ``if_any`` or ``for_messages``.

    ``if_any`` means if the tokenizer has one, ``for_messages`` only if the rows are messages.
    """
    if model.chat_template != "auto":
        return model.chat_template
    names = f"{model.id} {model.member} {model.name}".lower()
    return "if_any" if any(part in names for part in CHAT_NAMES) else "for_messages"


class PromptEncoder:
    """Turns prompts and completions of one dataset into token ids.

    Args:
        tokenizer: A tokenizer of transformers.
        splits: The rows; messages always need the chat template.
        use: Result of `chat_use`.
        max_length: Most tokens of a row.

    Raises:
        ModelError: A chat template is needed and the tokenizer has none.
        ConfigError: The rows are messages and ``model.chat_template`` is ``never``.
    """

    def __init__(self, tokenizer: Any, splits: Splits, *, use: str, max_length: int) -> None:
        self._tokenizer, self._splits, self._max_length = tokenizer, splits, max_length
        self._is_chat = _is_chat(tokenizer, splits, use)
        self._prefix = [] if self._is_chat else _prefix(tokenizer)
        self._end = self._chat_end() if self._is_chat else [_end_token(tokenizer)]
        self.choices = tuple(map(tuple, self._completions(splits.labels)))
        """Token ids of each choice."""

    def encode(self, part: Dataset, name: str) -> Dataset:
        """Return the token ids of a split.

        Args:
            part: Rows of the split.
            name: Name of the split, for error messages.

        Raises:
            DataError: A completion leaves no room for any prompt.
        """
        completions = self._completions(list(part["completion"]))
        prompts = self._prompts(list(part[self._splits.kind]))
        self._check(completions, part, name)
        longest = max(map(len, self.choices), default=0)
        content: dict[str, list[Any]] = {"input_ids": [], "length": [], "prompt": [], "label": list(part["label"])}
        num_cut = 0
        for prompt, completion in zip(prompts, completions, strict=True):
            cut = self._cut(prompt, self._max_length - (longest or len(completion)))
            num_cut += len(cut) < len(prompt)
            content["input_ids"].append([*cut, *completion])
            content["length"].append(len(cut) + len(completion))
            content["prompt"].append(len(cut))
        if num_cut:
            message = "dataset %s: %d of %d %s prompts were cut at the beginning to fit model.max_length=%d"
            log.warning(message, self._splits.name, num_cut, len(prompts), name, self._max_length)
        return to_dataset(content, TYPES)

    def _cut(self, prompt: list[int], room: int) -> list[int]:
        if len(prompt) <= room:
            return prompt
        kept = room - len(self._prefix)
        return [*self._prefix, *prompt[-kept:]] if kept > 0 else prompt[-room:]

    def _check(self, completions: Sequence[Sequence[int]], part: Dataset, name: str) -> None:
        lengths = [*map(len, completions), *map(len, self.choices)]
        long = [number for number, length in enumerate(lengths) if length >= self._max_length]
        if not long:
            return
        text = [*part["completion"], *self._splits.labels][long[0]]
        row = f"{name} row {long[0] + 1}" if long[0] < len(part) else "the longest choice"
        raise DataError(
            f"dataset {self._splits.name}: {row} has a completion of {lengths[long[0]]} tokens with its end token, "
            f"which leaves no room for a prompt in model.max_length={self._max_length}: {shorten(text)}. It is one of "
            f"{len(long)}. Raise model.max_length above {max(lengths)} if the model takes that, or remove the rows."
        )

    def _completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of completions, each with its end token.

        They are tokenised after a line break, because some tokenizers put a space before the first word of any text.
        """
        if not texts:
            return []
        shown = [text.strip() if self._is_chat else text for text in texts]
        (anchor,), anchored = self._ids([_ANCHOR]), self._ids([_ANCHOR + text for text in shown])
        return [
            [*(ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._ids([text])[0]), *self._end]
            for text, ids in zip(shown, anchored, strict=True)
        ]

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        if self._is_chat:
            texts = [self._rendered(self._messages(text)) for text in texts]
        elif self._splits.kind == "instruction":
            texts = [_alpaca(*json.loads(text)) for text in texts]
        # A completion needs a token before it, which predicts its first one.
        empty = [] if self._prefix else [self._end[-1]]
        return [[*self._prefix, *ids] or empty for ids in self._ids(texts)]

    def _messages(self, text: str) -> list[dict[str, str]]:
        if self._splits.kind == "messages":
            found: list[dict[str, str]] = json.loads(text)
            return found
        if self._splits.kind == "instruction":
            text = "\n\n".join(part for part in json.loads(text) if part)
        return [{"role": "user", "content": text.strip()}]

    def _rendered(self, messages: list[dict[str, str]], *, answer: str | None = None) -> str:
        turns = messages if answer is None else [*messages, {"role": "assistant", "content": answer}]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=answer is None
            )
        except Exception as error:  # a template can raise anything
            raise DataError(
                f"dataset {self._splits.name}: the model's chat template rejects the chat {shorten(messages)}: "
                f"{first_line(error)} Correct the row, or set model.chat_template=never if the rows are not chats."
            ) from error
        return rendered

    def _chat_end(self) -> list[int]:
        """Return the tokens that the template puts after an answer, up to the one that ends it."""
        question = [{"role": "user", "content": "question"}]
        asked, whole = self._rendered(question), self._rendered(question, answer=_ANSWER)
        tail = whole[len(asked) :].removeprefix(_ANSWER) if whole.startswith(asked + _ANSWER) else ""
        ids = self._ids([tail])[0] if tail else []
        special = set(self._tokenizer.all_special_ids)
        last = next((n for n, token in enumerate(ids) if token in special), None)
        return [_end_token(self._tokenizer)] if last is None else ids[: last + 1]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, padding=False)["input_ids"]
        return found


def encode_documents(part: Dataset, tokenizer: Any, dataset: str, name: str, max_length: int) -> Dataset:
    """Return the token ids of plain texts, each with its end token; all but the first token have a loss.

    Args:
        part: Rows of the split.
        tokenizer: A tokenizer of transformers.
        dataset: Name of the dataset.
        name: Name of the split.
        max_length: Most tokens of a row; longer texts lose their end.
    """
    end, texts = _end_token(tokenizer), list(part["document"])
    found = tokenizer(texts, padding=False)["input_ids"] if texts else []
    ids = [row if row[-1:] == [end] else [*row, end] for row in found]
    ids = [row if len(row) > 1 else [end, *row] for row in ids]  # the first token predicts, and has no loss
    if num_cut := sum(len(row) > max_length for row in ids):
        lost = sum(max(0, len(row) - max_length) for row in ids) / sum(map(len, ids))
        message = (
            "dataset %s: %d of %d %s texts were cut at the end to fit model.max_length=%d; %.1f %% of their tokens are "
            "lost"
        )
        log.warning(message, dataset, num_cut, len(ids), name, max_length, 100 * lost)
    ids = [row[:max_length] for row in ids]
    content = {
        "input_ids": ids,
        "length": [len(row) for row in ids],
        "prompt": [1] * len(ids),
        "label": list(part["label"]),
    }
    return to_dataset(content, TYPES)


def _alpaca(instruction: str, more: str) -> str:
    return _ALPACA.format(
        instruction=instruction,
        paired=", paired with an input that provides further context" if more else "",
        more=f"### Input:\n{more}\n\n" if more else "",
    )


def _is_chat(tokenizer: Any, splits: Splits, use: str) -> bool:
    has_template = bool(getattr(tokenizer, "chat_template", None))
    check_chat_template(tokenizer, splits, use)
    return splits.kind == "messages" or use == "always" or (use == "if_any" and has_template)


def check_chat_template(tokenizer: Any, splits: Splits, use: str) -> None:
    """Check that the tokenizer has a chat template if the rows need one.

    Args:
        tokenizer: A tokenizer of transformers.
        splits: The rows; chats always need one.
        use: Result of `chat_use`.

    Raises:
        ModelError: A chat template is needed and the tokenizer has none.
        ConfigError: The rows are chats and ``model.chat_template`` is ``never``.
    """
    is_of_messages = splits.kind in ("messages", "chat")
    if is_of_messages and use == "never":
        rule = f"the rows of {splits.name} are messages, and only a chat template turns these into text"
        raise ConfigError("model.chat_template", use, rule, "Set it to auto, or use rows with prompt and completion.")
    if (is_of_messages or use == "always") and not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"dataset {splits.name} needs a chat template, and the model's tokenizer has none. Choose a model that "
            "was trained on chats, e.g. model=smollm2, or use rows with prompt and completion."
        )


def _prefix(tokenizer: Any) -> list[int]:
    """Return the token that the tokenizer puts before every text, if any."""
    first = tokenizer("a")["input_ids"][:1]
    return list(first) if first and first[0] == tokenizer.bos_token_id else []


def _end_token(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token, which every completion needs. Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)

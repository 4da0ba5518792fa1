"""Tokenises splits once for a model and caches the token ids, which workers read.

The key of the cache is made of the rows, the tokenizer's files and the length, so a second call does not import
transformers. Rows are cut to ``max_length`` and not padded. To know what that cuts, and what ``auto`` should be, they
are first tokenised whole, and again if any of them is too long.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.data.base import Splits, SplitsRecord, TokenisedSplits
from sweeper.data.chat_tokens import ChatEncoder
from sweeper.data.disk import Stored, load_or_make, to_dataset
from sweeper.data.lengths import (
    MOST_AUTO_TOKENS,
    NO_LIMIT,
    choose_length,
    count_cut,
    least_length,
    most_positions,
    needed_lengths,
)
from sweeper.data.prompt_tokens import PromptEncoder, check_chat_template, encode_documents
from sweeper.errors import ModelError, first_line
from sweeper.fetch.files import TOKENIZER_FILES, sha256_of

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["as_tokenised", "make_tokens", "tokenise", "tokens_folder"]

log = logging.getLogger(__name__)

TOKENS_VERSION = 3
TYPES: dict[str, str | list[str]] = {"input_ids": ["int32"], "length": "int32", "label": "int64"}


def tokenise(
    splits: Splits,
    *,
    model_dir: Path,
    max_length: int | str,
    cache: Path,
    trust_remote_code: bool = False,
    chat: str = "never",
    loss_on: str = "all",
) -> TokenisedSplits:
    """Turn the rows of a dataset into token ids.

    Args:
        splits: The rows.
        model_dir: Folder with the model's tokenizer and config.json.
        max_length: Most tokens of a row, or ``auto``; lowered to the most that the model takes.
        cache: Folder of the cached ids.
        trust_remote_code: Whether to run code that comes with the tokenizer.
        chat: Result of `prompt_tokens.chat_use`: when prompts go into a chat template.
        loss_on: The answers of a chat that are learnt, ``task.loss_on``.

    Raises:
        ModelError: The tokenizer cannot be loaded, or has no chat template and needs one.
        DataError: A completion is too long, or a chat does not fit the chat template.
    """
    uses = {"chat": chat, "loss_on": loss_on}
    folder = tokens_folder(splits.record, model_dir=model_dir, max_length=max_length, cache=cache, **uses)

    def make() -> Stored:
        return make_tokens(splits, model_dir, max_length, trust_remote_code=trust_remote_code, **uses)

    return as_tokenised(load_or_make(folder, make))


def make_tokens(
    splits: Splits, model_dir: Path, max_length: int | str, *, trust_remote_code: bool, chat: str, loss_on: str
) -> Stored:
    """Return the token ids as they are cached; for arguments and errors see `tokenise`.

    The values beside the rows also have the length that rows were cut to, and what was cut.
    """
    tokenizer = _tokenizer(model_dir, trust_remote_code)
    limit, pad_token = min(tokenizer.model_max_length, most_positions(model_dir)), _pad_token(tokenizer, model_dir)
    uses = {"chat": chat, "loss_on": loss_on}
    whole, choices = _encoded(splits, tokenizer, NO_LIMIT, **uses)
    if isinstance(max_length, str):
        # Texts, and chats of which every answer is learnt, may lose their end.
        may_lose_end = splits.kind in ("text", "document") or (splits.kind == "chat" and loss_on == "all")
        least = 0 if may_lose_end else max(least_length(part, choices) for part in whole.values())
        needed = needed_lengths(whole["train"], choices)
        length = choose_length(needed, least=least, most=min(limit, MOST_AUTO_TOKENS))
    else:
        length = min(max_length, limit)
        if length < max_length:
            message = "model.max_length=%d: the model takes at most %d tokens; rows are cut to that"
            log.warning(message, max_length, length)
    is_cut = any(max(needed_lengths(part, choices), default=0) > length for part in whole.values())
    made = _encoded(splits, tokenizer, length, **uses)[0] if is_cut else whole
    cut = {name: dataclasses.asdict(counts) for name, counts in count_cut(whole, made).items()}
    return Stored(parts=made, meta={"pad_token_id": pad_token, "max_length": length, "cut": cut, "choices": choices})


def _encoded(
    splits: Splits, tokenizer: Any, length: int, *, chat: str, loss_on: str
) -> tuple[dict[str, Dataset], tuple[tuple[int, ...], ...]]:
    """Return the token ids of all splits, cut to a length, and those of each choice."""
    parts = splits.parts
    if splits.kind == "text":
        return {name: _encode(part, tokenizer, length) for name, part in parts.items()}, ()
    with _errors_only():
        if splits.kind == "document":
            dataset = splits.name
            return {name: encode_documents(part, tokenizer, dataset, name, length) for name, part in parts.items()}, ()
        if splits.kind == "chat":
            check_chat_template(tokenizer, splits, chat)
            chats = ChatEncoder(tokenizer, splits.name, loss_on=loss_on, max_length=length)
            return {name: chats.encode(part, name) for name, part in parts.items()}, ()
        encoder = PromptEncoder(tokenizer, splits, use=chat, max_length=length)
        return {name: encoder.encode(part, name) for name, part in parts.items()}, encoder.choices


def as_tokenised(stored: Stored) -> TokenisedSplits:
    """Return token ids that come from the cache."""
    choices = tuple(tuple(choice) for choice in stored.meta.get("choices", ()))
    return TokenisedSplits(pad_token_id=int(stored.meta["pad_token_id"]), choices=choices, **stored.parts)


def tokens_folder(
    splits: SplitsRecord, *, model_dir: Path, max_length: int | str, cache: Path, chat: str, loss_on: str
) -> Path:
    """Return the folder in which `tokenise` caches the token ids."""
    use = {"text": "", "document": "", "chat": loss_on}.get(splits.kind, chat)
    key = _key(splits, model_dir, max_length, use)
    return cache.expanduser() / "tokens" / key


def _key(splits: SplitsRecord, model_dir: Path, max_length: int | str, use: str) -> str:
    files = {path for pattern in TOKENIZER_FILES for path in model_dir.glob(pattern)}
    hashes = [f"{path.name}:{sha256_of(path)}" for path in sorted(files)]
    content = json.dumps([TOKENS_VERSION, splits.fingerprint, splits.kind, use, max_length, hashes])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _tokenizer(model_dir: Path, trust_remote_code: bool) -> Any:
    # If this is set, `tokenizers` does not warn when a process is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    try:
        with _errors_only():
            found = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {model_dir} cannot be loaded: {first_line(error)} Choose a model folder with a "
            f"tokenizer."
        ) from error
    found.truncation_side = "right"
    return found


@contextmanager
def _errors_only() -> Iterator[None]:
    from transformers import utils

    verbosity: Any = utils.logging  # has no type stubs
    before = verbosity.get_verbosity()
    verbosity.set_verbosity_error()
    try:
        yield
    finally:
        verbosity.set_verbosity(before)


def _pad_token(tokenizer: Any, model_dir: Path) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(
        f"the tokenizer in {model_dir} has neither a padding nor an end token. Set pad_token in tokenizer_config.json."
    )


def _encode(part: Dataset, tokenizer: Any, max_length: int) -> Dataset:
    texts = list(part["text"])
    ids: list[list[int]] = []
    if texts:  # a test split may be empty, and some tokenizers fail on no text
        with _errors_only():
            ids = tokenizer(texts, truncation=True, max_length=max_length, padding=False)["input_ids"]
    # A text of characters that the vocabulary lacks may have no token at all, but a row needs one.
    fallback = next(
        (t for t in (tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if t is not None), 0
    )
    ids = [row or [fallback] for row in ids]
    content = {"input_ids": ids, "length": [len(row) for row in ids], "label": list(part["label"])}
    return to_dataset(content, TYPES)

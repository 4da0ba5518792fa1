"""Tokenise splits once for a model, and cache the token ids; workers read them memory-mapped.

The cache is keyed by the rows, the tokenizer's files and the length, so a second call loads no `transformers`.
Rows are cut to ``max_length`` and never padded here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from sweeper.data.base import Splits, TokenisedSplits
from sweeper.data.disk import Stored, load_or_make
from sweeper.data.prompt_tokens import PromptEncoder
from sweeper.errors import ModelError
from sweeper.fetch.files import sha256_of

__all__ = ["tokenise"]

log = logging.getLogger(__name__)

TOKENS_VERSION = 1
FEATURES = Features({"input_ids": List(Value("int32")), "length": Value("int32"), "label": Value("int64")})
OFFSET_POSITIONS = 2
OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Architectures whose first two positions stand for padding and are no places for tokens."""
TOKENIZER_FILES = ("*token*.json", "*.model", "vocab.*", "merges.txt", "*.jinja", "config.json")


def tokenise(
    splits: Splits,
    *,
    model_dir: Path,
    max_length: int,
    cache: Path,
    trust_remote_code: bool = False,
    chat: str = "never",
) -> TokenisedSplits:
    """Turn texts, or prompts with completions, into token ids.

    Args:
        splits: The rows.
        model_dir: Folder with the model's tokenizer and config.json.
        max_length: Tokens of the longest row; lowered to what the model can take.
        cache: Folder under which the ids are kept.
        trust_remote_code: Run a tokenizer's own code.
        chat: What `prompt_tokens.chat_use` returns: whether prompts go into a chat template.

    Raises:
        ModelError: The folder has no tokenizer that loads, or none with a chat template though one is needed.
        DataError: A completion is too long.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    folder = cache.expanduser() / "tokens" / _key(splits, model_dir, max_length, "" if splits.kind == "text" else chat)

    def make() -> Stored:
        tokenizer = _tokenizer(model_dir, trust_remote_code)
        length = _limit(tokenizer, model_dir, max_length)
        meta = {"pad_token_id": _pad_token(tokenizer, model_dir)}
        if splits.kind == "text":
            return Stored(parts={name: _encode(part, tokenizer, length) for name, part in parts.items()}, meta=meta)
        with _errors_only():
            encoder = PromptEncoder(tokenizer, splits, use=chat, max_length=length)
            made = {name: encoder.encode(part, name) for name, part in parts.items()}
        return Stored(parts=made, meta={**meta, "choices": encoder.choices})

    stored = load_or_make(folder, make)
    choices = tuple(tuple(choice) for choice in stored.meta.get("choices", ()))
    return TokenisedSplits(pad_token_id=int(stored.meta["pad_token_id"]), choices=choices, **stored.parts)


def _key(splits: Splits, model_dir: Path, max_length: int, chat: str) -> str:
    files = {path for pattern in TOKENIZER_FILES for path in model_dir.glob(pattern)}
    hashes = [f"{path.name}:{sha256_of(path)}" for path in sorted(files)]
    content = json.dumps([TOKENS_VERSION, splits.fingerprint, splits.kind, chat, max_length, hashes])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _tokenizer(model_dir: Path, trust_remote_code: bool) -> Any:
    # Set either way, tokenizers does not warn when a later process is started.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    try:
        with _errors_only():
            found = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{model_dir} has no tokenizer that loads: {said} Choose a model folder with a tokenizer."
        ) from error
    found.truncation_side = "right"
    return found


@contextmanager
def _errors_only() -> Iterator[None]:
    from transformers import utils

    chatter: Any = utils.logging  # without types
    before = chatter.get_verbosity()
    chatter.set_verbosity_error()
    try:
        yield
    finally:
        chatter.set_verbosity(before)


def _limit(tokenizer: Any, model_dir: Path, max_length: int) -> int:
    config = json.loads((model_dir / "config.json").read_text()) if (model_dir / "config.json").exists() else {}
    offset = OFFSET_POSITIONS if config.get("model_type") in OFFSET_TYPES else 0
    positions = config.get("max_position_embeddings") or max_length + offset
    limit = int(min(max_length, tokenizer.model_max_length, positions - offset))
    if limit < max_length:
        log.warning("model.max_length=%d: the model takes %d tokens at most; rows are cut to that", max_length, limit)
    return limit


def _pad_token(tokenizer: Any, model_dir: Path) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(
        f"the tokenizer in {model_dir} has neither a padding nor an end token; set pad_token in its config."
    )


def _encode(part: Dataset, tokenizer: Any, max_length: int) -> Dataset:
    texts = list(part["text"])
    ids: list[list[int]] = []
    if texts:  # a test split may be empty, and some tokenizers fail on no text
        with _errors_only():
            ids = tokenizer(texts, truncation=True, max_length=max_length, padding=False)["input_ids"]
    # A text of which the vocabulary knows nothing may have no token at all; a row needs one.
    fallback = next(
        (t for t in (tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if t is not None), 0
    )
    ids = [row or [fallback] for row in ids]
    content = {"input_ids": ids, "length": [len(row) for row in ids], "label": list(part["label"])}
    return Dataset.from_dict(content, features=FEATURES)

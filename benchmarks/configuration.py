"""The configuration that every contender starts from, for a dataset of conf/ or a variant (`variants`).

The peers train as people write such scripts: three epochs, a random head, and one learning rate for adapter and head.
sweeper may have other defaults, so a comparison at equal work fixes these for all contenders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.variants import VARIANTS, variants
from sweeper.config.compose import CONFIG_DIR, SweepConfig, compose
from sweeper.config.space import Dimension
from sweeper.disk.atomic import write_atomic

__all__ = ["EQUAL_WORK", "HEAD_RATIO", "compose_equal_work", "head_ratio_dimension", "variant_dir"]

HEAD_RATIO = "train.head_lr_ratio"
EQUAL_WORK = ("train.epochs=3", "train.head_init=random", f"{HEAD_RATIO}=1")
"""What the peers do. Later overrides of the same keys win."""


def compose_equal_work(dataset: str, cache: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Return the configuration of a peer, and of sweeper at equal work.

    Args:
        dataset: Name of a file in conf/dataset, or of a variant.
        cache: Folder of fetched models and datasets.
        overrides: Further Hydra overrides.
    """
    asked = [f"dataset={dataset}", f"cache={cache}", *EQUAL_WORK, *overrides]
    return compose(asked, config_dir=variant_dir(dataset, cache))


def head_ratio_dimension() -> Dimension:
    """Return the interval in which sweeper searches the ratio by default."""
    return next(dimension for dimension in compose([]).space.dimensions if dimension.key == HEAD_RATIO)


def variant_dir(dataset: str, cache: Path) -> Path | None:
    """Return a folder for ``--config-dir`` that has this variant, or None if conf/ has the dataset."""
    name = f"{dataset}.yaml"
    if (CONFIG_DIR / "dataset" / name).exists() or dataset not in VARIANTS:
        return None
    folder = cache / "variants" / "conf"
    path = folder / "dataset" / name
    text = f"# @package dataset.{dataset}\n{yaml.safe_dump(variants(cache)[dataset], sort_keys=False)}"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())
    return folder

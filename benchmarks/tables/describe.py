"""Writes what the tables have into README.md, between two markers; `make tables` calls it at its end.

python -m benchmarks.tables.describe
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.arithmetic import table
from benchmarks.tables.make import FOLDER
from benchmarks.tables.plans import PLANS
from sweeper.config.compose import compose
from sweeper.config.dimensions import parse_space
from sweeper.disk.atomic import write_atomic
from sweeper.figures.recipes import default_recipe
from sweeper.search.proposals import fit_recipes

__all__ = ["describe", "overview", "read_about"]

BEGIN, END = "<!-- begin: python -m benchmarks.tables.describe -->", "<!-- end -->"
_HEADER = (
    "table",
    "model",
    "rows: train, validation, test",
    "labels",
    "settings",
    "trials",
    "failed",
    "probe or untuned",
    "nearest to the default recipe",
    "best",
    "SD between seeds",
    "device hours",
)
_SECONDS_PER_HOUR = 3600.0


def main() -> None:
    """Write the overview into README.md."""
    page = FOLDER / "README.md"
    write_atomic(page, describe(page.read_text("utf-8"), FOLDER).encode())


def describe(page: str, folder: Path) -> str:
    """Return a page with the overview of a folder's tables between its markers.

    Args:
        page: The page.
        folder: Folder of the tables.
    """
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{overview(folder)}\n{END}{after}"


def overview(folder: Path) -> str:
    """Return a Markdown table with a row for every table of a folder, in the order of `PLANS`."""
    names = [name for name in PLANS if (folder / f"{name}.parquet").exists()]
    return table(_HEADER, [_row(name, folder / f"{name}.parquet") for name in names])


def read_about(path: Path) -> Mapping[str, Any]:
    """Return what a table's metadata say about it."""
    about: Mapping[str, Any] = json.loads(pq.read_schema(path).metadata[b"sweeper"])
    return about


def _row(name: str, path: Path) -> list[object]:
    frame, about = pd.read_parquet(path), read_about(path)
    ends = frame[frame["chunk"] == about["num_chunks"]].dropna(subset=["score"])
    means = ends.groupby("setting")["score"].agg(["mean", "std", "count"])
    # The best of many single scores is a lucky one, so settings with several seeds come first.
    repeated = means[means["count"] > 1]
    candidates = means if repeated.empty else repeated
    best = candidates["mean"].idxmax()
    nearest = _nearest_to_default(frame, about)
    last = frame.sort_values("chunk").groupby(["setting", "seed"])[["train_s", "score_s"]].last()
    rows = about["rows"]
    return [
        name,
        about["model"],
        ", ".join(str(rows[split]) for split in ("train", "validation", "test")),
        about["labels"],
        frame["setting"].nunique(),
        len(last),
        int((frame["failure"] != "").sum()),
        f"{max(scores[about['metric']] for scores in about['baselines'].values()):.3f}",
        f"{means['mean'].get(nearest, math.nan):.3f} (setting {nearest})",
        f"{candidates['mean'][best]:.3f} (setting {best}, {_seeds(candidates['count'][best])})",
        "" if repeated.empty else f"{repeated['std'].median():.4f}",
        f"{last.to_numpy().sum() / _SECONDS_PER_HOUR:.2f}",
    ]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _nearest_to_default(frame: pd.DataFrame, about: Mapping[str, Any]) -> int:
    """Return the setting that is nearest to the default recipe in the unit cube of the space."""
    space, settings = parse_space(about["space"]), compose(["dataset=trec"]).settings
    recipe = default_recipe(settings.search)
    assert recipe is not None
    ((_, params),) = fit_recipes([recipe], space, {"train.head_lr_ratio": settings.train.head_lr_ratio})
    points = frame.drop_duplicates("setting")
    units = np.array([[d.unit(value) for value in points[d.key]] for d in space.dimensions])
    wanted = np.array([[d.unit(params[d.key])] for d in space.dimensions])
    return int(points["setting"].iloc[int(((units - wanted) ** 2).sum(0).argmin())])


if __name__ == "__main__":
    main()

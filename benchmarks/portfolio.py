"""Computes the portfolios that sweeper ships from the tables of real trials (``make portfolio``).

    python -m benchmarks.portfolio

Writes ``sweeper/search/portfolios/<model>.json``: every setting of the model's tables with its quantile in each table,
in the order in which `sweeper.search.portfolio` chooses them. A pure function of the tables: the same tables give the
same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sweeper.config.dimensions import parse_space
from sweeper.config.space import SearchSpace
from sweeper.disk.atomic import make_folder, write_atomic
from sweeper.search.portfolio import Ranking, choose_portfolio, to_quantiles

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "tables"
PORTFOLIOS = ROOT / "sweeper" / "search" / "portfolios"
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "minilm": {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384},
    "smollm2": {"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576},
}
"""What a model's config.json says if it is one of these; their weights may be others, e.g. those of the hub."""
_MIN_SETTINGS = 16
"""Least settings of a table that is used: it may still be growing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedTable:
    """A table's settings and how good each is."""

    about: Mapping[str, Any]
    """What the table says of itself."""
    ranking: Ranking
    scores: tuple[float, ...]
    """Final score of each configuration, the mean over its seeds; NaN if it failed."""
    num_trials: int

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.ranking.source

    @property
    def space(self) -> SearchSpace:
        """Its search space."""
        return parse_space(self.about["space"])


def main() -> None:
    """Write the portfolio of each model that has tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--folder", type=Path, default=PORTFOLIOS)
    asked = parser.parse_args()
    tables = read_tables(asked.tables)
    make_folder(asked.folder)
    for model in ARCHITECTURES:
        own = [table for table in tables if table.about["model"] == model]
        if own:
            path = asked.folder / f"{model}.json"
            write_atomic(path, json_lines(portfolio(model, own)))
            print(f"{path}: {len(own)} tables")


def read_tables(folder: Path) -> list[RankedTable]:
    """Return the tables of a folder that have enough settings, by name."""
    tables = [read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return [table for table in tables if len(table.scores) >= _MIN_SETTINGS]


def read_table(path: Path) -> RankedTable:
    """Return the settings of a table by their final scores."""
    about = json.loads(pq.read_schema(path).metadata[b"sweeper"])
    frame = pd.read_parquet(path)
    last = frame.sort_values("chunk").groupby(["setting", "seed"]).last().reset_index()
    is_whole = (last["chunk"] == about["num_chunks"]) & (last["failure"] == "")
    last["score"] = last["score"].where(is_whole)
    # A setting that fails with one seed is not worth proposing.
    means = last.groupby("setting").agg(
        {**dict.fromkeys(about["space"], "first"), "score": lambda s: s.mean(skipna=False)}
    )
    sign = 1.0 if about["direction"] == "maximize" else -1.0
    space = parse_space(about["space"])
    integers = {dimension.key for dimension in space.dimensions if dimension.is_integer}
    configurations = [
        {key: int(row[key]) if key in integers else float(f"{row[key]:.6g}") for key in space.keys}
        for row in means.to_dict("records")
    ]
    scores = tuple(float(score) for score in means["score"])
    ranks = [float("-inf") if score != score else sign * score for score in scores]  # noqa: PLR0124  NaN
    ranking = Ranking(source=path.stem, configurations=tuple(configurations), quantiles=to_quantiles(ranks))
    return RankedTable(about=about, ranking=ranking, scores=scores, num_trials=len(last))


def portfolio(model: str, tables: list[RankedTable]) -> dict[str, Any]:
    """Return the content of a portfolio file.

    Args:
        model: Name of the model.
        tables: Its tables, at least one.
    """
    measured: dict[tuple, dict[str, Any]] = {}
    for table in tables:
        pairs = zip(table.ranking.configurations, table.ranking.quantiles, strict=True)
        for params, quantile in pairs:
            point = measured.setdefault(tuple(params.items()), {"params": dict(params), "quantiles": {}})
            point["quantiles"][table.name] = round(quantile, 4)
    chosen = choose_portfolio([table.ranking for table in tables], tables[0].space, fixed={}, limit=len(measured))
    order = {tuple(point.params.items()): position for position, point in enumerate(chosen)}
    points = sorted(measured.values(), key=lambda point: _order(order, point))
    return {
        "name": model,
        "architecture": ARCHITECTURES[model],
        "task": tables[0].about["task"],
        "tables": {table.name: _summary(table) for table in tables},
        "points": points,
    }


def json_lines(content: Mapping[str, Any]) -> bytes:
    """Return a portfolio as JSON with a line for each point."""
    head = {key: value for key, value in content.items() if key != "points"}
    lines = ",\n".join(f"  {json.dumps(point)}" for point in content["points"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "points": [\n{lines}\n ]\n}}\n'.encode()


def _order(order: Mapping[tuple, int], point: Mapping[str, Any]) -> tuple[int, float]:
    """Return where a point stands: the chosen ones first, in their order; then by mean quantile."""
    quantiles = point["quantiles"].values()
    return order.get(tuple(point["params"].items()), len(order)), -sum(quantiles) / len(quantiles)


def _summary(table: RankedTable) -> dict[str, Any]:
    about = table.about
    return {
        "dataset": about["dataset"],
        "metric": about["metric"],
        "train_rows": about["rows"]["train"],
        "settings": len(table.scores),
        "trials": table.num_trials,
    }


if __name__ == "__main__":
    main()

"""Computes the portfolios that sweeper ships from the tables of real trials (``make portfolio``).

    python -m benchmarks.portfolio             the files
    python -m benchmarks.portfolio --replay    and what they are worth, a second for each study: 120 a table

Writes ``sweeper/search/portfolios/<model>.json``: every setting of the model's tables with its quantile in each table,
in the order in which `sweeper.search.portfolio` chooses them. A pure function of the tables: the same tables give the
same files.

The replay leaves each table out, chooses a portfolio from the other tables of the model, and runs the search with it on
the table left out (`sweeper.simulate`), with the search's default settings and recipes. It is compared with the search
without a portfolio, and with an adversarial one: that of the same table with its order reversed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from benchmarks.arithmetic import paired_difference
from sweeper.config.compose import compose
from sweeper.config.dimensions import parse_space
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import LoraSettings, TrainSettings
from sweeper.config.space import SearchSpace
from sweeper.disk.atomic import make_folder, write_atomic
from sweeper.search.portfolio import Ranking, choose_portfolio, to_quantiles
from sweeper.search.proposals import fit_recipes
from sweeper.simulate.response import TableResponse
from sweeper.simulate.study import simulate_study
from sweeper.simulate.table import Table
from sweeper.sweep.warm_start import num_portfolio_points
from sweeper.types import PortfolioPoint

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "tables"
PORTFOLIOS = ROOT / "sweeper" / "search" / "portfolios"
RESULTS = ROOT / "benchmarks" / "results"
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "minilm": {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384},
    "smollm2": {"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576},
}
"""What a model's config.json says if it is one of these; their weights may be others, e.g. those of the hub."""
_OVERRIDES = {"minilm": ["dataset=trec"], "smollm2": ["experiment=smollm2_trec"]}
_LANES = 4
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedTable:
    """Regrets of the incumbents on a table, one for each seed, after so many trials."""

    name: str
    best: float
    """The best mean score of the table."""
    cold_16: Sequence[float]
    """Without a portfolio."""
    warm_8: Sequence[float]
    """With that of the other tables."""
    cold_24: Sequence[float]
    warm_24: Sequence[float]
    adverse_24: Sequence[float]
    """With the worst configurations of the table."""


def main() -> None:
    """Write the portfolio of each model that has tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--folder", type=Path, default=PORTFOLIOS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    tables = read_tables(asked.tables)
    make_folder(asked.folder)
    for model in ARCHITECTURES:
        own = [table for table in tables if table.about["model"] == model]
        if own:
            path = asked.folder / f"{model}.json"
            write_atomic(path, json_lines(portfolio(model, own)))
            print(f"{path}: {len(own)} tables")
    if asked.replay:
        found = (replay(table, tables, asked.tables, asked.seeds) for table in tables)
        rows = [row for row in found if row is not None]
        write_atomic(asked.results / "portfolio.md", results_page(rows, asked.seeds).encode())


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
    is_failed = last["score"].isna().groupby(last["setting"]).any()
    means = last.groupby("setting").agg({**dict.fromkeys(about["space"], "first"), "score": "mean"})
    means["score"] = means["score"].mask(is_failed)
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


def replay(table: RankedTable, tables: list[RankedTable], folder: Path, num_seeds: int) -> ReplayedTable | None:
    """Replay searches on a table; None if the model has no other table.

    Args:
        table: The table that is left out.
        tables: All tables.
        folder: Where they are.
        num_seeds: Studies of each kind.
    """
    others = [each.ranking for each in tables if each is not table and each.about["model"] == table.about["model"]]
    if not others:
        return None
    search = compose(_OVERRIDES[table.about["model"]]).settings.search
    response = TableResponse(Table.read(folder / f"{table.name}.parquet"))
    fixed = Hyperparameters(LoraSettings(), TrainSettings()).with_params(response.fixed).by_key()
    known = [params for _, params in fit_recipes(search.recipes, response.space, fixed)]
    reversed_ranking = replace(table.ranking, quantiles=tuple(1 - q for q in table.ranking.quantiles))
    warm, adverse = (
        choose_portfolio(rankings, response.space, fixed=fixed, known=known, limit=num_portfolio_points(search))
        for rankings in (others, [reversed_ranking])
    )

    def regrets(points: Sequence[PortfolioPoint], num_trials: int) -> list[float]:
        studies = (
            simulate_study(response, search, seed=seed, portfolio=points, num_trials=num_trials, lanes=_LANES)
            for seed in range(num_seeds)
        )
        return [study.regret_at() for study in studies]

    return ReplayedTable(
        name=table.name,
        best=response.best_mean,
        cold_16=regrets((), 16),
        warm_8=regrets(warm, 8),
        cold_24=regrets((), 24),
        warm_24=regrets(warm, 24),
        adverse_24=regrets(adverse, 24),
    )


def results_page(rows: Sequence[ReplayedTable], num_seeds: int) -> str:
    """Return the page of the replay's results."""
    lines = [
        "# Portfolios, one table left out",
        "",
        f"Mean regret of the incumbent ({num_seeds} seeds, {_LANES} lanes): by how much its mean score is worse than "
        "the best of the table. Differences are paired, with 95 % intervals; negative ones favour the portfolio.",
        "",
        "| table | best score | none, 16 trials | portfolio, 8 trials | difference |"
        " none, 24 trials | portfolio | difference | reversed | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row.name, f"{row.best:.4f}", _mean(row.cold_16), _mean(row.warm_8), _paired(row.warm_8, row.cold_16)]
        cells += [_mean(row.cold_24), _mean(row.warm_24), _paired(row.warm_24, row.cold_24)]
        cells += [_mean(row.adverse_24), _paired(row.adverse_24, row.cold_24)]
        lines.append(f"| {' | '.join(cells)} |")
    met = sum(round(fmean(row.warm_8) - fmean(row.cold_16), 3) <= 0 for row in rows)
    harm = max((fmean(row.adverse_24) - fmean(row.cold_24) for row in rows), default=0.0)
    lines += [
        "",
        f"After 8 trials with a portfolio, the regret is at most that after 16 without, to three decimals, on {met} of "
        f"{len(rows)} tables. The largest harm of a reversed portfolio after 24 trials is {harm:.4f}.",
    ]
    return "\n".join(lines) + "\n"


def _mean(regrets: Sequence[float]) -> str:
    return f"{fmean(regrets):.4f}"


def _paired(ones: Sequence[float], others: Sequence[float]) -> str:
    paired = paired_difference(ones, others)
    return f"{paired.mean:+.4f} ({paired.low:+.4f} to {paired.high:+.4f})"


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

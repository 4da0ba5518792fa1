"""Portfolio files from tables of trials (`benchmarks/portfolio.py`): which settings are good, and what is replayed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import portfolio
from benchmarks.portfolio import PORTFOLIOS, TABLES, ReplayedTable, json_lines, read_table, read_tables
from sweeper.search.portfolio import read_portfolio

SPACE = {"lora.r": "tag(log2,interval(1,64))", "train.learning_rate": "tag(log,interval(1e-4,1e-2))"}
CHUNKS = 2


def _write(folder, name, scores, *, model="minilm", failed=(), unfinished=(), direction="maximize"):
    """Write a table; ``scores`` maps each setting to the final scores of its seeds."""
    rows = []
    for setting, finals in scores.items():
        for seed, score in enumerate(finals):
            params = {"lora.r": 2.0 ** (setting % 7), "train.learning_rate": 1e-4 * 100 ** (setting / 20)}
            last = 1 if setting in (*failed, *unfinished) else CHUNKS
            failure = "diverged" if setting in failed else ""
            for chunk in range(1, last + 1):
                row = {"setting": setting, "seed": seed, "chunk": chunk, **params}
                rows.append({**row, "failure": failure, "score": score if chunk == CHUNKS else 0.99})
    about = {
        "dataset": name,
        "model": model,
        "task": "text_classification",
        "metric": "validation/accuracy",
        "direction": direction,
        "num_chunks": CHUNKS,
        "rows": {"train": 100},
        "space": SPACE,
    }
    table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
    path = folder / f"{name}.parquet"
    pq.write_table(table.replace_schema_metadata({"sweeper": json.dumps(about)}), path)
    return path


def _quantiles(table):
    return [round(quantile, 3) for quantile in table.ranking.quantiles]


def test_settings_are_ranked_by_the_mean_of_their_seeds_at_the_last_chunk(tmp_path):
    # Setting 0 has the highest single score, setting 1 the highest mean; all have 0.99 after the first chunk.
    table = read_table(_write(tmp_path, "one", {0: (0.95, 0.5), 1: (0.8, 0.8), 2: (0.7,), 3: (0.6,)}))
    assert _quantiles(table) == [0.625, 0.875, 0.375, 0.125]
    assert table.num_trials == 6


def test_settings_that_failed_or_did_not_end_rank_below_all_others(tmp_path):
    table = read_table(_write(tmp_path, "one", {0: (0.9,), 1: (0.1,), 2: (0.9,)}, failed=[0], unfinished=[2]))
    assert _quantiles(table) == [0.333, 0.833, 0.333]


def test_a_lower_score_is_better_if_the_table_minimises(tmp_path):
    table = read_table(_write(tmp_path, "one", {0: (0.9,), 1: (0.1,)}, direction="minimize"))
    assert _quantiles(table) == [0.25, 0.75]


def test_a_table_of_few_settings_is_left_out_and_a_missing_folder_is_no_error(tmp_path):
    _write(tmp_path, "young", dict.fromkeys(range(15), (0.5,)))
    _write(tmp_path, "old", {n: (0.5 + n / 100,) for n in range(16)})
    assert [table.name for table in read_tables(tmp_path)] == ["old"]
    assert read_tables(tmp_path / "nowhere") == []


def test_a_file_has_every_setting_with_its_quantiles_the_chosen_ones_first(tmp_path):
    _write(tmp_path, "up", {n: (0.5 + n / 100,) for n in range(20)})
    _write(tmp_path, "down", {n: (0.9 - n / 100,) for n in range(16)})
    content = portfolio.portfolio("minilm", read_tables(tmp_path))
    assert set(content["tables"]) == {"up", "down"}
    assert content["tables"]["down"] == {
        "dataset": "down",
        "metric": "validation/accuracy",
        "train_rows": 100,
        "settings": 16,
        "trials": 16,
    }
    assert len(content["points"]) == 20
    assert all(set(point["quantiles"]) <= {"up", "down"} for point in content["points"])
    path = tmp_path / "minilm.json"
    path.write_bytes(json_lines(content))
    read = read_portfolio(path)
    assert [dict(point) for point in read.points] == [point["params"] for point in content["points"]]
    assert {len(ranking.quantiles) for ranking in read.rankings} == {20, 16}
    assert json_lines(portfolio.portfolio("minilm", read_tables(tmp_path))) == path.read_bytes()


def test_a_replay_leaves_the_table_out_and_compares_with_its_reverse(tmp_path, monkeypatch):
    for name in ("one", "two"):
        _write(tmp_path, name, {n: (0.5 + n / 100,) for n in range(20)})
    _write(tmp_path, "other_model", dict.fromkeys(range(20), (0.5,)), model="smollm2")
    tables = read_tables(tmp_path)
    response = SimpleNamespace(fixed={}, space=tables[0].space, best_mean=0.9)
    asked = []

    def simulated(*_args, portfolio, num_trials, **_options):
        asked.append((num_trials, {point.source for point in portfolio}, [dict(point.params) for point in portfolio]))
        return SimpleNamespace(regret_at=lambda: 0.1)

    monkeypatch.setattr(portfolio, "simulate_study", simulated)
    monkeypatch.setattr(portfolio, "TableResponse", lambda _table: response)
    monkeypatch.setattr(portfolio, "Table", SimpleNamespace(read=lambda path: path))
    row = portfolio.replay(tables[0], tables, tmp_path, 1)
    assert row.warm_8 == [0.1]
    sources = [(num_trials, sources) for num_trials, sources, _ in asked]
    assert (16, set()) in sources
    assert (8, {"two"}) in sources
    assert [each for each in sources if each[0] == 24] == [(24, set()), (24, {"two"}), (24, {"one"})]
    warm, adverse = asked[-2][2], asked[-1][2]
    assert min(p["train.learning_rate"] for p in warm[:1]) > max(p["train.learning_rate"] for p in adverse[:1])
    only = next(table for table in tables if table.name == "other_model")
    assert portfolio.replay(only, tables, tmp_path, 1) is None


def test_the_page_counts_tables_and_names_the_largest_harm():
    same = ReplayedTable(
        name="same", best=0.9, cold_16=[0.1, 0.1], warm_8=[0.1, 0.1], cold_24=[0.05] * 2, warm_24=[0.05] * 2,
        adverse_24=[0.054, 0.054],
    )  # fmt: skip
    worse = ReplayedTable(
        name="worse", best=0.9, cold_16=[0.1, 0.1], warm_8=[0.11, 0.11], cold_24=[0.05] * 2, warm_24=[0.05] * 2,
        adverse_24=[0.051, 0.051],
    )  # fmt: skip
    page = portfolio.results_page([same, worse], 2)
    assert "on 1 of 2 tables" in page
    assert "The largest harm of a reversed portfolio after 24 trials is 0.0040." in page
    assert "| worse | 0.9000 | 0.1000 | 0.1100 | +0.0100" in page


@pytest.mark.parametrize("model", portfolio.ARCHITECTURES)
def test_the_shipped_portfolios_are_those_of_the_tables(model):
    tables = [table for table in read_tables(TABLES) if table.about["model"] == model]
    if not tables:
        pytest.skip(f"there is no table of {model} here")
    shipped = (PORTFOLIOS / f"{model}.json").read_bytes()
    assert shipped == json_lines(portfolio.portfolio(model, tables)), "run `make portfolio`"

"""Sweeps of files that are not as they should be, but can be used."""

from __future__ import annotations

import gzip
import json
import math

import pytest

import sweeper
from sweeper.store.trials import TrialStore
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

STUDY = "tiny-tinybert-lora"


@pytest.fixture
def rare(tmp_path, tiny_bert, tiny_cache):
    """Overrides of a sweep in which two validation rows and a test row have a label that no training row has."""
    path = write_rows(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = "train" if number < 90 else "validation" if number < 120 else "test"
        row["label"] = "rare" if number in (100, 101, 130) else row["label"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return overrides_of(tmp_path, path, tiny_bert, tiny_cache)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "loss"])
def test_a_label_that_no_training_row_has_counts_as_an_error_all_the_way(rare, tmp_path, metric):
    confirm = ["confirm=default", "confirm.max_share=3", "confirm.seeds=2", "confirm.max_seeds=2", "budget.trials=3"]
    result = sweeper.run([*rare, *confirm, f"task.metric={metric}"])
    (study,) = result["studies"]
    assert "rare" not in study["labels"]
    assert math.isfinite(study["best"]["value"])
    values = [seed["value"] for candidate in study["confirmation"]["candidates"] for seed in candidate["seeds"]]
    assert len(values) >= 2
    assert all(map(math.isfinite, values))

    store = TrialStore(tmp_path / "outputs" / "tiny")
    states = {str(trial.state) for trial in store.trials(STUDY)}
    assert states <= {"complete", "pruned"}
    outcomes = sweeper.load(store.root).outcomes()
    unlearnt = outcomes[outcomes["target"].isna()]
    assert unlearnt.groupby("trial").size().unique().tolist() == [2]
    assert not unlearnt["is_right"].any()
    assert unlearnt["loss"].to_numpy() == pytest.approx(math.log(len(study["labels"])), rel=1e-3)

    assert "no training row has the label 'rare'" in store.paths.log.read_text()
    report = store.paths.report_html.read_text()
    assert "2 scored rows have a label that no training row has" in report
    assert "(label of no training row)" in report


def test_a_compressed_utf_16_file_gives_the_same_sweep(tiny, tmp_path):
    rows = tmp_path / "rows.jsonl"
    plain = sweeper.run(tiny)
    rows.write_bytes(gzip.compress(rows.read_text().encode("utf-16")))
    other = sweeper.run([*tiny, "name=other"])
    values = [[study["best"]["value"] for study in result["studies"]] for result in (plain, other)]
    assert values[0] == values[1]

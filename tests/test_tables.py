"""The tables of real trials: which trials are trained, what a row has, and what the page says about them."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.tables import make, worker
from benchmarks.tables.describe import describe, overview, read_about
from benchmarks.tables.plans import PLANS, TablePlan
from sweeper.config.dimensions import parse_space
from sweeper.search.proposals import sobol_point
from sweeper.store.outcomes import RowOutcomes
from tests.doubles import save_tiny_bert, write_rows

SPACE = {
    "lora.r": "tag(log2,interval(1,64))",
    "lora.alpha_ratio": "tag(log,interval(0.25,8))",
    "lora.dropout": "interval(0,0.2)",
    "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
    "train.head_lr_ratio": "tag(log,interval(3,100))",
}
ABOUT = {
    "model": "minilm",
    "metric": "validation/accuracy",
    "direction": "maximize",
    "labels": 6,
    "rows": {"train": 100, "validation": 40, "test": 30, "confirmation": 20},
    "num_chunks": 2,
    "baselines": {"frozen_probe": {"validation/accuracy": 0.5}, "other": {"validation/accuracy": 0.25}},
    "space": SPACE,
}


def rows_of(setting, seed=0, *, score=0.5, failure=""):
    """Two chunks of a trial, or one that fails."""
    params = sobol_point(parse_space(SPACE), 0, setting)
    row = {"setting": setting, "seed": seed, **{key: float(value) for key, value in params.items()}}
    row |= {"num_parameters": 1000, "failure": failure}
    if failure:
        return [{**row, "chunk": 1, "train_s": 900.0, "score_s": 0.0}]
    return [
        {**row, "chunk": chunk, "score": score * chunk / 2, "train_s": 900.0 * chunk, "score_s": 450.0 * chunk}
        for chunk in (1, 2)
    ]


def frame_of(*trials):
    return pd.DataFrame([row for trial in trials for row in trial])


class Process:
    """A worker's process that dies after a number of packs."""

    def __init__(self, packs, lives=99):
        self.packs, self.lives, self.stdin, self.stdout, self.replies = packs, lives, self, self, []

    def write(self, line):
        trials = json.loads(line)
        self.packs.append([tuple(trial) for trial in trials])
        rows = [row for setting, seed in trials for row in rows_of(setting, seed, score=setting / 100)]
        self.replies.append(json.dumps({"rows": rows, "about": ABOUT}) if len(self.packs) <= self.lives else "")

    def readline(self):
        return self.replies.pop()

    def flush(self): ...

    def communicate(self): ...


def make_trec(tmp_path, wanted=make.all_settings):
    make.make_table("trec", wanted, folder=tmp_path, cache=tmp_path)


# Which trials


def test_all_settings_are_trained_in_packs_and_nothing_twice(tmp_path, monkeypatch):
    packs = []
    monkeypatch.setattr(make, "_start", lambda *_: Process(packs))
    make_trec(tmp_path)
    assert [trial for pack in packs for trial in pack] == [(setting, 0) for setting in range(96)]
    assert {len(pack) for pack in packs} == {PLANS["trec"].lanes}
    make_trec(tmp_path)
    assert len(packs) == 96 // PLANS["trec"].lanes


def test_a_killed_table_keeps_its_packs_and_is_continued(tmp_path, monkeypatch):
    packs = []
    monkeypatch.setattr(make, "_start", lambda *_: Process(packs, lives=2))
    with pytest.raises(json.JSONDecodeError):
        make_trec(tmp_path)
    path = tmp_path / "trec.parquet"
    assert sorted(pd.read_parquet(path)["setting"].unique()) == list(range(16))
    assert read_about(path) == ABOUT
    del packs[:]
    monkeypatch.setattr(make, "_start", lambda *_: Process(packs))
    make_trec(tmp_path)
    assert packs[0][0] == (16, 0)
    assert pd.read_parquet(path)["setting"].nunique() == 96


def test_further_seeds_are_trained_seed_by_seed_and_do_not_change_the_choice(tmp_path, monkeypatch):
    packs = []
    monkeypatch.setattr(make, "_start", lambda *_: Process(packs))
    make_trec(tmp_path)
    del packs[:]
    make_trec(tmp_path, make.further_seeds)
    trained = [trial for pack in packs for trial in pack]
    settings = sorted({setting for setting, _ in trained})
    assert trained == [(setting, seed) for seed in (1, 2, 3) for setting in settings]
    frame = pd.read_parquet(tmp_path / "trec.parquet")
    assert make.repeated_settings(frame) == settings
    assert list(frame[["seed", "setting", "chunk"]].itertuples(index=False)) == sorted(
        frame[["seed", "setting", "chunk"]].itertuples(index=False)
    )


def test_the_best_settings_are_repeated_and_others_from_the_whole_range():
    """Scores rise with the setting, so setting 95 - n has rank n."""
    frame = frame_of(*(rows_of(setting, score=setting / 100) for setting in range(96)))
    ranks = sorted(95 - setting for setting in make.repeated_settings(frame))
    assert ranks == [0, 1, 2, 3, 4, 5, 6, 7, 13, 24, 35, 46, 57, 68, 79, 90]


def test_a_trial_that_failed_is_neither_repeated_nor_trained_again(tmp_path, monkeypatch):
    frame = frame_of(*(rows_of(setting, failure="exploded" * (setting == 7)) for setting in range(96)))
    assert 7 not in make.repeated_settings(frame)
    make._write(frame, tmp_path / "trec.parquet", ABOUT)
    monkeypatch.setattr(make, "_start", lambda *_: pytest.fail("there is nothing to train"))
    make_trec(tmp_path)


def test_an_unknown_table_is_an_error_that_names_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make", "trek"])
    with pytest.raises(SystemExit):
        make.main()
    assert "table trek is unknown; known: trec, sms_spam" in capsys.readouterr().err


# What a row has


def outcomes(**more):
    return RowOutcomes.of(
        np.array([1.0, 2.0, 3.0, 4.0, 9.0]),
        predicted_N=np.array([0, 1, 1, 1, 1]),
        target_N=np.array([0, 0, 1, 1, 1]),
        num_labels=2,
        **more,
    )


def test_half_scores_are_those_of_the_first_rows():
    assert worker._half_score(outcomes()) == 0.5
    assert worker._half_loss(outcomes()) == 1.5


def test_losses_of_completions_are_per_token():
    assert worker._half_loss(outcomes(tokens_N=np.array([2, 4, 1, 1, 1]))) == 0.5


@pytest.fixture
def tiny_plan(tmp_path, monkeypatch):
    model = save_tiny_bert(tmp_path / "tiny-bert")
    settings = {"name": "tiny", "source": "files", "path": str(write_rows(tmp_path / "rows.jsonl"))}
    monkeypatch.setattr(worker, "variants", lambda _: {"tiny": {**settings, "validation_rows": 30, "test_rows": 30}})
    overrides = ("model=hub", f"model.id={model}", "model.name=tinybert", "model.dtype=float32", "train.batch_size=8")
    return TablePlan(dataset="tiny", train_rows=64, epochs=2, num_chunks=4, overrides=overrides)


@pytest.fixture
def page():
    return (make.FOLDER / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_pack_is_trained_to_the_end_and_scored_after_every_chunk(tmp_path, tiny_plan, monkeypatch, capsys, page):
    monkeypatch.setattr("sys.stdin", io.StringIO("[[0, 0], [1, 0], [0, 5], [0, 0]]\n[[0, 0]]\n"))
    monkeypatch.setitem(make.PLANS, "tiny", tiny_plan)
    make._serve("tiny", tmp_path / "cache")
    pack, alone = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    frame = pd.DataFrame(pack["rows"])
    assert list(frame["chunk"]) == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert frame["score"].between(0, 1).all()
    assert frame["test_score"].notna().tolist() == [False] * 12 + [True] * 4
    assert (frame.groupby("chunk")[["train_s", "score_s"]].nunique() == 1).all(axis=None)
    assert frame.drop_duplicates("chunk")["score_s"].is_monotonic_increasing
    # Rows of one trial do not depend on its pack; another seed gives another trial, and so does another setting.
    first, setting, seed, again = (frame.iloc[lane::4]["train_loss"].tolist() for lane in range(4))
    assert first == again == pytest.approx([row["train_loss"] for row in alone["rows"]], rel=1e-5)
    assert first != seed != setting
    about = pack["about"]
    assert about["rows"]["validation"] == 30
    assert set(about["space"]) == {key for key in frame.columns if "." in key}
    documented = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE))))
    assert documented == {*frame.columns, *about}


@pytest.mark.slow
def test_a_trial_that_fails_has_one_row_more_and_the_others_pay_for_what_they_use(tmp_path, tiny_plan, monkeypatch):
    from sweeper.train import worker as training

    table = worker.TableWorker(tiny_plan, tmp_path / "cache")
    real = training.find_diverged

    def find(losses, what, *limit):
        chunk = next(iter(table._lanes.values())).chunks_done
        broken = {1: float("nan")} if chunk == 2 and "training" in what else {}
        return real({**losses, **broken}, what, *limit)

    monkeypatch.setattr(training, "find_diverged", find)
    monkeypatch.setattr(worker.time, "process_time", iter(range(1000)).__next__)
    frame = pd.DataFrame(table.train([(0, 0), (1, 0)]))
    failed, other = frame[frame["setting"] == 1], frame[frame["setting"] == 0]
    assert failed["failure"].tolist() == ["", "non_finite"]
    assert failed["score"].notna().tolist() == [True, False]
    # Each chunk takes two seconds more than its scoring, which takes one.
    assert failed["train_s"].tolist() == [1.0, 2.0]
    assert other["train_s"].tolist() == [1.0, 2.0, 4.0, 6.0]
    assert other["score_s"].tolist() == [0.5, 1.0, 2.0, 3.0]


# What the page says


def test_the_overview_is_computed_from_the_tables(tmp_path):
    frame = frame_of(
        *(rows_of(setting, score=0.4) for setting in range(14)),
        rows_of(14, score=0.9),
        rows_of(15, score=0.8),
        rows_of(15, seed=1, score=0.6),
        rows_of(16, score=0.7),
        rows_of(16, seed=1, score=0.6),
        rows_of(17, failure="exploded"),
    )
    make._write(frame, tmp_path / "trec.parquet", ABOUT)
    row = overview(tmp_path).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:7] == ["trec", "minilm", "100, 40, 30", "6", "18", "20", "1"]
    # Setting 14 has one seed, setting 15 a mean of 0.7; sixteen trials of 0.75 hours and one of 0.25.
    assert cells[7:] == ["0.500", "0.700 (setting 15)", "0.700 (setting 15, 2 seeds)", "0.1061", "14.50"]


def test_the_page_is_up_to_date_with_the_tables_beside_it(page):
    assert describe(page, make.FOLDER) == page, "run: python -m benchmarks.tables.describe"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys, page):
    folder = tmp_path / "benchmarks" / "tables"
    folder.mkdir(parents=True)
    frame = frame_of(*(rows_of(setting, score=setting / 20) for setting in range(20)), rows_of(20, failure="exploded"))
    make._write(frame, folder / "trec.parquet", ABOUT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(example, names)  # noqa: S102  our own page
    assert "regret of setting 0: 0.95" in capsys.readouterr().out
    assert len(names["study"].trials) == 20
    assert names["evaluate"](19, 1) == 19 / 40

"""Tables: what is read from a file and from a sweep, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.config.dimensions import parse_space
from sweeper.errors import ConfigError
from sweeper.search.proposals import sobol_point
from sweeper.simulate.table import MIN_SETTINGS, Table, places
from sweeper.types import Cost, TrialState
from tests.builders import make_measurement, make_spec, make_study, make_trial
from tests.simulate.recorded import MAJORITY, NUM_CHUNKS, SPACE, write_table


@pytest.fixture
def path(tmp_path):
    return write_table(tmp_path / "toy.parquet", settings=24, repeated=4)


def test_a_table_has_every_trial_with_its_curve(path):
    table = Table.read(path)
    assert (table.name, table.space, table.num_chunks, table.num_rows) == ("toy", SPACE, NUM_CHUNKS, 400)
    assert len(table.trials) == 24 + 4 * 3
    assert [trial.seed for trial in table.trials] == [0] * 24 + [1] * 4 + [2] * 4 + [3] * 4
    assert dict(table.trials[5].params) == sobol_point(SPACE, 0, 5)
    assert isinstance(table.trials[5].params["lora.r"], int)
    frame = pq.read_table(path).to_pylist()
    own = [row["score"] for row in frame if (row["setting"], row["seed"]) == (5, 0)]
    assert table.trials[5].score.tolist() == own


def test_seconds_are_those_of_each_chunk_not_since_the_start(path):
    trial = Table.read(path).trials[0]
    assert trial.train_s.tolist() == pytest.approx([0.5] * NUM_CHUNKS)
    assert trial.score_s == pytest.approx(0.4)


def test_the_majority_share_is_the_score_of_collapsed_trials(path):
    table = Table.read(path)
    assert (table.majority, table.half_majority) == (MAJORITY, MAJORITY)


def test_a_measured_majority_share_counts_more(tmp_path):
    table = Table.read(write_table(tmp_path / "toy.parquet", majority=[0.3, 0.25]))
    assert (table.majority, table.half_majority) == (0.3, 0.25)


def test_a_failed_trial_ends_with_its_failure(path):
    content = pq.read_table(path)
    rows = content.to_pylist()
    kept = [row for row in rows if row["setting"] != 3 or row["chunk"] <= 5]
    kept += [{**row, "failure": "non_finite"} for row in rows if row["setting"] == 3 and row["chunk"] == 6]
    pq.write_table(pa.Table.from_pylist(kept, schema=content.schema), path)
    failed = [trial for trial in Table.read(path).trials if trial.has_failed]
    assert [dict(trial.params) for trial in failed[:1]] == [sobol_point(SPACE, 0, 3)]
    assert np.isfinite(failed[0].score).tolist() == [True] * 5 + [False] * 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "cannot be read"),
        (lambda path: path.write_text("no table"), "cannot be read"),
        (lambda path: pq.write_table(pa.table({"score": [0.5]}), path), "does not say what it is a table of"),
        (lambda path: pq.write_table(pq.read_table(path).drop_columns(["half_loss"]), path), "no column half_loss"),
        (lambda path: write_table(path, settings=MIN_SETTINGS - 1), "only 11 configurations were trained to the end"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(path, damage, message):
    damage(path)
    with pytest.raises(ConfigError, match=message) as caught:
        Table.read(path)
    assert str(path) in str(caught.value)


def study_trial(number, *, chunks=NUM_CHUNKS, state=TrialState.COMPLETE, **changes):
    """Make a trial of a sweep with rungs at 3, 6 and 12; a chunk takes 2 s, and scoring all rows 4 s."""
    measurements, elapsed_s = [], 0.0
    for chunk in range(1, chunks + 1):
        metrics, scored = {"train/loss": 1 / chunk}, 0
        elapsed_s += 2.0
        if chunk in (3, 6, 12):
            scored = 400 if chunk == 12 else 200
            metrics |= {"validation/accuracy": (number + chunk) / 100, "validation/loss": 1.0}
            elapsed_s += 4.0 * scored / 400
        measurement = make_measurement(chunk, metrics=metrics, elapsed_s=elapsed_s, scored_rows=scored)
        measurements.append(measurement)
    spec = make_spec(number, params=sobol_point(SPACE, 0, number), **changes)
    return make_trial(spec=spec, state=state, measurements=tuple(measurements), cost=Cost(device_s=elapsed_s))


def study_table(trials):
    return Table.of_study(make_study(space=SPACE.texts), trials)


def test_a_study_of_a_sweep_is_a_table_with_scores_at_its_rungs():
    trials = [study_trial(number) for number in range(14)]
    trials.append(study_trial(14, chunks=3, state=TrialState.PRUNED))
    table = study_table(trials)
    assert len(table.trials) == 15
    complete, pruned = table.trials[0], table.trials[14]
    assert [complete.score[chunk - 1] for chunk in (3, 6, 12)] == [0.03, 0.06, 0.12]
    assert np.isfinite(complete.score).sum() == 3
    assert np.isfinite(pruned.score).nonzero()[0].tolist() == [2]
    assert complete.score_s == pytest.approx(4.0)
    assert complete.train_s.tolist() == pytest.approx([2.0] * 12)
    assert math.isnan(table.majority)


def test_trials_with_another_fixed_value_have_no_place_in_a_table():
    trials = [study_trial(number) for number in range(14)]
    trials.append(study_trial(14, fixed={"train.head_init": "random"}))
    assert len(study_table(trials).trials) == 14


def test_a_study_with_few_complete_trials_is_refused():
    trials = [study_trial(number, chunks=3, state=TrialState.PRUNED) for number in range(20)]
    with pytest.raises(ConfigError, match="only 0 configurations"):
        study_table(trials)


LENGTHS = parse_space({**SPACE.texts, "train.epochs": "choice(1,2,4)"})


def test_the_chunks_of_a_short_trial_are_where_the_longest_is_after_the_same_share():
    assert places(3, 12).tolist() == [3, 7, 11]
    assert places(9, 12).tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert places(12, 12).tolist() == list(range(12))


def test_a_study_with_epochs_is_a_table_over_the_share_of_the_training():
    """Trials of 3, 6 and 12 chunks, each scored at its last; a chunk takes 2 s, and scoring all rows 4 s."""
    trials = []
    for number in range(15):
        epochs = (1, 2, 4)[number % 3]
        done = study_trial(number, chunks=3 * epochs)
        spec = make_spec(number, params={**sobol_point(SPACE, 0, number), "train.epochs": epochs})
        last = done.measurements[-1]
        ended = replace(last, scored_rows=400, elapsed_s=last.elapsed_s + (0.0 if epochs == 4 else 2.0))
        trials.append(replace(done, spec=spec, measurements=(*done.measurements[:-1], ended)))
    table = Table.of_study(make_study(space=LENGTHS.texts, epochs=4, chunks_per_epoch=3), trials)
    assert table.num_chunks == 12
    for trial, record in zip(table.trials, trials, strict=True):
        assert trial.score[-1] == record.measurements[-1].metrics["validation/accuracy"]
        assert trial.train_s.tolist() == pytest.approx([2.0] * 12)
    assert np.isfinite(table.trials[1].score).nonzero()[0].tolist() == [5, 11]

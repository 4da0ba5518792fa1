"""What trials of a study share: the majority's score, which pruning compares with, and the trials that are measured."""

from __future__ import annotations

import json
import random

import pytest
import torch

from sweeper.config.compose import compose
from sweeper.config.settings import DatasetSettings
from sweeper.data import open_rows
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import open_search
from sweeper.sweep.identity import _study_values
from sweeper.sweep.plan import fixed_values, plan_study, trial_template
from sweeper.tasks import make_task
from sweeper.types import Decision
from tests.builders import make_model_ref, make_study
from tests.data.test_tokens import make_tokenizer


def plan(tmp_path, *overrides):
    folder, path = make_tokenizer(tmp_path / "model"), tmp_path / "rows.jsonl"
    rng = random.Random(1)  # noqa: S311 - no secret
    texts = [{"text": f"row {number}", "label": rng.choice("aab")} for number in range(1700)]
    path.write_text("\n".join(map(json.dumps, texts)))
    dataset = DatasetSettings(name="mine", source="files", path=str(path), validation_rows=401, test_rows=0)
    config = compose(["dataset=trec", f"cache={tmp_path / 'cache'}", *overrides])
    return plan_study(config, dataset, model_dir=folder, model=make_model_ref()), folder


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc"])
def test_the_majority_is_what_a_constant_scores_on_the_rows_of_each_rung(tmp_path, metric):
    planned, folder = plan(tmp_path, f"task.metric={metric}")
    record, cache = planned.record, tmp_path / "cache"
    rows = open_rows(record.rows_ref, cache=cache, model_dir=folder, trust_remote_code=False)
    labels = torch.tensor(rows.validation["label"])
    commonest = int(labels.bincount().argmax())
    expected = []
    for rung in record.rungs:
        scored = labels[:200] if 2 * rung <= record.num_chunks else labels
        constant = torch.full_like(scored, commonest)
        expected.append(make_task("text_classification").score_labels(constant, scored, 2)[metric])
    assert len(record.rungs) > 2
    assert list(record.majority) == expected  # exactly, since scores are compared with it
    assert metric == "mcc" or len(set(expected)) == 2
    store = TrialStore(tmp_path / "sweep")
    store.write_study(record)
    assert store.read_study(record.name) == record


def test_a_loss_has_no_majority(tmp_path):
    assert plan(tmp_path, "task.metric=loss")[0].record.majority == ()


def test_a_resumed_study_keeps_its_majority(tmp_path):
    planned, _ = plan(tmp_path)
    before = planned.record
    assert planned.resumed(before).record.majority == before.majority != ()


@pytest.mark.parametrize(("majority", "decision"), [((), Decision.CONTINUE), ((0.5, 0.5, 0.5), Decision.STOP)])
def test_the_search_of_a_study_prunes_by_the_recorded_majority(tmp_path, majority, decision):
    config = compose(["dataset=trec", "search.recipes=[]"])
    study = make_study(name="toy", space=config.space.texts, majority=majority)
    with open_search(study, config, TrialStore(tmp_path / "sweep")) as search:
        found = [search.report(search.ask().number, chunk=3, value=value) for value in (0.6, 0.5)]
    assert found == [Decision.CONTINUE, decision]


def test_the_search_of_a_study_compares_no_scores_on_different_rows(tmp_path):
    """After 3 chunks, trials of 4 have scored 400 rows and those of 12 half of them: neither outrank the others."""
    config = compose(["dataset=trec", "search.recipes=[]", "search.warm_start=none", "train.epochs=choice(1,3)"])
    study = make_study(name="toy", space=config.space.texts)
    with open_search(study, config, TrialStore(tmp_path / "sweep")) as search:
        epochs, found = {}, {}
        for _ in range(12):
            proposal = search.ask()
            epochs[proposal.number] = proposal.params["train.epochs"]
            value = 0.9 if epochs[proposal.number] == 1 else 0.5 + proposal.number / 100
            found[proposal.number] = search.report(proposal.number, chunk=3, value=value)
    long = [number for number in epochs if epochs[number] == 3]
    assert 3 < len(long) < 9
    assert all(found[number] is Decision.CONTINUE for number in long)  # each is the best of them so far


@pytest.mark.parametrize(
    ("overrides", "rank", "dropout"),
    [
        (("lora.r=choice(4,8,32)", "lora.dropout=interval(0,0.25)"), 32, 0.25),
        (("lora.r=tag(log2,interval(1,128))",), 128, None),
        (("lora.r=choice(4,8,32)", "search.recipes=[{name:wide,params:{lora.r:64}}]"), 64, None),
    ],
)
def test_memory_is_measured_on_the_largest_rank_of_space_and_recipes(tmp_path, overrides, rank, dropout):
    opening = plan(tmp_path, *overrides)[0].opening
    assert opening.largest.lora.r == rank
    assert opening.typical.lora.r < rank
    if dropout is not None:
        assert opening.largest.lora.dropout == dropout


def test_a_space_with_epochs_has_the_length_of_its_longest_trial(tmp_path):
    planned, _ = plan(tmp_path, "train.epochs=interval(1,4)")
    record = planned.record
    assert (record.epochs, record.chunks_per_epoch, record.num_chunks, record.rungs) == (4, 3, 12, (2, 4, 8, 12))
    assert (planned.opening.epochs, planned.opening.typical.train.epochs) == (4, 3)


def test_a_configuration_that_names_no_epochs_has_the_automatic_number_in_the_space(tmp_path):
    """1,299 rows and two labels: 3,050 rows are two epochs."""
    planned, _ = plan(tmp_path, "train.epochs=interval(1,4)")
    settings = compose(["dataset=trec", "train.epochs=interval(1,4)"]).settings
    assert fixed_values(settings, planned.record)["train.epochs"] == 2
    template = trial_template(settings, planned.record)
    assert template.spec(1_000_000, {"lora.r": 8}, "recipe:other").train.epochs == 2
    assert template.spec(3, {"train.epochs": 4}, "gp").train.epochs == 4
    fixed, _ = plan(tmp_path, "train.epochs=3")
    assert trial_template(settings, fixed.record).defaults.train.epochs == 3


def test_the_contradictions_of_a_sweep_compare_the_longest_trial(tmp_path):
    planned, _ = plan(tmp_path, "train.epochs=interval(1,4)")
    for overrides, expected in ((["train.epochs=interval(1,4)"], []), (["train.epochs=interval(1,3)"], [(4, 3)])):
        settings = compose(["dataset=trec", *overrides]).settings
        found = [(before, now) for key, before, now in _study_values(planned.record, settings) if key == "train.epochs"]
        assert [pair for pair in found if pair[0] != pair[1]] == expected

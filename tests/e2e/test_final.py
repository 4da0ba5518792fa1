"""`sweeper train`: the chosen configuration of a finished sweep, trained once more on all rows."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

import sweeper
from chaos.adapters import check_adapter
from sweeper.cli import main
from sweeper.control.trial_records import TrialRecords
from sweeper.data.disk import load_or_make
from sweeper.errors import SweeperError, SweepLocked, SweepMismatch
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.trials import TrialStore
from sweeper.sweep import final, final_plan
from sweeper.sweep.confirm import confirm_sweep
from sweeper.sweep.final import FinalOptions, train_final
from sweeper.sweep.run import run_sweep
from sweeper.track.base import NullTracker
from sweeper.types import Phase, TrialState
from tests.doubles import save_tiny_llama, write_rows
from tests.e2e.conftest import overrides_of

SCHEMA = json.loads((Path(__file__).parents[2] / "analysis" / "best.schema.json").read_text(encoding="utf-8"))
STUDY = "tiny-tinybert-lora"
ALL = f"{STUDY}-all-rows"
NUM_ALL = 90


@pytest.fixture
def folder(searched, tmp_path):
    shutil.copytree(searched[0], tmp_path / "outputs" / "tiny")
    return tmp_path / "outputs" / "tiny"


@pytest.fixture
def finals(folder):
    return TrialStore(folder).finals


def train(folder, target="tiny", **options):
    return train_final(target, FinalOptions(**options), outputs=folder.parent, console=Console(width=200))


def cached_splits(cache, reference):
    """Return the texts of each split that a study was planned with."""
    stored = load_or_make(cache / "splits" / reference.splits, lambda: pytest.fail("the splits are not cached"))
    return {name: list(part["text"]) for name, part in stored.parts.items()}


def study_of(folder):
    return json.loads(TrialStore(folder).paths.best.read_text())["studies"][0]


def test_the_best_configuration_is_trained_on_all_rows(folder, finals, capsys):
    store, source = TrialStore(folder), TrialStore(folder).read_study(STUDY)
    spent = Ledger(store.paths.ledger).cost
    assert train(folder, f"tiny/{STUDY}") == 0
    record, (trial,) = finals.read_study(ALL), finals.trials(ALL)
    assert record.num_rows == {"train": NUM_ALL, "validation": 30, "test": 30, "confirmation": 0}
    # The epochs stay, so more rows are more steps.
    assert (record.epochs, source.epochs) == (2, 2)
    assert (record.num_chunks * record.rows_per_chunk, source.num_chunks * source.rows_per_chunk) == (160, 128)
    assert (record.num_chunks, record.rungs) == (4, (2, 4))  # scored after each epoch
    best = study_of(folder)["best"]
    assert (trial.state, trial.spec.phase, trial.spec.seed) == (TrialState.COMPLETE, Phase.FINAL, 0)
    assert trial.spec.params == store.read_trial(STUDY, best["trial"]).spec.params
    assert trial.cost.rows == 160
    assert Ledger(store.paths.ledger).cost.rows == spent.rows + trial.cost.rows
    shown = capsys.readouterr().out
    assert "on 90 rows, seed 0; the search used 64. 2 epochs, 4 chunks: " in shown
    assert "about 1.2 times as long as this trial of the search." in shown
    assert "epoch 1 of 2: train/loss" in shown


def test_what_was_trained_is_in_report_best_json_and_load(folder, finals):
    train(folder)
    (found,) = study_of(folder)["final"]
    jsonschema.validate(json.loads((folder / "best.json").read_text()), SCHEMA)
    adapter = finals.adapter_dir(ALL, 0)
    outcomes = finals.read_test_outcomes(ALL, 0)
    expected = float((outcomes.predicted_N == outcomes.target_N).mean())
    assert found["test"]["value"] == found["test"]["metrics"]["test/accuracy"] == pytest.approx(expected)
    assert found["test"]["num_rows"] == len(outcomes.loss_N) == 30
    assert found["value"] == finals.read_trial(ALL, 0).last_rung.metrics["validation/accuracy"]
    assert (found["adapter"], found["model_card"]) == (str(adapter), str(adapter / "README.md"))
    assert sweeper.load(folder).adapter(which="final") == adapter
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert str(adapter) in text
        assert f"{found['test']['value']:.4f}" in text


def test_the_report_offers_a_training_on_all_rows_until_there_is_one(folder):
    offer, others = f"sweeper train tiny/{STUDY} --rows all", "It has not been trained on all rows yet"
    train(folder, rows="80")
    report = (folder / "report.md").read_text()
    assert others in report
    assert offer in report
    assert offer in (folder / "report.html").read_text()
    assert "| 80 | 0 | complete |" in report
    train(folder)
    for name in ("report.md", "report.html"):
        assert offer not in (folder / name).read_text()


def test_the_model_card_has_scores_and_every_setting(folder, finals):
    train(folder)
    card = finals.paths.trial(ALL, 0).model_card.read_text()
    spec = finals.read_trial(ALL, 0).spec
    # The path of a model is of no use to others, and the hub refuses it.
    assert card.startswith("---\nlibrary_name: peft\ntags: [lora]\n---\n\n# LoRA adapter of tiny-bert for tiny\n")
    assert "## Prompts" not in card
    assert "trained on 90 of 90 available rows; 30 validation rows and 30 test rows were held out." in card
    assert f"| `train.learning_rate` | {spec.train.learning_rate!r} |" in card
    assert f"| `lora.r` | {spec.lora.r} |" in card
    assert "| `test/accuracy` | " in card
    assert "| `validation/accuracy` | " in card


def test_no_test_row_and_no_validation_row_is_trained_on(folder, finals, tiny_cache):
    train(folder)
    before, after = (
        cached_splits(tiny_cache, store.read_study(name).rows_ref)
        for store, name in ((TrialStore(folder), STUDY), (finals, ALL))
    )
    assert (after["test"], after["validation"]) == (before["test"], before["validation"])
    assert set(before["train"]) < set(after["train"])
    assert not set(after["train"]) & {*after["test"], *after["validation"]}


def test_a_training_that_is_complete_is_not_repeated(folder, finals, capsys):
    train(folder)
    path = finals.paths.trial(ALL, 0).record
    before = path.read_bytes()
    capsys.readouterr()
    assert train(folder) == 0
    assert "It is trained already." in capsys.readouterr().out
    assert path.read_bytes() == before
    assert len(finals.trials(ALL)) == 1


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_killed_training_goes_on_from_its_checkpoint(folder, finals, monkeypatch, tmp_path, chunk):
    whole = tmp_path / "whole" / "tiny"
    shutil.copytree(folder, whole)
    train(whole)
    write = TrialRecords.write

    def dies(records, trial, checkpoint=None):
        write(records, trial, checkpoint)
        if trial.chunks_done == chunk:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrialRecords, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        train(folder)
    monkeypatch.undo()
    assert finals.read_trial(ALL, 0).state is TrialState.RUNNING
    assert train(folder) == 0
    expected = TrialStore(whole).finals
    assert (
        finals.read_adapter(ALL, 0)["adapter_model.safetensors"]
        == (expected.read_adapter(ALL, 0)["adapter_model.safetensors"])
    )
    assert finals.read_trial(ALL, 0).cost.rows == expected.read_trial(ALL, 0).cost.rows  # no chunk is repeated


def test_validation_rows_are_trained_on_only_if_asked(folder, finals, capsys):
    train(folder, with_validation=True)
    name = f"{ALL}-with-validation"
    record, (trial,) = finals.read_study(name), finals.trials(name)
    assert record.num_rows == {"train": NUM_ALL + 30, "validation": 0, "test": 30, "confirmation": 0}
    assert trial.cost.rows == record.num_chunks * record.rows_per_chunk == 2 * 120
    assert trial.last_rung is None
    (found,) = study_of(folder)["final"]
    assert (found["value"], found["includes_validation"], found["test"]["num_rows"]) == (None, True, 30)
    card = finals.paths.trial(name, 0).model_card.read_text()
    assert "trained on 120 of 120 available rows, the validation rows among them" in card
    assert "so only the test rows give a score" in capsys.readouterr().out


def test_another_seed_trial_or_number_of_rows_is_another_training(folder, finals):
    train(folder)
    train(folder, seed=7)
    train(folder, rows="80", trial=1)
    first, second = finals.trials(ALL)
    assert (second.spec.number, second.spec.seed, second.spec.params) == (1, 7, first.spec.params)
    assert second.initial_hash != first.initial_hash
    (third,) = finals.trials(f"{STUDY}-80-rows")
    assert third.spec.params == TrialStore(folder).read_trial(STUDY, 1).spec.params
    assert finals.read_study(f"{STUDY}-80-rows").num_rows["train"] == 80
    assert [each["study"] for each in study_of(folder)["final"]] == [f"{STUDY}-80-rows", ALL, ALL]


def test_the_tracker_shows_the_training_and_gets_its_model_card(folder, finals, monkeypatch):
    shown, kept = [], []

    class Tracker(NullTracker):
        def show(self, study, trial, files=()):
            shown.append((study.name, trial.spec.number, trial.state, [path.name for path in files]))

        def keep_report(self, studies, files, timeout_s):  # noqa: ARG002  the protocol's name
            kept.extend((study.name, path) for study in studies for path in files)

    monkeypatch.setattr(final, "open_tracker", lambda *_: Tracker())
    train(folder)
    assert shown[0] == (ALL, 0, TrialState.RUNNING, [])
    assert shown[-1] == (ALL, 0, TrialState.COMPLETE, ["trial.json", "adapter"])
    assert kept == [(ALL, finals.paths.trial(ALL, 0).model_card)]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("tiny", {"rows": "1"}, r"--rows 1: give a number of at least 2, or all"),
        ("tiny", {"rows": "0"}, r"--rows 0: give a number of at least 2, or all"),
        ("tiny", {"rows": "-1"}, r"--rows -1: give a number of at least 2, or all"),
        ("tiny", {"rows": "many"}, r"--rows many: give a number"),
        ("tiny", {"rows": "91"}, r"--rows 91: only 90 rows of tiny can be trained on"),
        ("tiny", {"trial": 99}, r"study tiny-tinybert-lora has no trial 99"),
        ("tiny/tinny", {}, r"sweep tiny has no study 'tinny'.*Its studies: tiny-tinybert-lora"),
        ("tinny", {}, r"there is no sweep 'tinny'"),
    ],
)
def test_what_cannot_be_trained_is_an_error(folder, target, options, message):
    with pytest.raises(SweeperError, match=message):
        train(folder, target, **options)
    assert not TrialStore(folder).paths.final.exists()


def test_a_study_without_a_complete_trial_has_nothing_to_train(folder):
    for record in TrialStore(folder).paths.study(STUDY).glob("trials/*"):
        shutil.rmtree(record)
    with pytest.raises(SweeperError, match=f"no trial of {STUDY} is complete.*Name one: --trial 7"):
        train(folder)
    assert not TrialStore(folder).paths.final.exists()


def test_only_one_process_trains(folder):
    with hold(TrialStore(folder)), pytest.raises(SweepLocked, match="sweep tiny is being run by process"):
        train(folder)


@pytest.mark.parametrize("rows", ["-1", "0", "many"])
def test_the_command_line_refuses_such_rows(folder, monkeypatch, capsys, rows):
    monkeypatch.setattr("sys.argv", ["sweeper", "train", "tiny", "--rows", rows, "--outputs", str(folder.parent)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--rows {rows}: give a number of at least 2, or all" in capsys.readouterr().err


def test_outputs_given_as_an_override_is_an_error_that_names_the_option(tmp_path):
    with pytest.raises(SweeperError, match="`sweeper train` takes it as an option: --outputs somewhere"):
        train_final("tiny", FinalOptions(), outputs=tmp_path, console=Console(), overrides=["outputs=somewhere"])


def test_other_test_rows_than_those_of_the_sweep_are_refused(folder, monkeypatch):
    more = final_plan._with_rows
    monkeypatch.setattr(final_plan, "_with_rows", lambda *args, **kw: replace(more(*args, **kw), test_rows=29))
    with pytest.raises(SweeperError, match="test rows of tiny would not be those of the sweep"):
        train(folder)
    assert not TrialStore(folder).paths.final.exists()


def test_other_settings_of_the_sweep_cannot_be_changed(folder):
    with pytest.raises(SweeperError, match="lora is part of the sweep, so `sweeper train` cannot change it"):
        train_final("tiny", FinalOptions(), outputs=folder.parent, console=Console(), overrides=["lora.r=4"])


def test_changed_rows_are_an_error(tmp_path, tiny_bert, tiny_cache):
    rows = write_rows(tmp_path / "rows.jsonl")
    run_sweep([*overrides_of(tmp_path, rows, tiny_bert, tiny_cache), "budget.trials=1"])
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:-8]) + "\n")
    with pytest.raises(SweepMismatch, match="the rows of tiny have changed since sweep tiny started"):
        train(tmp_path / "outputs" / "tiny")
    assert not (tmp_path / "outputs" / "tiny" / "final").exists()


@pytest.mark.slow
def test_the_confirmed_configuration_is_trained(folder, finals):
    overrides = ["confirm.max_share=4", "confirm.seeds=2", "confirm.max_seeds=2"]
    confirm_sweep("tiny", overrides, outputs=folder.parent, console=Console())
    block = study_of(folder)["confirmation"]
    assert block["recommended"]
    train(folder)
    (found,) = study_of(folder)["final"]
    assert found["configuration"] == block["recommended"]
    chosen = next(each for each in block["candidates"] if each["name"] == block["recommended"])
    params = TrialStore(folder).read_trial(STUDY, chosen["trial"]).spec.params
    assert finals.trials(ALL)[0].spec.params == params


@pytest.fixture
def language(tmp_path, tiny_bert, tiny_cache):
    """A search with a language model that is over; its folder."""
    rows = write_rows(tmp_path / "rows.jsonl")
    llama = save_tiny_llama(tmp_path / "tinyllama", tiny_bert)
    overrides = [*overrides_of(tmp_path, rows, tiny_bert, tiny_cache), "budget.trials=2"]
    overrides += ["task=causal_lm", f"model.id={llama}", "model.name=tinyllama", "model.max_length=64"]
    overrides += ["dataset.files.prompt_template='{text} is'"]
    run_sweep(overrides)
    return tmp_path / "outputs" / "tiny"


@pytest.mark.slow
def test_a_language_model_is_trained_on_all_rows_and_scores_with_peft_what_is_reported(
    language, tiny_cache, tmp_path, capsys
):
    study = "tiny-tinyllama-lora"
    capsys.readouterr()
    assert train(language, f"tiny/{study}") == 0
    finals = TrialStore(language).finals
    record, (trial,) = finals.read_study(f"{study}-all-rows"), finals.trials(f"{study}-all-rows")
    adapter = finals.adapter_dir(record.name, 0)
    splits = load_or_make(tiny_cache / "splits" / record.rows_ref.splits, lambda: pytest.fail("not cached"))
    base, metrics = tmp_path / "tinyllama", trial.measurements[-1].metrics

    def differences(split, metrics):
        return check_adapter(adapter, splits.parts[split], metrics, base=base, num_labels=0, max_length=64)

    assert differences("validation", metrics) == []
    (found,) = study_of(language)["final"]
    assert differences("test", {"validation/loss": found["test"]["metrics"]["test/loss"]}) == []
    assert differences("test", metrics)  # or nothing was compared
    jsonschema.validate(json.loads((language / "best.json").read_text()), SCHEMA)
    shown = capsys.readouterr().out
    assert f"of {study} on 90 rows, seed 0; the search used 64." in shown
    assert f"validation/accuracy {found['value']:.4f}" in shown
    card = (adapter / "README.md").read_text()
    assert "# LoRA adapter of tinyllama for tiny" in card
    assert "train.head_" not in card
    assert "Answers, of which the likeliest was scored: `colour`, `food`, `place`." in card
    assert (
        'Prompts were made from the columns of a row by `"{text} is"`, answers by `" {label}"` (as JSON strings).'
        in card
    )
    assert "Prompts are plain text, without a chat template. Rows had at most 32 tokens." in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT and transformers warn about each other's calls
        exec(code.replace("path/to/this/folder", str(adapter)).replace("your prompt", "soup"), {})  # noqa: S102
    assert printed.getvalue().startswith("[CLS] soup")


@pytest.mark.parametrize(
    "num_rows",
    [(30, 90, 90), (10, 117, 130)],  # 10 % of 130 rows are enough for the confirmation
)
def test_without_a_cap_only_rows_of_the_confirmation_are_left_to_train_on(tiny, tmp_path, capsys, num_rows):
    num_held_out, num_train, num_all = num_rows
    held_out = [f"dataset.files.{split}_rows={num_held_out}" for split in ("validation", "test")]
    more = ["dataset.files.train_rows=0", "dataset.files.confirm_rows=2000", "budget.trials=1"]
    run_sweep([*tiny, *held_out, *more])
    folder = tmp_path / "outputs" / "tiny"
    is_all = num_train == num_all
    shown = [capsys.readouterr().out, *((folder / name).read_text() for name in ("report.md", "report.html"))]
    for text in shown:
        assert "of 90 rows" not in text
        assert "train_rows" not in text  # nothing is capped, and a cap would save too little to be proposed
    for text in shown[1:]:
        assert ("The search trained on all rows, so there are no more to train on." in text) is is_all
        assert ("sweeper train tiny/" in text) is not is_all
    assert TrialStore(folder).read_study(STUDY).num_rows["train"] == num_train
    assert train(folder) == 0
    assert f"on {num_all} rows, seed 0; the search used {num_train}." in capsys.readouterr().out
    assert TrialStore(folder).finals.read_study(ALL).num_rows["train"] == num_all
    assert "sweeper train tiny/" not in (folder / "report.md").read_text()

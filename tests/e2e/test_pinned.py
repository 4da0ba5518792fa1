"""Data file, cache or weights change while a sweep runs: it trains on the pinned rows, or ends with an error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import sweeper
import sweeper.sweep.run
from sweeper.errors import ContentChanged, SweepMismatch, WorkerLost
from sweeper.execute.base import OpenStudy
from sweeper.store.trials import TrialStore
from sweeper.sweep.reproduce import reproduce_trial
from sweeper.sweep.run import run_sweep
from sweeper.train.worker import TrainingWorker
from sweeper.types import ChunkRequest, TrialState
from tests.doubles import write_rows

STUDY = "tiny-tinybert-lora"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_bert):
    """The losses of the small sweep if nothing changes, and its command line but for outputs, data and cache."""
    from tests.e2e.conftest import overrides_of

    folder = tmp_path_factory.mktemp("undisturbed")
    overrides = overrides_of(folder, write_rows(folder / "rows.jsonl"), tiny_bert, folder / "cache")
    sweeper.run([*overrides, "budget.trials=3"])
    return losses(folder / "outputs" / "tiny")


def losses(folder):
    """The losses of every chunk, by trial; all trials must have ended."""
    trials = TrialStore(folder).trials(STUDY)
    assert all(trial.state.is_finished and trial.state is not TrialState.FAILED for trial in trials)
    return {
        trial.spec.number: [value for m in trial.measurements for name, value in m.metrics.items() if "loss" in name]
        for trial in trials
    }


def assert_same(folder, expected):
    found = losses(folder)
    assert found.keys() == expected.keys()
    for number, values in expected.items():
        assert found[number] == pytest.approx(values, rel=1e-4)


@pytest.fixture
def own(tiny, tmp_path):
    """A small sweep with a cache and a model folder of its own."""
    model = next(o for o in tiny if o.startswith("model.id=")).partition("=")[2]
    shutil.copytree(model, tmp_path / "model")
    kept = [o for o in tiny if not o.startswith(("cache=", "model.id="))]
    return [*kept, f"cache={tmp_path / 'cache'}", f"model.id={tmp_path / 'model'}", "budget.trials=3"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "tiny"


def after_planning(monkeypatch, change):
    """Call ``change`` with the plans when all studies are planned and no worker has opened one."""
    plan = sweeper.sweep.run._plan

    def plan_and_change(*arguments, **options):
        found = plan(*arguments, **options)
        change(found)
        return found

    monkeypatch.setattr("sweeper.sweep.run._plan", plan_and_change)


def lose_a_worker(monkeypatch, change, *, at=2):
    """Lose the worker at a chunk, once, after ``change``; a new worker then opens the study again."""
    answer, chunks, opened = TrainingWorker.answer, [], []

    def answer_or_die(self, request):
        opened.extend([request] if isinstance(request, OpenStudy) else [])
        if isinstance(request, ChunkRequest):
            chunks.append(request)
            if len(chunks) == at:
                change()
                raise WorkerLost("worker 0 was killed")
        return answer(self, request)

    monkeypatch.setattr(TrainingWorker, "answer", answer_or_die)
    return opened


def edit(path):
    write_rows(path, seed=5)


def edit_in_place(path):
    """Change labels only: as many bytes, and the same time."""
    found, content = path.stat(), path.read_text()
    labels = sorted({line.rpartition('"label": ')[2] for line in content.splitlines()}, key=len)
    path.write_text(content.replace(labels[0], "@").replace(labels[1], labels[0]).replace("@", labels[1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [edit, edit_in_place, Path.unlink])
def test_a_worker_that_opens_after_the_file_was_edited_trains_on_the_pinned_rows(
    own, folder, undisturbed, monkeypatch, change
):
    after_planning(monkeypatch, lambda _: change(folder.parents[1] / "rows.jsonl"))
    sweeper.run(own)
    assert_same(folder, undisturbed)


def test_a_worker_that_restarts_after_the_file_was_edited_trains_on_the_pinned_rows(
    own, folder, tmp_path, undisturbed, monkeypatch
):
    opened = lose_a_worker(monkeypatch, lambda: edit(tmp_path / "rows.jsonl"))
    sweeper.run([*own, "executor.retry_s=0"])
    assert len(opened) == 2
    assert_same(folder, undisturbed)


def test_without_the_pinned_rows_the_study_ends_and_continues_when_the_file_is_restored(
    own, folder, tmp_path, undisturbed, monkeypatch
):
    rows = tmp_path / "rows.jsonl"
    before = rows.read_text()

    def lose_cache():
        edit(rows)
        shutil.rmtree(tmp_path / "cache")

    with monkeypatch.context() as patched:
        lose_a_worker(patched, lose_cache)
        with pytest.raises(ContentChanged, match="dataset tiny: its rows are gone from the cache"):
            run_sweep([*own, "executor.retry_s=0"])
    with pytest.raises(SweepMismatch, match=r"rows of tiny have changed since sweep tiny started.*Restore the dataset"):
        run_sweep(own)
    rows.write_text(before)
    run_sweep(own)
    assert_same(folder, undisturbed)


def test_after_an_edit_the_message_says_that_the_cache_has_the_old_rows(own, tmp_path):
    run_sweep([*own, "budget.trials=1"])
    edit(tmp_path / "rows.jsonl")
    with pytest.raises(SweepMismatch, match=r"the cache still has the tokens of the old rows.*name=second"):
        run_sweep(own)


def test_a_trial_is_reproduced_from_the_pinned_rows(own, folder, tmp_path):
    run_sweep([*own, "budget.trials=1"])
    edit(tmp_path / "rows.jsonl")
    assert reproduce_trial(f"tiny/{STUDY}/0", outputs=folder.parent, console=Console(quiet=True))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(SweepMismatch, match="rows of tiny have changed"):
        reproduce_trial(f"tiny/{STUDY}/0", outputs=folder.parent, console=Console(quiet=True))


def zero_weights(path):
    """Replace the second half of the weights by zeros: the file still loads."""
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:half] + bytes(path.stat().st_size - half))


def test_other_weights_end_the_sweep_and_it_continues_when_they_are_restored(
    own, folder, tmp_path, undisturbed, monkeypatch
):
    weights = tmp_path / "model" / "model.safetensors"
    before = weights.read_bytes()
    with monkeypatch.context() as patched:
        lose_a_worker(patched, lambda: zero_weights(weights))
        with pytest.raises(ContentChanged, match=r"model tinybert, in .*model\.safetensors has the SHA-256"):
            run_sweep([*own, "executor.retry_s=0"])
    with pytest.raises(SweepMismatch, match=r"the model tinybert has changed .*model\.safetensors has the SHA-256"):
        run_sweep(own)
    weights.write_bytes(before)
    run_sweep(own)
    assert_same(folder, undisturbed)


def test_only_the_study_whose_rows_are_gone_ends(own, tmp_path, monkeypatch):
    """With a worker in a process of its own, as in every real sweep."""
    rows = write_rows(tmp_path / "other.jsonl", seed=3)
    file = tmp_path / "conf" / "dataset" / "other.yaml"
    file.parent.mkdir(parents=True)
    sizes = "train_rows: 64\nvalidation_rows: 30\ntest_rows: 30\n"
    file.write_text(f"# @package dataset.other\nname: other\nsource: files\npath: {rows}\n{sizes}")

    def lose_rows(plans):
        (ref,) = [plan.opening.rows for plan in plans if plan.record.name == STUDY]
        shutil.rmtree(tmp_path / "cache" / "splits" / ref.splits)
        shutil.rmtree(tmp_path / "cache" / "tokens" / ref.tokens)

    after_planning(monkeypatch, lose_rows)
    changes = {"dataset=files": "dataset=[files,other]", "executor=inline": "executor=process"}
    overrides = [changes.get(override, override) for override in own]
    outcome = run_sweep([*overrides, "executor.workers=1"], config_dir=tmp_path / "conf")
    assert "dataset tiny: its rows are gone from the cache" in outcome.aborted[STUDY]
    trials = TrialStore(tmp_path / "outputs" / "tiny").trials("other-tinybert-lora")
    assert [trial.state.is_finished for trial in trials] == [True] * 3

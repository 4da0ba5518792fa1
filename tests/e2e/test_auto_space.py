"""A sweep with ``space=auto``: the model decides once, and every later session goes on with that space."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import sweeper.sweep.model_kind
from sweeper.config.compose import compose
from sweeper.errors import SweepMismatch
from sweeper.store.trials import TrialStore
from sweeper.sweep.model_kind import settled_by_record, settled_if_known
from sweeper.sweep.run import run_sweep
from tests.doubles import save_tiny_llama

LEARNING_RATES = "tag(log,interval(1e-4,5e-3))"
"""Of a language model below a billion parameters."""


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory, tiny_bert):
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama", tiny_bert)


@pytest.fixture
def chat(tiny, tiny_llama):
    """Overrides of a small sweep of a language model whose kind only its config.json tells."""
    own = ["task=causal_lm", f"model.id={tiny_llama}", "model.name=tinyllama", "model.max_length=64"]
    own += ["model.kind=auto"]
    return [*tiny, *own, "dataset.files.prompt_template='{text} is'", "budget.trials=2", "train.epochs=1"]


def run(overrides):
    shown = io.StringIO()
    outcome = run_sweep(overrides, console=Console(file=shown, width=200))
    return TrialStore(outcome.sweep_dir), shown.getvalue()


def kind_in(store):
    return store.read_sweep()["settings"]["model"]["kind"]


@pytest.mark.slow
def test_the_model_decides_once_and_a_resumed_sweep_keeps_what_it_decided(chat, monkeypatch):
    store, shown = run(chat)
    (study,) = store.studies()
    assert kind_in(store) == "small_language_model"
    assert study.space["train.learning_rate"] == LEARNING_RATES
    assert store.read_sweep()["settings"]["space"]["name"] == "small_language_model"
    assert "small_language_model; space small_language_model: lora.r=tag(log2,interval(4,64))" in shown
    assert "model.kind=auto: llama is small_language_model" in store.paths.log.read_text()
    assert [t.spec.origin for t in store.trials(study.name)] == ["recipe:peft_default", "recipe:alpha_2r"]

    monkeypatch.setattr(sweeper.sweep.model_kind, "kind_of", lambda *_, **__: "language_model")  # of a later version
    store, _ = run([*chat, "budget.trials=3"])
    assert (kind_in(store), store.studies()) == ("small_language_model", [study])
    assert len(store.trials(study.name)) == 3
    assert settled_by_record(compose(chat), store).settings.model.kind == "small_language_model"

    # Without its record, the model tells again, and the space of the study on disk is compared with that.
    store.paths.sweep.unlink()
    store.paths.sweep_backup.unlink()
    with pytest.raises(SweepMismatch, match=r"space: .*1e-4,5e-3.* before, .*2e-5,1e-3.* now"):
        run([*chat, "budget.trials=4"])
    monkeypatch.undo()
    store, _ = run([*chat, "budget.trials=4"])
    assert kind_in(store) == "small_language_model"
    assert len(store.trials(study.name)) == 4


def test_an_encoder_has_the_space_that_it_has_always_had(tiny):
    store, _ = run([*tiny, "model.kind=auto", "budget.trials=1", "train.epochs=1"])
    (study,) = store.studies()
    assert kind_in(store) == "encoder"
    assert study.space == compose(["space=default"]).space.texts
    assert store.read_sweep()["settings"]["space"]["name"] == "default"


def test_the_configuration_of_a_model_on_this_machine_is_no_guess(chat, tmp_path):
    config = settled_if_known(compose(chat))
    assert (config.pending, config.settings.model.kind) == (None, "small_language_model")
    unknown = compose([*chat, "model.id=somebody/something", f"cache={tmp_path}"])
    assert settled_if_known(unknown) is unknown
    snapshot = tmp_path / "hub" / "models--somebody--something"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert settled_if_known(unknown).settings.model.kind == "language_model"


def test_the_name_of_a_sweep_says_that_the_model_decides(chat):
    from sweeper.sweep.identity import sweep_name

    unnamed = [text for text in chat if not text.startswith("name=")]
    assert sweep_name(compose(unnamed).settings).startswith("tiny-tinyllama-auto-")

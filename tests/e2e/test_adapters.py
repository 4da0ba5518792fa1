"""The adapters that a sweep leaves score, with transformers and PEFT alone, what the records of their trials say."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.adapters import check_adapter
from sweeper.config.compose import compose
from sweeper.data import prepare_splits
from sweeper.store.trials import TrialStore
from sweeper.sweep.run import run_sweep
from tests.doubles import save_tiny_llama

STUDIES = {"classifier": "tiny-tinybert-lora", "language_model": "tiny-tinyllama-lora"}


@pytest.mark.parametrize("kind", STUDIES)
def test_every_adapter_is_that_of_its_trial(tiny, tmp_path, tiny_bert, kind):
    overrides, is_language_model = [*tiny, "search.pruner=none"], kind == "language_model"
    if is_language_model:
        llama = save_tiny_llama(tmp_path / "llama", tiny_bert)
        overrides += ["task=causal_lm", f"model.id={llama}", "model.name=tinyllama", "model.max_length=64"]
        overrides += ["dataset.files.prompt_template='{text} is'"]
    run_sweep(overrides)
    settings = compose(overrides).settings
    store = TrialStore(tmp_path / "outputs" / "tiny")
    study = store.read_study(STUDIES[kind])
    assert study.rows_ref is not None
    splits = prepare_splits(settings.dataset["files"], cache=Path(settings.cache), completions=is_language_model)

    def differences(number, record):
        return check_adapter(
            store.adapter_dir(study.name, number),
            splits.validation,
            record.measurements[-1].metrics,
            base=Path(settings.model.id),
            num_labels=0 if is_language_model else 3,
            max_length=study.rows_ref.max_length,
        )

    trials = store.trials(study.name)
    assert len(trials) == 5
    assert [difference for trial in trials for difference in differences(trial.spec.number, trial)] == []
    one, other = (trial for trial in trials if trial.spec.number in (0, 4))
    assert differences(0, other)
    assert differences(4, one)

"""A session continues a study only with the rows and the model that it was started with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.errors import SweepMismatch
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import check_content
from tests.builders import make_model_ref, make_rows_ref, make_study

BEFORE = make_study(rows_ref=make_rows_ref(), model_ref=make_model_ref())


def check(tmp_path, now, before=BEFORE):
    check_content(before, now, sweep="mine", cache=tmp_path)


def test_the_same_rows_and_model_are_accepted_wherever_the_cache_keeps_them(tmp_path):
    check(tmp_path, BEFORE)
    check(tmp_path, replace(BEFORE, rows_ref=make_rows_ref(splits="other", tokens="other")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 60}, r"the rows of trec have changed since sweep mine started.*Restore the dataset's"),
        ({"rows_ref": make_rows_ref(digest="0" * 64)}, r"the rows of trec have other token ids.*transformers"),
        (
            {"model_ref": make_model_ref(config_json="c0" * 32, model_safetensors="00" * 32)},
            r"the model minilm has changed .*\(model\.safetensors has the SHA-256 0000.* instead of 3e3e.*revision",
        ),
    ],
)
def test_other_content_is_refused_with_what_changed_and_a_remedy(tmp_path, change, message):
    with pytest.raises(SweepMismatch, match=message) as caught:
        check(tmp_path, replace(BEFORE, **change))
    assert "name=second" in str(caught.value)


def test_a_sweep_that_an_earlier_version_started_is_compared_by_its_fingerprint(tmp_path):
    old = replace(BEFORE, rows_ref=None, model_ref=None)
    check(tmp_path, BEFORE, old)
    with pytest.raises(SweepMismatch):
        check(tmp_path, replace(BEFORE, fingerprint="0" * 60), old)


def test_the_references_survive_the_store(tmp_path):
    store = TrialStore(tmp_path)
    store.write_study(BEFORE)
    assert store.read_study(BEFORE.name) == BEFORE

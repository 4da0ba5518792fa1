"""The final view of a sweep whose candidates were trained again with fresh seeds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.analysis.best import best_configurations
from sweeper.display.final_view import final_view
from sweeper.display.progress import progress_from_disk
from tests.builders import make_confirmed_sweep, make_study


def drawn(store, width=120):
    best = best_configurations(store)
    confirmations = {study["name"]: study["confirmation"] for study in best["studies"]}
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(final_view(progress_from_disk(store, budget=2), sweep_dir=store.root, confirmations=confirmations))
    return console.file.getvalue()


def words(text):
    return " ".join(text.split())


@pytest.fixture
def better(tmp_path):
    return make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95})


def test_the_table_has_scores_of_fresh_seeds_with_intervals(better):
    text = words(drawn(better))
    assert "Recommended Default recipe" in text
    assert "0.950 [0.9" in text
    assert "0.850 [0.8" in text
    assert "0.970" not in text, "the score of the search"


def test_the_verdict_replaces_the_warnings(better):
    text = words(drawn(better))
    assert "trec: Trial 9 (" in text
    assert "is better than the default recipe by +0.100 [" in text
    assert "!" not in text
    assert "optimistic" not in text


def test_the_adapter_is_the_recommended_one_with_its_seed(better):
    assert "trials/2000001/adapter (recommended for trec: trial 9, seed 50)" in words(drawn(better, 200))


def test_a_probe_that_is_not_beaten_is_said_in_the_verdict(tmp_path):
    study = make_study(references={"frozen_probe": {"validation/accuracy": 0.99}})
    text = words(drawn(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, study=study)))
    assert "trec: No adapter is better than the probe (0.990)" in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(better, width):
    assert max(map(len, drawn(better, width).splitlines())) <= width


def test_a_running_confirmation_without_results_shows_the_search(tmp_path):
    text = words(drawn(make_confirmed_sweep(tmp_path, {"peft_default": 0.85, "trial 9": 0.95}, seeds=1)))
    assert "Best configuration" in text
    assert "0.970" in text

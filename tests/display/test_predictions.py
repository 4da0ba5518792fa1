"""Predictions beside what is measured."""

from __future__ import annotations

from sweeper.display.predictions import facts_text, opening_text
from sweeper.execute.base import StudyOpened
from sweeper.figures.memory import MemoryNeed
from sweeper.store.rates import Rate, RateKey

NEED = MemoryNeed(base=90_000_000, lanes=20_000_000, activations=30_000_000, logits=10_000_000, stage="training")
OPENED = StudyOpened(need=NEED, trial_tokens=45_000)
KEY = RateKey(model="m", task="t", device="d", dtype="auto", lanes=4, workers=2, threads=1)
RATE = Rate(
    key=KEY, model_name="m", tokens=100_000, device_s=100.0, trained_share=0.5, at="2026-03-01T10:00:00.000+00:00"
)


def test_the_opening_names_memory_and_time():
    text = opening_text(OPENED, RATE)
    assert "150 MB of memory a worker (base 90 MB, lanes 20 MB, activations and logits 40 MB)" in text
    assert "0:45 of a device for a trial, as measured on 2026-03-01" in text


def test_without_an_earlier_sweep_the_opening_names_the_memory_only():
    assert "device for a trial" not in opening_text(OPENED, None)


def test_facts_stand_beside_their_predictions():
    text = facts_text(OPENED, RATE, trial_s=52.0, peak_bytes=140_000_000)
    assert text == "A trial takes 0:52 (predicted 0:45), memory of a worker 140 MB (predicted 150 MB)."
    assert facts_text(OPENED, None, trial_s=52.0, peak_bytes=0) == "A trial takes 0:52."


def test_where_epochs_are_searched_the_time_is_that_of_the_longest_trial():
    assert "0:45 of a device for the longest trial, as measured" in opening_text(OPENED, RATE, varies=True)
    text = facts_text(OPENED, RATE, trial_s=52.0, peak_bytes=0, varies=True)
    assert text == "The longest trial takes 0:52 (predicted 0:45)."


def test_nothing_is_shown_before_the_first_chunk():
    assert facts_text(OPENED, RATE, trial_s=0.0, peak_bytes=0) == ""

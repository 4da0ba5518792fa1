"""Verdicts of candidates against the default, the best and a baseline."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sweeper.config.settings import ConfirmSettings
from sweeper.statistics.comparison import compare_candidates, compare_with_baseline
from sweeper.statistics.looks import error_level, looks
from sweeper.statistics.outcomes import CandidateOutcomes
from sweeper.statistics.results import Verdict

SETTINGS = ConfirmSettings(max_seeds=3)


def candidate(name, accuracy, *, seeds=3, rows=400, stream=0):
    """Return a candidate that is right on the first rows, and on some other rows by chance of the seed."""
    random = np.random.default_rng(stream)
    right_SN = np.arange(rows) / rows + 0.03 * random.standard_normal((12, rows)) < accuracy
    return CandidateOutcomes(
        name=name,
        seeds=tuple(range(100, 100 + seeds)),
        loss_SN=np.where(right_SN, 0.1, 2.0)[:seeds],
        predicted_SN=np.where(right_SN, 0, 1)[:seeds],
        target_N=np.zeros(rows, dtype=int),
    )


def first_seeds(found, number):
    return dataclasses.replace(
        found,
        seeds=found.seeds[:number],
        loss_SN=found.loss_SN[:number],
        predicted_SN=found.predicted_SN[:number],
    )


def tiled(found, copies):
    return dataclasses.replace(
        found,
        loss_SN=np.tile(found.loss_SN, copies),
        predicted_SN=np.tile(found.predicted_SN, copies),
        target_N=np.tile(found.target_N, copies),
    )


def compare(candidates, settings=SETTINGS, **options):
    defaults = {"default": "default", "metric": "accuracy", "maximize": True}
    found = compare_candidates(candidates, settings=settings, **(defaults | options))
    return {result.name: result for result in found}


DEFAULT, GOOD, BAD, SAME = (
    candidate(name, accuracy, stream=stream)
    for stream, (name, accuracy) in enumerate([("default", 0.8), ("good", 0.9), ("bad", 0.7), ("same", 0.801)])
)


def test_verdicts_against_the_default():
    found = compare([DEFAULT, GOOD, BAD, SAME])
    verdicts = {name: r.against_default.verdict for name, r in found.items() if r.against_default}
    assert verdicts == {"good": Verdict.BETTER, "bad": Verdict.WORSE, "same": Verdict.UNDECIDED}
    assert found["good"].against_default.gain.estimate == pytest.approx(0.1, abs=0.01)
    assert found["good"].num_seeds == 3


def test_results_are_in_the_order_of_the_candidates():
    found = compare_candidates(
        [BAD, DEFAULT, GOOD], default="default", metric="accuracy", maximize=True, settings=SETTINGS
    )
    assert [result.name for result in found] == ["bad", "default", "good"]


def test_a_difference_within_the_margin_is_equivalent_even_if_it_is_clear():
    settings = ConfirmSettings(max_seeds=3, margin=0.3)
    assert compare([DEFAULT, GOOD], settings)["good"].against_default.verdict is Verdict.EQUIVALENT


def test_equivalence_needs_the_whole_interval_within_the_margin():
    gain = compare([DEFAULT, GOOD])["good"].against_default.gain
    half = (gain.high - gain.low) / 2
    margin = gain.estimate + 0.5 * half
    settings = ConfirmSettings(max_seeds=3, margin=margin)
    assert compare([DEFAULT, GOOD], settings)["good"].against_default.verdict is Verdict.BETTER


def test_the_interval_of_equivalence_leaves_out_twice_the_error():
    """Two one-sided tests of 5 % are an interval of 90 %, which is shorter than that of 95 %."""
    gain = compare([DEFAULT, SAME])["same"].against_default.gain
    half = (gain.high - gain.low) / 2
    settings = ConfirmSettings(max_seeds=3, margin=abs(gain.estimate) + 0.9 * half)
    assert compare([DEFAULT, SAME], settings)["same"].against_default.verdict is Verdict.EQUIVALENT


def test_the_best_is_compared_with_all_others_by_wider_intervals():
    found = compare([DEFAULT, GOOD, BAD, SAME])
    assert found["good"].against_best is None
    assert found["default"].against_default is None
    behind, ahead = found["default"].against_best, found["good"].against_default
    assert behind.verdict is Verdict.WORSE
    assert behind.gain.estimate == pytest.approx(-ahead.gain.estimate)
    assert behind.gain.high - behind.gain.low > ahead.gain.high - ahead.gain.low


def test_without_the_default_there_are_no_differences_from_it():
    found = compare([GOOD, BAD], default=None)
    assert found["good"].against_default is None
    assert found["bad"].against_best.verdict is Verdict.WORSE


def test_a_lower_loss_is_a_positive_gain():
    found = compare([DEFAULT, GOOD], metric="loss", maximize=False)["good"]
    assert found.against_default.gain.estimate == pytest.approx(0.1 * 1.9, abs=0.02)
    assert found.metrics["validation/loss"].estimate == pytest.approx(GOOD.loss_SN.mean())
    assert found.metrics["validation/loss"].low < GOOD.loss_SN.mean() < found.metrics["validation/loss"].high


def test_other_metrics_have_intervals_and_gains():
    found = compare([DEFAULT, GOOD], other_metrics=["accuracy", "macro_f1", "loss"])["good"]
    assert list(found.metrics) == ["validation/accuracy", "validation/macro_f1", "validation/loss"]
    assert list(found.differences) == ["validation/macro_f1", "validation/loss"]
    assert all(gain.low > 0 for gain in found.differences.values())


def test_candidates_are_paired_by_seed_and_row():
    """Rows that every candidate gets wrong, and seeds that are bad for every candidate, cancel."""
    noisy = np.random.default_rng(5).random((3, 400)) < 0.5
    pair = [
        dataclasses.replace(found, predicted_SN=np.where(noisy, 1, found.predicted_SN)) for found in (DEFAULT, GOOD)
    ]
    unpaired = [pair[0], dataclasses.replace(pair[1], predicted_SN=pair[1].predicted_SN[[1, 2, 0]])]
    gain, loose = (compare(two)["good"].against_default.gain for two in (pair, unpaired))
    assert gain.high - gain.low < 0.8 * (loose.high - loose.low)


def test_pairs_use_the_seeds_of_both():
    many = [candidate("default", 0.8, seeds=6, stream=0), candidate("good", 0.9, seeds=3, stream=1)]
    few = [first_seeds(many[0], 3), many[1]]
    found, wanted = (compare(two)["good"].against_default.gain.estimate for two in (many, few))
    assert found == pytest.approx(wanted)
    assert compare(many)["default"].num_seeds == 6


def test_fewer_seeds_than_planned_are_an_interim_look_with_a_wider_interval():
    final, interim = (
        compare([DEFAULT, GOOD], ConfirmSettings(max_seeds=number))["good"].against_default.gain for number in (3, 12)
    )
    assert interim.high - interim.low > 1.1 * (final.high - final.low)


def test_error_level_is_shared_out_to_the_looks():
    settings = ConfirmSettings(max_seeds=12, confidence=0.9)
    assert error_level(settings, 3) < error_level(settings, 6) < error_level(settings, 12)
    assert error_level(settings, 12) == pytest.approx(error_level(settings, 13))
    assert sum(error_level(settings, number) for number in looks(settings)) == pytest.approx(0.1, rel=0.15)


def test_a_single_look_has_the_whole_error_level():
    assert error_level(ConfirmSettings(seeds=4, max_seeds=4, confidence=0.9), 4) == pytest.approx(0.1)


@pytest.mark.parametrize(("seeds", "most", "wanted"), [(3, 12, (3, 6, 12)), (3, 10, (3, 6, 10)), (4, 4, (4,))])
def test_looks_double_the_seeds(seeds, most, wanted):
    assert looks(ConfirmSettings(seeds=seeds, max_seeds=most)) == wanted


def test_the_needed_rows_settle_the_comparison():
    settings = ConfirmSettings(max_seeds=12)
    pair = [
        candidate(n, accuracy, seeds=12, stream=k) for k, (n, accuracy) in enumerate([("default", 0.8), ("a", 0.81)])
    ]
    found = compare(pair, settings)["a"].against_default
    assert found.verdict is Verdict.UNDECIDED
    copies = found.rows_needed / 400
    assert copies > 1
    verdicts = [compare([tiled(one, n) for one in pair], settings)["a"] for n in (int(copies), math.ceil(copies))]
    wanted = [Verdict.UNDECIDED, Verdict.BETTER]
    assert [result.against_default.verdict for result in verdicts] == wanted


def test_the_needed_seeds_settle_the_comparison_unless_rows_are_too_few():
    close = candidate("close", 0.815, stream=7)
    found = compare([DEFAULT, close])["close"].against_default
    assert found.seeds_needed > 3
    half = (found.gain.high - found.gain.low) / 2
    assert half / math.sqrt(found.seeds_needed / 3) < abs(found.gain.estimate) * 1.3
    # Rows that always differ are no evidence that more seeds could change.
    always = dataclasses.replace(DEFAULT, name="always", predicted_SN=np.roll(DEFAULT.predicted_SN, 40, axis=1))
    assert compare([DEFAULT, always])["always"].against_default.seeds_needed is None


def test_a_decided_comparison_needs_nothing():
    found = compare([DEFAULT, GOOD])["good"].against_default
    assert (found.seeds_needed, found.rows_needed) == (None, None)


def test_identical_outcomes_are_equivalent_only_with_enough_rows():
    """That no row of 200 differs does not show that fewer than 0.5 % do."""
    verdicts = []
    for rows in (200, 4000):
        found = candidate("default", 0.8, rows=rows, stream=0)
        twin = dataclasses.replace(found, name="twin")
        verdicts.append(compare([found, twin])["twin"].against_default.verdict)
    assert verdicts == [Verdict.UNDECIDED, Verdict.EQUIVALENT]


def test_one_candidate_is_compared_with_nothing():
    found = compare([DEFAULT])["default"]
    assert (found.against_default, found.against_best) == (None, None)
    assert found.metrics["validation/accuracy"].estimate == pytest.approx(0.8, abs=0.01)


def test_no_candidates_give_no_results():
    assert compare_candidates([], default=None, metric="accuracy", maximize=True, settings=SETTINGS) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (first_seeds(GOOD, 1), "candidate 'good' has 1 seeds; at least 2"),
        (dataclasses.replace(GOOD, seeds=(101, 100, 102)), "candidate 'good' has seeds .101, 100, 102., not the first"),
        (candidate("good", 0.9, rows=300), "candidate 'good' has 300 rows, 'default' has 400"),
    ],
)
def test_candidates_that_cannot_be_paired_are_an_error(other, message):
    with pytest.raises(ValueError, match=message):
        compare([DEFAULT, other])


def baseline(accuracy):
    return first_seeds(candidate("frozen_probe", accuracy, stream=11), 1)


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(0.6, Verdict.BETTER), (0.81, Verdict.UNDECIDED), (0.95, Verdict.WORSE)]
)
def test_a_baseline_is_beaten_only_if_it_is_clear(accuracy, verdict):
    for known in (baseline(accuracy), accuracy):
        found = compare_with_baseline(
            [DEFAULT, BAD], "default", known, metric="accuracy", maximize=True, settings=SETTINGS
        )
        assert found.verdict is verdict


def test_outcomes_of_a_baseline_tell_more_than_its_score():
    one = baseline(0.75)
    score = float((one.predicted_SN == 0).mean())
    exact, loose = (
        compare_with_baseline([DEFAULT], "default", known, metric="accuracy", maximize=True, settings=SETTINGS).gain
        for known in (one, score)
    )
    assert exact.estimate == pytest.approx(loose.estimate)
    assert exact.high - exact.low < 0.8 * (loose.high - loose.low)


def test_the_best_of_many_must_beat_a_baseline_by_more():
    alone, among = (
        compare_with_baseline(found, "default", 0.75, metric="accuracy", maximize=True, settings=SETTINGS).gain
        for found in ([DEFAULT], [DEFAULT, *(candidate(f"c{k}", 0.79, stream=20 + k) for k in range(5))])
    )
    assert among.low < alone.low


def test_a_baseline_by_loss():
    found = compare_with_baseline([DEFAULT], "default", 0.9, metric="loss", maximize=False, settings=SETTINGS)
    assert found.gain.estimate == pytest.approx(0.9 - DEFAULT.loss_SN.mean())
    assert found.verdict is Verdict.BETTER

"""The figures of report.html as plain values: axes, rounding, fronts and gaps."""

import pytest

from sweeper.analysis.effect_plots import profile_plot
from sweeper.analysis.plot_parts import Scale, log_axis, rounded
from sweeper.analysis.search_plots import Curve, ScoredTrial, curves_plot, front, history_plot, parallel_plot
from tests.report_blocks import make_effects


def scored(number, value, *, is_complete=True, device_s=10.0, **params):
    return ScoredTrial(
        number=number, value=value, is_complete=is_complete, params=params, num_parameters=100, device_s=device_s
    )


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 16], [1, 2, 4, 8, 16]),
        ([1e-4, 1e-2], [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01]),
        ([310_000, 690_000], [300_000, 400_000, 500_000, 600_000, 700_000]),
        ([1e-5, 3, 1e6], [10.0**power for power in range(-5, 7)]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks(values, ticks):
    assert log_axis(values)["tickvals"] == pytest.approx(ticks)


def test_values_that_are_not_finite_leave_a_gap():
    assert rounded([0.1234567, float("nan"), float("inf"), 7, "a<b"]) == [0.12346, None, None, 7, "a&lt;b"]


def test_a_scale_is_logarithmic_if_its_values_span_much():
    assert Scale([1, 10, 100]).position(10) == 0.5
    assert Scale([0, 5, 10]).position(5) == 0.5
    assert Scale(["cosine", "linear"]).ticks == [(0.0, "cosine"), (1.0, "linear")]
    assert Scale([True, True]).position(True) == 0


@pytest.mark.parametrize(("maximize", "numbers"), [(True, [2, 3]), (False, [1])])
def test_the_front_has_what_nothing_cheaper_beats(maximize, numbers):
    points = [(10, 0.5, 1), (10, 0.7, 2), (20, 0.9, 3), (30, 0.8, 4), (40, 0.9, 5)]
    assert [number for _, _, number in front(points, maximize=maximize)] == numbers


def test_the_best_so_far_counts_complete_trials_over_all_device_time():
    trials = [scored(0, 0.6), scored(1, 0.9, is_complete=False), scored(2, 0.7), scored(3, 0.65)]
    _, best, default = history_plot(trials, metric="m", maximize=True, lines={"default": 0.6}).data
    assert list(zip(best["x"], best["y"], strict=True)) == [(10, 0.6), (30, 0.7), (40, 0.7)]
    assert default["x"] == [0, 40]


def test_a_history_has_a_unit_that_suits_its_length():
    trials = [scored(number, 0.5, device_s=5000) for number in range(3)]
    plot = history_plot(trials, metric="m", maximize=True, lines={})
    assert plot.layout["xaxis"]["title"]["text"] == "device time (h)"
    assert plot.data[0]["x"] == pytest.approx([1.3889, 2.7778, 4.1667])


def test_curves_of_many_trials_are_one_trace_with_gaps():
    curves = [
        Curve(number=n, epochs=(0.5, 1.0), values=(0.1 * n, 0.2 * n), is_complete=False, is_stopped=True)
        for n in (1, 2)
    ]
    lines, stops = curves_plot(curves, metric="m", marked=[]).data
    assert lines["x"] == [0.5, 1.0, None, 0.5, 1.0]
    assert lines["customdata"] == [1, 1, 1, 2, 2]
    assert stops["y"] == [0.2, 0.4]


def test_only_complete_trials_reach_the_score():
    trials = [scored(0, 0.6, r=2), scored(1, 0.9, is_complete=False, r=4), scored(2, 0.8, r=8)]
    stopped, complete = parallel_plot(trials, keys=["r"], metric="m", marked=[]).data
    assert stopped["x"] == [0, None]
    assert complete["x"] == [0, 1, None, 0, 1, None]
    assert complete["y"] == [0, 0, None, 1, 1, None]


def test_a_profile_is_grey_where_no_trial_is_near():
    rank = make_effects()["profiles"][0]
    traces = {trace["name"]: trace for trace in profile_plot(rank, metric="m").data}
    assert traces["best achievable"]["x"] == [2, 4, 8, 16, 32]
    assert traces["no data nearby"]["x"] == [1, 2, None, 32, 64]


def test_bad_trials_do_not_flatten_a_profile():
    rank = make_effects()["profiles"][0]
    figure = profile_plot({**rank, "points": [[4, 0.1, True]]}, metric="m").figure
    low, high = figure["layout"]["yaxis"]["range"]
    assert 0.85 < low < min(rank["low"][1:6]) < max(rank["high"][1:6]) < high < 0.95


def test_a_profile_without_data_claims_nothing():
    rank = {**make_effects()["profiles"][0], "has_data": [False] * 7}
    plot = profile_plot(rank, metric="m")
    assert "nothing is claimed" in plot.summary
    assert "best achievable" not in {trace["name"] for trace in plot.data}

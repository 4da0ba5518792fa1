"""Portfolios: quantiles, the greedy choice, fitting into a space, and the files."""

from __future__ import annotations

import json

import pytest

from sweeper.config.dimensions import parse_space
from sweeper.errors import ConfigError
from sweeper.search.portfolio import (
    Portfolio,
    Ranking,
    choose_portfolio,
    fit_points,
    read_portfolio,
    shipped_portfolio,
    to_quantiles,
)
from sweeper.search.proposals import portfolio_origin
from sweeper.types import PortfolioPoint
from tests.search.toy import Driver, open_toy, preset

SPACE = parse_space({"train.learning_rate": "tag(log,interval(1e-6,1))", "lora.r": "tag(log2,interval(1,64))"})
MINILM = {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384, "vocab_size": 30522}


def _rates(*rates):
    """Return configurations that differ in the learning rate only."""
    return tuple({"train.learning_rate": rate, "lora.r": 8} for rate in rates)


def _ranking(quantiles, *, source="table", weight=1.0):
    """Return a ranking from quantiles by learning rate."""
    return Ranking(source=source, configurations=_rates(*quantiles), quantiles=tuple(quantiles.values()), weight=weight)


def _chosen(rankings, *, space=SPACE, limit=3, known=(), fixed=None):
    points = choose_portfolio(
        rankings, space, fixed={"lora.alpha_ratio": 1.0, **(fixed or {})}, known=known, limit=limit
    )
    return [point.params["train.learning_rate"] for point in points]


def test_quantiles_are_ranks_with_equal_shares_for_ties():
    assert to_quantiles([0.5, 0.9, 0.1, 0.5]) == (0.5, 0.875, 0.125, 0.5)
    assert to_quantiles([7]) == (0.5,)


def test_quantiles_do_not_depend_on_the_scale_of_the_scores():
    assert to_quantiles([0.91, 0.90, 0.10]) == to_quantiles([3000.0, -1.0, -2.0])


def test_the_first_choice_is_the_best_on_average_and_the_next_fills_what_it_lacks():
    # 1e-3 is good in both; 1e-1 is the best in one of them; 1e-5 is the second best by its mean, and adds nothing.
    one = _ranking({1e-1: 0.99, 1e-3: 0.8, 1e-5: 0.75})
    other = _ranking({1e-1: 0.05, 1e-3: 0.9, 1e-5: 0.75})
    assert _chosen([one, other]) == [1e-3, 1e-1, 1e-5]


def test_a_weight_decides_between_rankings_that_disagree():
    one, other = {1e-1: 0.9, 1e-4: 0.1}, {1e-1: 0.1, 1e-4: 0.9}
    assert _chosen([_ranking(one, weight=2.0), _ranking(other)], limit=1) == [1e-1]
    assert _chosen([_ranking(one), _ranking(other, weight=2.0)], limit=1) == [1e-4]


def test_a_lucky_seed_among_bad_neighbours_is_not_chosen():
    lucky = {0.9e-4: 0.1, 1e-4: 1.0, 1.1e-4: 0.1, 0.9e-2: 0.8, 1e-2: 0.8, 1.1e-2: 0.8}
    assert _chosen([_ranking(lucky)], limit=1)[0] > 1e-3


def test_a_configuration_far_from_all_of_a_ranking_counts_as_average_there():
    far = _ranking({1e-5: 0.7, 1e-1: 0.9})
    near = _ranking({1e-5: 0.9})
    # 1e-1 is unknown to the second ranking: 0.9 + 0.5 is less than 0.7 + 0.9.
    assert _chosen([far, near], limit=1) == [1e-5]


def test_learning_rate_and_alpha_count_by_their_product():
    space = parse_space({"train.learning_rate": "tag(log,interval(1e-6,1))", "lora.alpha_ratio": "interval(0.1,10)"})

    def ranking(weight, *rows):
        configurations = tuple({"train.learning_rate": rate, "lora.alpha_ratio": ratio} for rate, ratio, _ in rows)
        return Ranking(source="t", configurations=configurations, quantiles=tuple(q for *_, q in rows), weight=weight)

    measured = ranking(1.0, (1e-3, 8.0, 0.9), (1e-3, 1.0, 0.1))
    # One candidate has the product of the good configuration, and one has its alpha.
    candidates = ranking(1e-6, (8e-3, 1.0, 0.5), (1.25e-4, 8.0, 0.5))
    points = choose_portfolio([candidates, measured], space, fixed={"lora.r": 8}, limit=4)
    order = [(point.params["train.learning_rate"], point.params["lora.alpha_ratio"]) for point in points]
    assert order.index((8e-3, 1.0)) < order.index((1.25e-4, 8.0))


def test_what_is_near_a_recipe_or_an_earlier_choice_is_left_out():
    ranking = _ranking({1e-2: 0.9, 1.2e-2: 0.85, 1e-4: 0.6, 1.2e-4: 0.55})
    assert len(_chosen([ranking], limit=4)) == 2
    recipe = {"train.learning_rate": 1.1e-2, "lora.r": 8}
    assert all(rate < 1e-3 for rate in _chosen([ranking], limit=4, known=[recipe]))


def test_values_outside_the_space_are_moved_into_it_and_judged_there():
    space = parse_space({"train.learning_rate": "tag(log,interval(1e-6,1e-4))", "lora.r": "choice(2,4)"})
    # Moved to 1e-4, the best configuration is one of the worst.
    ranking = _ranking({1e-1: 0.99, 1.1e-4: 0.01, 0.9e-4: 0.01, 1e-6: 0.6})
    points = choose_portfolio([ranking], space, fixed={"lora.alpha_ratio": 1.0}, limit=1)
    assert [(p.params, p.source) for p in points] == [({"train.learning_rate": 1e-6, "lora.r": 4}, "table")]


def test_a_dimension_that_a_configuration_lacks_gets_the_fixed_value_or_leaves_it_out():
    space = parse_space({"train.learning_rate": "tag(log,interval(1e-6,1))", "lora.use_rslora": "choice(true,false)"})
    ranking = _ranking({1e-2: 0.9})
    (point,) = choose_portfolio([ranking], space, fixed={"lora.use_rslora": False}, limit=1)
    assert point.params == {"train.learning_rate": 1e-2, "lora.use_rslora": False}
    assert choose_portfolio([ranking], space, fixed={}, limit=1) == ()


def test_a_configuration_of_two_rankings_is_one_candidate_with_the_source_of_the_first():
    first, second = _ranking({1e-2: 0.9}, source="mine"), _ranking({1e-2: 0.9}, source="shipped")
    points = choose_portfolio([first, second], SPACE, fixed={}, limit=5)
    assert [point.source for point in points] == ["mine"]


def test_equal_rankings_give_equal_choices_in_the_order_given():
    ranking = _ranking({10.0**-n: 0.5 for n in range(6)})
    assert _chosen([ranking], limit=6) == _chosen([ranking], limit=6) == [10.0**-n for n in range(6)]


def test_the_points_of_a_file_keep_their_order_and_recipes_are_not_repeated():
    points = _rates(1e-2, 1e-3, 1e-4, 1e-2)
    portfolio = Portfolio(name="mine", points=points, rankings=())
    chosen = fit_points(portfolio, SPACE, fixed={}, known=_rates(1e-3), limit=5)
    assert [(p.params["train.learning_rate"], p.source) for p in chosen] == [(1e-2, "mine"), (1e-4, "mine")]
    assert len(fit_points(portfolio, SPACE, fixed={}, limit=1)) == 1


def test_a_file_is_read_with_a_ranking_for_each_table(tmp_path):
    path = tmp_path / "mine.json"
    points = [
        {"params": {"lora.r": 4}, "quantiles": {"a": 0.9, "b": 0.2}},
        {"params": {"lora.r": 8}, "quantiles": {"b": 0.8}},
    ]
    path.write_text(json.dumps({"points": points}))
    portfolio = read_portfolio(path)
    assert (portfolio.name, portfolio.points) == ("mine", ({"lora.r": 4}, {"lora.r": 8}))
    assert [(r.configurations, r.quantiles) for r in portfolio.rankings] == [
        (({"lora.r": 4},), (0.9,)),
        (({"lora.r": 4}, {"lora.r": 8}), (0.2, 0.8)),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "this file cannot be read (No such file or directory)"),
        ("{", "this file is not JSON"),
        ("[]", "a portfolio has a list of points"),
        ('{"points": []}', "a portfolio has a list of points"),
        ('{"points": [{"params": {"lora.r": 8}}, {"r": 8}]}', "point 2 has no params"),
        ('{"points": [{"params": {"lora.rank": 8}}]}', "point 1 has the key lora.rank, which cannot be searched"),
        ('{"points": [{"params": {"lora.r": 0}}]}', "point 1: lora.r=0 must be a whole number from 1 to 1024"),
        ('{"points": [{"params": {"lora.r": 8}, "quantiles": {"a": 1.5}}]}', "point 1: a quantile is from 0 to 1"),
    ],
)
def test_a_file_that_is_no_portfolio_is_an_error_that_says_why(tmp_path, content, said):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_portfolio(path)
    assert str(caught.value).startswith(f"search.warm_start={path}: ")
    assert said in str(caught.value)


def test_the_portfolio_of_a_model_is_found_by_its_architecture_and_task():
    portfolio = shipped_portfolio(MINILM, "text_classification")
    assert portfolio is not None
    assert portfolio.name == "minilm"
    assert portfolio.rankings
    assert shipped_portfolio(MINILM, "causal_lm") is None
    assert shipped_portfolio({**MINILM, "num_hidden_layers": 12}, "text_classification") is None
    assert shipped_portfolio({}, "text_classification") is None


def test_a_portfolio_comes_after_the_recipes_and_before_the_sobol_points_which_start_at_the_first(tmp_path):
    values = {"lora.r": 4, "lora.alpha_ratio": 2.0}
    points = [PortfolioPoint(params={**values, "train.learning_rate": rate}, source="minilm") for rate in (2e-3, 5e-4)]
    warm, cold = Driver(lanes=1), Driver(lanes=1)
    for driver, portfolio, folder in ((warm, points, tmp_path / "warm"), (cold, (), tmp_path / "cold")):
        folder.mkdir()
        with open_toy(folder, preset("tpe"), portfolio=portfolio) as search:
            driver.run(search, 7)
    origins = [origin for _, origin, _ in warm.proposals]
    assert origins == ["recipe:peft_default", "recipe:alpha_2r", *["portfolio:minilm"] * 2, *["sobol"] * 2, "tpe"]
    assert [params for _, _, params in warm.proposals[2:4]] == [point.params for point in points]
    assert [params for _, _, params in warm.proposals[4:6]] == [params for _, _, params in cold.proposals[2:4]]
    assert portfolio_origin(points[0]) == "portfolio:minilm"

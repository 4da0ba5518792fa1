"""Searches on the same trials (benchmarks/replay): device time, incumbents, truths, the protocol of peers."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay import run
from benchmarks.replay.contenders import CONTENDERS, Peer, PeerSearch, Start
from benchmarks.replay.declared import declare, default_recipe, to_params, to_values
from benchmarks.replay.driver import Assignment, Draw, Log, drive, full_trial_s
from benchmarks.replay.judge import good_draws, regrets
from benchmarks.replay.ours import log_of
from benchmarks.replay.truths import TRUTHS
from benchmarks.replay.verdicts import compare, compare_over_tables
from sweeper.config.compose import compose
from sweeper.config.dimensions import parse_space
from sweeper.search.sobol import unit_point
from sweeper.simulate.base import Curve
from sweeper.simulate.incumbent import Rung, incumbent
from sweeper.simulate.study import simulate_study

ROOT = Path(__file__).parents[1]
NUM_CHUNKS = 4


@dataclass
class FlatResponse:
    """Every trial has the score of its learning rate at every chunk; a chunk takes as many seconds as its rank."""

    name: str = "flat"
    space: object = field(
        default_factory=lambda: parse_space({"lora.r": "choice(1,2,4)", "train.learning_rate": "interval(0.01,1)"})
    )
    fixed: dict = field(default_factory=dict)
    num_chunks: int = NUM_CHUNKS
    num_rows: int = 0
    maximize: bool = True
    majority: float = math.nan
    half_majority: float = math.nan
    best_mean: float = 1.0
    asked: list = field(default_factory=list)

    def curve(self, params, seed):
        self.asked.append((params, seed))
        score, seconds = (params["train.learning_rate"],) * NUM_CHUNKS, (float(params["lora.r"]),) * NUM_CHUNKS
        half = tuple(value / 2 for value in score)
        return Curve(score=score, loss=score, half_score=half, half_loss=half, train_s=seconds, score_s=0.5)

    def mean_score(self, params):
        return params["train.learning_rate"]

    def is_good(self, params):
        return params["train.learning_rate"] >= 0.6


class Scripted:
    """Asks for what a script says, and answers with what it says; remembers what it was told."""

    cpu_s = 0.0

    def __init__(self, asks, answers=()):
        self.asks, self.answers, self.told = list(asks), dict(answers), []

    def ask(self):
        return self.asks.pop(0) if self.asks else None

    def tell(self, trial, chunk, score, loss):
        self.told.append((trial, chunk, score, loss))
        return self.answers.get((trial, chunk), 0)


def assignment(trial, until=NUM_CHUNKS, *, rate=0.5, r=1, is_given=False):
    return Assignment(trial=trial, until=until, params={"lora.r": r, "train.learning_rate": rate}, is_given=is_given)


def times(contender, response, *, lanes=1):
    """Return trial, chunk and time of all scores; a last trial takes what is left of the budget."""
    contender.asks.append(assignment("filler", r=1000))
    log = drive(lambda: contender, response, num_lanes=lanes, budget_s=50, seed=3)
    return [(rung.trial, rung.chunk, rung.at_s) for rung in log.rungs]


def test_a_chunk_takes_the_sum_of_its_lanes_and_of_their_scores():
    contender = Scripted([assignment("a", 2, r=1), assignment("b", 1, r=2)], {("b", 1): 2})
    # Chunk 1: 1 + 2 s, and b is scored: 3.5. Chunk 2: 1 + 2 s, both are scored: 7.5.
    assert times(contender, FlatResponse(), lanes=2) == [(1, 1, 3.5), (0, 2, 7.5), (1, 2, 7.5)]


def test_only_what_is_asked_for_is_scored():
    contender = Scripted([assignment("a")])
    assert times(contender, FlatResponse()) == [(0, 4, 4.5)]


def test_early_rungs_score_half_of_the_rows_in_half_of_the_time():
    contender = Scripted([assignment("a", 2, rate=0.8)], {("a", 2): 4})
    assert times(contender, FlatResponse(num_rows=400)) == [(0, 2, 2.25), (0, 4, 4.75)]
    assert contender.told == [("a", 2, 0.4, 0.4), ("a", 4, 0.8, 0.8)]


def test_a_paused_trial_goes_on_from_its_checkpoint():
    response = FlatResponse()
    contender = Scripted([assignment("a", 1), assignment("b", 1), assignment("a", 4)])
    assert times(contender, response) == [(0, 1, 1.5), (1, 1, 3.0), (0, 4, 6.5)]
    assert len(response.asked) == 3  # the filler is the third


def test_a_trial_that_was_trained_further_is_not_trained_back():
    contender = Scripted([assignment("a", 2), assignment("a", 2)])
    with pytest.raises(RuntimeError, match="after chunk 2 of 4 cannot be trained to chunk 2"):
        drive(lambda: contender, FlatResponse(), num_lanes=1, budget_s=50, seed=0)


def test_what_ends_after_the_budget_is_not_known():
    contender = Scripted([assignment("a"), assignment("b")])
    log = drive(lambda: contender, FlatResponse(), num_lanes=1, budget_s=8.9, seed=0)
    assert [(rung.trial, rung.at_s) for rung in log.rungs] == [(0, 4.5)]
    assert log.chunks == 4 + 3


def test_every_trial_is_trained_with_the_seed_of_the_search():
    response = FlatResponse()
    contender = Scripted([assignment("a"), assignment("b")])
    drive(lambda: contender, response, num_lanes=1, budget_s=8.9, seed=3)
    assert [seed for _, seed in response.asked] == [3, 3]


def test_scores_that_are_minimized_are_told_negated():
    contender = Scripted([assignment("a", rate=0.25)])
    times(contender, FlatResponse(maximize=False))
    assert contender.told[0][2] == -0.25


def test_a_search_that_waits_for_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="no trial runs"):
        drive(lambda: Scripted([]), FlatResponse(), num_lanes=1, budget_s=50, seed=0)


def log_with(*rungs):
    rates = (0.3, 0.6, 0.9)
    return Log(draws=[Draw({"lora.r": 1, "train.learning_rate": rate}, True) for rate in rates], rungs=list(rungs))


def test_a_complete_trial_is_chosen_before_a_better_one_that_is_not_complete():
    log = log_with(Rung(1, 2, 2, 0.9), Rung(2, 0, 4, 0.3))
    assert [incumbent(log.rungs, at_s, maximize=True) for at_s in (0.5, 1, 2)] == [None, 2, 0]


def test_among_trials_that_are_not_complete_the_highest_chunk_counts():
    log = log_with(Rung(1, 2, 1, 0.9), Rung(2, 0, 2, 0.3), Rung(3, 1, 2, 0.6))
    assert [incumbent(log.rungs, at_s, maximize=True) for at_s in (1, 2, 3)] == [2, 0, 1]


def test_of_equal_scores_the_earlier_is_chosen_and_the_lower_if_that_is_better():
    tied = log_with(Rung(1, 1, 4, 0.5), Rung(2, 0, 4, 0.5))
    assert incumbent(tied.rungs, 3, maximize=True) == 1
    log = log_with(Rung(1, 1, 4, 0.6), Rung(2, 0, 4, 0.3))
    assert incumbent(log.rungs, 3, maximize=False) == 0


def test_regret_is_of_the_mean_score_at_shares_of_the_budget():
    log = log_with(Rung(5, 0, 4, 0.99), Rung(10, 2, 4, 1.0))
    assert regrets(FlatResponse(), log, 10, (0.25, 0.5, 1.0)) == pytest.approx([0.7, 0.7, 0.1])
    assert regrets(FlatResponse(maximize=False, best_mean=0.0), log, 10, (0.5, 1.0)) == pytest.approx([0.3, 0.3])


def test_good_draws_leave_out_what_a_search_was_given():
    log = log_with()
    log.draws.append(Draw({"lora.r": 1, "train.learning_rate": 0.0}, False))
    assert good_draws(FlatResponse(), log) == pytest.approx(2 / 3)
    assert math.isnan(good_draws(FlatResponse(), Log()))


@pytest.mark.parametrize("name", TRUTHS)
def test_nothing_is_better_than_the_known_best(name):
    truth = TRUTHS[name]
    points = [truth.space.point(unit_point(len(truth.space), 1, index)) for index in range(512)]
    best = {
        "lora.r": 16,
        "lora.alpha_ratio": 2.0,
        "lora.dropout": 0.0,
        "train.learning_rate": 3e-3,
        "train.head_lr_ratio": 20.0,
    }
    assert truth.mean_score(best) == pytest.approx(truth.best_mean)
    assert max(truth.mean_score(point) for point in points) <= truth.best_mean + 1e-12
    assert truth.is_good(best)
    final = [truth.curve(best, seed).score[-1] for seed in range(200)]
    assert np.mean(final) == pytest.approx(truth.best_mean, abs=0.003)


@pytest.mark.parametrize("name", [name for name in TRUTHS if name != "null"])
def test_the_good_zone_is_two_fifths_of_the_space(name):
    truth = TRUTHS[name]
    points = [truth.space.point(unit_point(len(truth.space), 2, index)) for index in range(1024)]
    assert np.mean([truth.is_good(point) for point in points]) == pytest.approx(0.4, abs=0.03)


def test_curves_of_the_crossing_truth_cross_and_ties_are_ties():
    crossing, ties = TRUTHS["crossing"], TRUTHS["ties"]
    middle = {"lora.r": 16, "lora.alpha_ratio": 2.0, "lora.dropout": 0.0, "train.head_lr_ratio": 20.0}
    small, large = middle | {"train.learning_rate": 6e-4}, middle | {"train.learning_rate": 8e-3}
    assert crossing.curve(small, 0).score[0] < crossing.curve(large, 0).score[0]
    assert crossing.curve(small, 0).score[-1] > crossing.curve(large, 0).score[-1]
    points = [ties.space.point(unit_point(len(ties.space), 0, index)) for index in range(256)]
    tied = [ties.curve(point, 0).half_score[2] == ties.majority for point in points]
    assert np.mean(tied) > 0.5
    losses = [ties.curve(point, 0).half_loss[-1] for point, is_tied in zip(points, tied, strict=True) if is_tied]
    assert len(set(losses)) == len(losses)  # the loss still tells them apart


def test_a_curve_depends_on_configuration_and_seed_only():
    truth = TRUTHS["ridge"]
    one, other = (truth.space.point((unit,) * 5) for unit in (0.4, 0.6))
    assert truth.curve(one, 1) == truth.curve(dict(reversed(one.items())), 1)
    assert truth.curve(one, 1) != truth.curve(one, 2)
    assert truth.curve(one, 1) != truth.curve(other, 1)


def start_of(truth, lanes=2):
    return Start(space=truth.space, num_chunks=truth.num_chunks, num_lanes=lanes, seed=0)


@pytest.mark.parametrize("name", ["random", "random_asha", "optuna_tpe_sh", "optuna_tpe_hb", "optuna_gp_hb"])
def test_regret_is_zero_where_all_configurations_are_equal(name):
    truth = TRUTHS["null"]
    budget_s = 3 * full_trial_s(truth)
    log = drive(lambda: CONTENDERS[name].make(start_of(truth)), truth, num_lanes=2, budget_s=budget_s, seed=0)
    assert regrets(truth, log, budget_s) == [0.0] * 20
    assert 20 < log.chunks <= 36


def test_spaces_are_declared_as_their_users_would():
    space = parse_space(
        {
            "lora.r": "tag(log2,interval(1,64))",
            "lora.alpha_ratio": "tag(log,interval(0.25,8))",
            "lora.dropout": "interval(0,0.2)",
            "train.lr_schedule": "choice(linear,cosine)",
        }
    )
    assert declare(space) == [
        {"key": "lora.r", "kind": "int", "low": 0, "high": 6, "log": False},
        {"key": "lora.alpha_ratio", "kind": "float", "low": 0.25, "high": 8.0, "log": True},
        {"key": "lora.dropout", "kind": "float", "low": 0.0, "high": 0.2, "log": False},
        {"key": "train.lr_schedule", "kind": "choice", "choices": ["linear", "cosine"]},
    ]
    params = {"lora.r": 32, "lora.alpha_ratio": 0.3, "lora.dropout": 0.1, "train.lr_schedule": "cosine"}
    assert to_values(space, params)["lora.r"] == 5
    assert to_params(space, to_values(space, params)) == params
    # A rounding error beyond a bound.
    assert to_params(space, to_values(space, params) | {"lora.alpha_ratio": 8.000001})["lora.alpha_ratio"] == 8.0
    recipe = {"lora.r": 8, "lora.alpha_ratio": 1.0, "lora.dropout": 0.0, "train.lr_schedule": "linear"}
    assert default_recipe(space) == recipe
    assert default_recipe(parse_space({"lora.r": "tag(log2,interval(16,64))"})) == {"lora.r": 16}


def test_a_study_of_optuna_starts_with_the_default_recipe_and_is_told_at_its_rungs():
    truth = TRUTHS["ridge"]
    found = CONTENDERS["optuna_tpe_hb"].make(start_of(truth))
    first, second = found.ask(), found.ask()
    assert (first.params, first.is_given, first.until) == (default_recipe(truth.space), True, 1)
    assert not second.is_given
    assert [found.tell(first.trial, chunk, 0.9, 0.1) for chunk in (1, 3, 9, 12)] == [3, 9, 12, 0]


def test_a_weak_trial_of_optuna_is_stopped():
    found = CONTENDERS["random_asha"].make(start_of(TRUTHS["ridge"]))
    trials = [found.ask().trial for _ in range(6)]
    assert [found.tell(trial, 1, score, 0.0) for trial, score in zip(trials, (5, 6, 4, 3, 2, 1), strict=True)] == [
        2,
        2,
        0,
        0,
        0,
        0,
    ]


PEER = """
import json, sys, types
sys.path.insert(0, {root!r})
class Search:
    def __init__(self, message):
        print("noise of a library")
        self.message, self.count = message, 0
    def ask(self):
        self.count += 1
        if self.count > self.message["options"]["most"]:
            return {{"trial": None}}
        return {{"trial": "0", "values": self.message["default"], "until": self.count}}
    def tell(self, trial, chunk, score):
        if score > 1:
            raise ValueError("too good")
        return 0
sys.modules["benchmarks.replay.adapters.fake"] = types.SimpleNamespace(SEARCH=Search)
sys.argv = ["protocol", "fake"]
from benchmarks.replay.adapters.protocol import main
main()
"""


@pytest.fixture
def peer():
    found = Peer([sys.executable, "-c", PEER.format(root=str(ROOT))])
    yield found
    found.close()


def test_a_peer_answers_in_lines_of_json_and_starts_anew(peer):
    truth = TRUTHS["ridge"]
    for _ in range(2):
        search = PeerSearch(start_of(truth), peer, {"most": 1})
        first = search.ask()
        assert (first.trial, first.until, first.params, first.is_given) == ("0", 1, default_recipe(truth.space), True)
        assert search.tell("0", 1, 0.5, 0.1) == 0
        assert search.ask() is None
        assert search.cpu_s > 0


def test_the_error_of_a_peer_is_shown(peer):
    search = PeerSearch(start_of(TRUTHS["ridge"]), peer, {"most": 1})
    with pytest.raises(RuntimeError, match="too good"):
        search.tell("0", 1, 2.0, 0.1)


def test_the_verdict_needs_an_interval_without_zero():
    peers = {seed: 0.1 + 0.01 * (seed % 5) for seed in range(30)}
    assert compare({seed: regret - 0.05 for seed, regret in peers.items()}, peers).verdict == "better"
    assert compare({seed: regret + 0.05 for seed, regret in peers.items()}, peers).verdict == "worse"
    found = compare({seed: regret + (0.05 if seed % 2 else -0.05) for seed, regret in peers.items()}, peers)
    assert (found.verdict, round(found.mean, 9)) == ("equal", 0)
    # That of a mean of 30 values of 0.05 each.
    assert found.high == pytest.approx(1.96 * 0.05 / math.sqrt(30), rel=0.15)


def test_few_tables_that_disagree_leave_the_question_open():
    zero = dict.fromkeys(range(30), 0.0)
    peers = {"one": zero, "two": zero, "three": zero}
    ours = {name: dict.fromkeys(range(30), value) for name, value in zip(peers, (0.1, 0.1, -0.1), strict=True)}
    found = compare_over_tables(ours, peers)
    assert found.verdict == "equal"
    assert found.mean == pytest.approx(0.1 / 3)
    assert (found.low, found.high) == pytest.approx((-0.1, 0.1))
    assert compare_over_tables({"one": ours["one"]}, peers).verdict == "worse"


def test_our_own_log_is_judged_as_the_simulation_judges_it():
    truth = TRUTHS["ridge"]
    budget_s = 4 * full_trial_s(truth)
    settings = compose([]).settings
    study = simulate_study(truth, settings.search, seed=0, lanes=2, device_s=budget_s, stop_s=budget_s)
    log = log_of(study)
    assert regrets(truth, log, budget_s, (0.5, 1.0)) == [study.regret_at(budget_s / 2), study.regret_at(budget_s)]
    assert log.chunks == sum(trial.chunks for trial in study.trials)
    assert [draw.is_own for draw in log.draws] == [trial.is_model_draw for trial in study.trials]


def asked_of(results, **options):
    defaults = {
        "short": False,
        "page": False,
        "only": ["sweeper", "random"],
        "truths": ["ridge", "null"],
        "seeds": 2,
        "processes": 1,
        "tables": results,
        "peers": results,
    }
    return argparse.Namespace(results=results, **(defaults | options))


def test_rows_are_computed_once_and_make_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_LANES", (2,))
    assert run.compare(asked_of(tmp_path)) == []
    rows = [json.loads(line) for line in (tmp_path / "replay.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 * 2 * 2
    assert {row["contender"] for row in rows} == {"sweeper", "random"}
    assert all(row["regret"] == [0.0] * 20 for row in rows if row["truth"] == "null")
    page = (tmp_path / "replay.md").read_text(encoding="utf-8")
    assert "Not run yet, or not installed: Syne Tune, SMAC3, neural-pipeline-search." in page
    assert "| random, full trials |" in page
    monkeypatch.setattr(run, "search_all", lambda _: pytest.fail("computed again"))
    # Those of a peer stay where it is not installed.
    kept = rows[0] | {"contender": "priorband", "code": run._code("priorband")}
    with (tmp_path / "replay.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")
    assert run.compare(asked_of(tmp_path)) == []
    assert '"priorband"' in (tmp_path / "replay.jsonl").read_text(encoding="utf-8")
    # Other code of a contender makes its rows worthless, and no other's.
    monkeypatch.setattr(run, "_code", lambda name: "other" if name == "random" else run_code(name))
    computed = []
    monkeypatch.setattr(run, "search_all", lambda unit: computed.append(unit.contender) or [])
    run.compare(asked_of(tmp_path))
    assert set(computed) == {"random"}
    capsys.readouterr()


run_code = run._code


def test_the_error_of_a_contender_is_returned_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def fail(unit, *_):
        if unit.contender == "random":
            raise RuntimeError("the peer ended")
        return Log(draws=[Draw(default_recipe(TRUTHS["ridge"].space), False)])

    monkeypatch.setattr(run, "search", fail)
    monkeypatch.setattr(run, "_LANES", (1, 8))
    failures = run.compare(asked_of(tmp_path, truths=["ridge"]))
    assert failures == [f"random on ridge, {lanes} lane(s): the peer ended" for lanes in (8, 1)]
    assert "| sweeper |" in (tmp_path / "replay.md").read_text(encoding="utf-8")
    capsys.readouterr()

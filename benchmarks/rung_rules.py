"""What rules for rungs save and lose, replayed on the tables of real trials (benchmarks/tables).

    python -m benchmarks.rung_rules [table ...]     writes benchmarks/results/rung_rules.{md,jsonl}

24 settings of a table in random order, the first of which is never pruned; one worker whose lanes advance together, and
a free lane gets the next setting. The product's rule decides, or a variant of it. For each rule, over the same orders:

- saved: share of the chunks that were not trained
- regret: final score of the best of the 24 settings minus that of the best complete one
- at equal time: the table's best final score minus that of the best complete trial, when the device time of 12 full
  trials is spent, with as many settings as fit; and the paired difference to the product's rule with its standard error

It replays decisions alone, without proposals that learn from them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.arithmetic import table as markdown
from sweeper.config.settings import SearchSettings
from sweeper.figures.rungs import rows_to_score
from sweeper.search.pruning import make_pruner, rung_chunks

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = Path(__file__).resolve().parent / "tables"
NUM_TRIALS, NUM_FULL = 24, 12
MAJORITY = {
    "trec": (0.24, 0.23),
    "sms_spam": (0.88, 0.8775),
    "trec_entity": (0.2, 53 / 300),
    "rotten_tomatoes": (0.535, 0.5),
    "trec_fine": (0.18, 0.18),
    "trec_250": (0.24, 0.23),
    "tweets": (0.54, 0.56),
    "smollm2_trec": (0.25, 0.23),
}
"""Score of always predicting the commonest label, on the first half of the validation rows and on all of them."""


class Table:
    """The curves of the settings that were trained to the end, with seed 0; position by setting and chunk.

    Args:
        path: A Parquet file of `benchmarks.tables`.
    """

    def __init__(self, path: Path) -> None:
        content = pq.read_table(path)
        about = json.loads(content.schema.metadata[b"sweeper"])
        frame: pd.DataFrame = content.to_pandas()
        self.name, self.num_chunks = path.stem, int(about["num_chunks"])
        self._num_rows = int(about["rows"]["validation"])
        frame = frame[(frame["seed"] == 0) & (frame["failure"] == "")]
        curves = [curve for _, curve in frame.groupby("setting") if len(curve) == self.num_chunks]
        self.num_settings = len(curves)
        self._columns = {
            name: np.array([curve[name].to_numpy() for curve in curves])
            for name in ("score", "loss", "half_score", "half_loss", "train_loss")
        }
        self.train_s = float(np.mean([curve["train_s"].iloc[-1] for curve in curves])) / self.num_chunks
        self._score_s = float(np.mean([curve["score_s"].iloc[-1] for curve in curves])) / self.num_chunks

    def has_half(self, chunk: int) -> bool:
        """Whether a rung scores half of the rows."""
        return rows_to_score(chunk, num_chunks=self.num_chunks, num_rows=self._num_rows) < self._num_rows

    def scored(self, setting: int, chunk: int) -> tuple[float, float]:
        """Return score and loss at a rung."""
        half = "half_" if self.has_half(chunk) else ""
        return tuple(float(self._columns[half + name][setting, chunk - 1]) for name in ("score", "loss"))  # type: ignore[return-value]

    def final(self, settings: Sequence[int] | None = None) -> float:
        """Return the best final score of some settings, or of all."""
        return float(self._columns["score"][:, -1][settings].max())

    def train_loss(self, setting: int, chunk: int) -> float:
        """Return the mean training loss of a chunk."""
        return float(self._columns["train_loss"][setting, chunk - 1])

    def score_s(self, chunk: int) -> float:
        """Return the device seconds of a rung."""
        return self._score_s / 2 if self.has_half(chunk) else self._score_s

    def majority(self, chunk: int) -> float:
        """Return the score of always predicting the commonest label at a rung."""
        return MAJORITY[self.name][not self.has_half(chunk)] + 1e-9


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule, by how it differs from the product's."""

    factor: int = 2
    min_chunks: int = 2
    knows_majority: bool = True
    ties_pass: bool = False
    """Trials are compared by their score alone, as by Optuna's pruners."""
    stops_majority: bool = False
    """Whoever scores no more than the commonest label is stopped, whatever the others score."""
    competes_early: bool = False
    """The second trial at a rung competes already, not only the fourth."""
    scores_pack_first: bool = False
    """All lanes that reach a rung together are recorded before the first of them is decided."""
    looks_back: bool = False
    """A trial must also be among the best of the earlier rungs by now."""
    promotes: bool = False
    """A stopped trial continues in a free lane when it is among the best of its rung by now."""
    stops_train_loss: float = 0.0
    """After every chunk that is no rung, this share of the trials with the highest training loss is stopped."""


RULES = {
    "product": Rule(),
    "ties pass (before)": Rule(knows_majority=False, ties_pass=True),
    "majority competes like others": Rule(knows_majority=False),
    "majority is stopped outright": Rule(stops_majority=True),
    "all compete from the second on": Rule(competes_early=True),
    "a pack is scored before it is decided": Rule(scores_pack_first=True),
    "earlier rungs are compared again": Rule(looks_back=True),
    "stopped trials are promoted": Rule(promotes=True),
    "worst eighth by training loss": Rule(stops_train_loss=1 / 8),
    "worst quarter by training loss": Rule(stops_train_loss=1 / 4),
    "first rung after one chunk": Rule(min_chunks=1),
    "first rung after three chunks": Rule(min_chunks=3),
    "factor 3": Rule(factor=3),
}


@dataclass
class Replay:
    """A search of settings in an order, with some lanes."""

    table: Table
    rule: Rule
    order: Sequence[int]
    lanes: int
    num_chunks: int = 0
    device_s: float = 0.0
    complete: list[int] = field(default_factory=list)
    """Settings that were trained to the end."""

    def __post_init__(self) -> None:
        rule, table = self.rule, self.table
        self._rungs = rung_chunks(table.num_chunks, min_chunks=rule.min_chunks, reduction_factor=rule.factor)
        majority = [math.inf if rule.competes_early else table.majority(rung) for rung in self._rungs]
        self._pruner = make_pruner(
            SearchSettings(reduction_factor=rule.factor),
            study=table.name,
            rungs=self._rungs,
            maximize=True,
            majority=majority if rule.knows_majority else (),
        )
        self._scores: dict[int, dict[int, float]] = defaultdict(dict)
        self._train_losses: dict[int, list[float]] = defaultdict(list)
        self._stopped: dict[int, int] = {}
        """Chunk at which each trial was stopped."""

    @property
    def full_s(self) -> float:
        """Device seconds of a trial that is trained to the end."""
        return self.table.num_chunks * self.table.train_s + sum(map(self.table.score_s, self._rungs))

    def run(self, *, until_s: float = math.inf) -> Replay:
        """Train until all settings have ended, or the device time is spent."""
        running: dict[int, int] = {}
        following = 0
        while self.device_s < until_s:
            while len(running) < self.lanes:
                promoted = self._promoted() if self.rule.promotes else None
                if promoted is not None:
                    running[promoted] = self._stopped.pop(promoted)
                elif following < len(self.order):
                    running[following] = 0
                    following += 1
                else:
                    break
            if not running:
                break
            running = {number: chunk + 1 for number, chunk in running.items()}
            self.num_chunks += len(running)
            self.device_s += len(running) * self.table.train_s
            if self.rule.scores_pack_first:
                for number, chunk in running.items():
                    self._score(number, chunk)
            for number in sorted(running):
                self._end(number, running)
        return self

    def _end(self, number: int, running: dict[int, int]) -> None:
        """Score a trial after a chunk, and let it leave if it is complete or stopped."""
        chunk = running[number]
        self._score(number, chunk)
        if chunk == self.table.num_chunks:
            self.complete.append(self.order[number])
            del running[number]
        elif number and (self._is_pruned(number, chunk) if chunk in self._rungs else self._is_flat(number, chunk)):
            self._stopped[number] = chunk
            del running[number]

    def _score(self, number: int, chunk: int) -> None:
        if chunk in self._rungs and number not in self._scores[chunk]:
            score, loss = self.table.scored(self.order[number], chunk)
            self._scores[chunk][number] = score
            self._pruner.record(number, chunk, score, loss=loss)
            self.device_s += self.table.score_s(chunk)

    def _is_pruned(self, number: int, chunk: int) -> bool:
        rule, scores = self.rule, self._scores[chunk]
        if rule.ties_pass:
            better = sum(score > scores[number] for score in scores.values())
            return len(scores) >= 2 * rule.factor and better >= len(scores) // rule.factor
        if rule.stops_majority and scores[number] <= self.table.majority(chunk):
            return True
        rungs = self._rungs[: self._rungs.index(chunk) + 1] if rule.looks_back else (chunk,)
        return any(self._pruner.should_prune(number, rung) for rung in rungs)

    def _is_flat(self, number: int, chunk: int) -> bool:
        if not self.rule.stops_train_loss:
            return False
        loss, losses = self.table.train_loss(self.order[number], chunk), self._train_losses[chunk]
        losses.append(loss)
        higher = sum(other > loss for other in losses)
        return len(losses) >= 2 * self.rule.factor and higher < math.floor(self.rule.stops_train_loss * len(losses))

    def _promoted(self) -> int | None:
        """Return a stopped trial that its rung would let pass by now, of those that got furthest the first."""
        at_rungs = sorted((-chunk, number) for number, chunk in self._stopped.items() if chunk in self._rungs)
        return next((number for chunk, number in at_rungs if not self._is_pruned(number, -chunk)), None)


def measure(table: Table, orders: Sequence[Sequence[int]], lanes: int) -> list[dict[str, object]]:
    """Return a line for every rule."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    num_trials = min(NUM_TRIALS, table.num_settings // 2)
    for name, rule in RULES.items():
        found[name] = []
        for order in orders:
            first = order[:num_trials]
            short = Replay(table, rule, first, lanes).run()
            saved = 1 - short.num_chunks / (num_trials * table.num_chunks)
            long = Replay(table, rule, order, lanes)
            long.run(until_s=NUM_FULL * long.full_s)
            found[name].append(
                (
                    saved,
                    table.final(first) - table.final(short.complete),
                    # Without a complete trial, that of the first setting, which is never stopped.
                    table.final() - table.final(long.complete or order[:1]),
                )
            )
    lines: list[dict[str, object]] = []
    for name, values in found.items():
        saved, regret, late = (statistics.fmean(each) for each in zip(*values, strict=True))
        differences = [mine[2] - ours[2] for mine, ours in zip(values, found["product"], strict=True)]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        lines.append(
            {
                "table": table.name,
                "settings": table.num_settings,
                "lanes": lanes,
                "rule": name,
                "saved": round(saved, 3),
                "regret": round(regret, 4),
                "regret at equal time": round(late, 4),
                "difference": f"{statistics.fmean(differences):+.4f} ± {error:.4f}",
            }
        )
    return lines


def main() -> None:
    """Measure all rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help="names; all that exist if none is given")
    parser.add_argument("--folder", type=Path, default=TABLES)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 8])
    asked = parser.parse_args()
    names = asked.tables or sorted(path.stem for path in asked.folder.glob("*.parquet"))
    lines: list[dict[str, object]] = []
    for name in names:
        table, rng = Table(asked.folder / f"{name}.parquet"), np.random.default_rng(0)
        orders = [rng.permutation(table.num_settings).tolist() for _ in range(asked.orders)]
        for lanes in asked.lanes:
            lines += measure(table, orders, lanes)
            sys.stderr.write(f"{name}, {lanes} lanes\n")
    (RESULTS / "rung_rules.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = markdown(list(lines[0]), [list(line.values()) for line in lines])
    about = f"{asked.orders} orders of the settings; see benchmarks/rung_rules.py."
    (RESULTS / "rung_rules.md").write_text(f"# Rules for rungs, replayed\n\n{about}\n\n{content}\n")


if __name__ == "__main__":
    main()

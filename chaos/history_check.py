"""Judges the history of a sweep (`history`) and the files that it left. `check` returns complaints as text.

Each complaint starts with the name of the violated rule:

- ``ends-once``: a finished trial is not written, trained or scored again.
- ``no-repeat``: a chunk whose record was written is not trained again, unless its checkpoint was damaged, or it has
  none and is no rung; a trial is in one pack at a time.
- ``no-charge-without-work``, ``no-work-without-charge``: the ledger has what workers replied and what was lost, except
  for what a kill put in doubt; so has each trial.
- ``decision-follows``: each decision is that of the documented rule, given the values so far (`pruning_rules`).
- ``decision-acted``: a trial is pruned if and only if the decision was to stop; no trial trains on without a decision.
- ``retry-used``: a failure uses up a retry; a trial fails only without any left, and is infeasible only for a reason.
- ``lost-trial``: at the end, no trial is unfinished or missing.
- ``proposal-kept``: what was proposed is what was recorded and trained.
- ``scores-kept``: the scores in a record are those that the worker replied.
- ``checkpoint-chain``: a trial continues from the checkpoint that a worker replied and that was recorded, and never
  from a damaged one.
- ``left-over``: no large checkpoint is left that no record refers to.
- ``adapter-own``: an adapter, or row outcomes, are those that the worker replied for this trial.
- ``best-follows``: best.json follows from the records.
- ``budget``: no more trials than asked for; no chunk after the end of the window, no trial after the device hours.
- ``order``: a record is written before search and tracker hear of it, and before its trial trains.
- ``record-kept``: what was written is read again, and is on the disk at the end.

The rules are stated a second time, in `history_replay`; nothing of the product that decides is used. An operation that
a kill cut may have happened or not; both are right.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chaos.history_replay import Event, Replay, TrialHistory

__all__ = ["check"]

_MOST = 100
"""Complaints that are returned; one fault often leads to many."""


def check(events: Iterable[Event], store_root: Path) -> list[str]:
    """Return what is wrong with a sweep.

    Args:
        events: Its history.
        store_root: Its folder.
    """
    replay = Replay()
    for event in events:
        replay.see(event)
    found = [*replay.complaints, *_Files(replay, store_root).complaints()]
    return list(dict.fromkeys(found))[:_MOST]


class _Files:
    """Compares the files of a sweep with its history. Reads them itself."""

    def __init__(self, replay: Replay, root: Path) -> None:
        self._replay, self._root = replay, root

    def complaints(self) -> Iterator[str]:
        """Yield what is wrong with the files."""
        found: dict[str, dict[int, Any]] = {}
        for path in sorted(self._root.glob("studies/*/trials/*/trial.json")):
            study, number = path.parts[-4], int(path.parts[-2])
            found.setdefault(study, {})[number] = record = json.loads(path.read_bytes())
            yield from self._trial(study, number, record, path.parent)
        for (study, number), trial in self._replay.trials.items():
            if trial.written is not None and number not in found.get(study, {}):
                yield f"record-kept: trial {number} of {study} was written, but has no file"
        yield from self._ledger(found)
        if self._replay.end is not None:
            left = sorted(path for path in self._root.glob("studies/*/incoming/**/*") if path.is_file())
            yield from (f"left-over: {path.relative_to(self._root)}" for path in left)
        best = self._root / "best.json"
        if best.exists() and self._replay.end is not None:
            for content in json.loads(best.read_bytes())["studies"]:
                yield from self._best(content, found.get(content["name"], {}))

    def _trial(self, study: str, number: int, record: Mapping[str, Any], folder: Path) -> Iterator[str]:
        known = self._replay.trials.get((study, number), TrialHistory())
        chunks = record["measurements"][-1]["chunk"] if record["measurements"] else 0
        content = (record["state"], chunks, record["num_retries"], list(record["cost"].values()))
        versions = [each for each in (known.written, *known.doubtful) if each]
        if not any(content == (v["state"], v["chunks"], v["retries"], list(v["cost"])) for v in versions):
            yield f"record-kept: trial {number} of {study} is on disk as it was never written"
        replies = known.replies.get(chunks, {"adapters": set()})
        adapter = folder / "adapter" / "adapter_model.safetensors"
        if adapter.exists() and hashlib.sha256(adapter.read_bytes()).hexdigest() not in replies["adapters"]:
            yield f"adapter-own: trial {number} of {study} has an adapter that no worker replied for it"

    def _ledger(self, found: Mapping[str, Mapping[int, Any]]) -> Iterator[str]:
        path = self._root / "ledger.json"
        if not path.exists():
            return
        cost = list(json.loads(path.read_bytes())["cost"].values())
        low, high = self._replay.low, self._replay.high
        if any(value > most * (1 + 1e-9) + 1e-6 for value, most in zip(cost, high, strict=True)):
            yield f"no-charge-without-work: ledger.json has {cost}, at most {high} were charged"
        if any(value < least * (1 - 1e-9) - 1e-6 for value, least in zip(cost, low, strict=True)):
            yield f"no-work-without-charge: ledger.json has {cost}, but {low} were charged"
        trials = [list(record["cost"].values()) for records in found.values() for record in records.values()]
        sums = [math.fsum(each[k] for each in trials) for k in range(3)]
        if any(value < total * (1 - 1e-9) - 1e-6 for value, total in zip(cost, sums, strict=True)):
            yield f"no-work-without-charge: ledger.json has {cost}, but the trials have {sums}"

    @staticmethod
    def _best(content: Mapping[str, Any], records: Mapping[int, Any]) -> Iterator[str]:
        name, metric = content["name"], content["metric"]
        sign = -1.0 if content["direction"] == "maximize" else 1.0
        ranked = []
        for number, record in records.items():
            rungs = [m["metrics"][metric] for m in record["measurements"] if metric in m["metrics"]]
            is_ranked = record["state"] == "complete" and record["spec"]["phase"] != "confirmation"
            if is_ranked and rungs and math.isfinite(rungs[-1]):
                ranked.append((sign * rungs[-1], record["num_parameters"], number))
        right = min(ranked)[2] if ranked else None
        said = content["best"]["trial"] if content["best"] else None
        if said != right:
            yield f"best-follows: best.json calls trial {said} of {name} the best, but it is trial {right}"
        elif ranked and not math.isclose(content["best"]["value"], sign * min(ranked)[0]):
            yield f"best-follows: best.json gives trial {said} of {name} a value that it does not have"
        states = [record["state"] for record in records.values() if record["spec"]["phase"] == "search"]
        for state, count in content["trials"].items():
            if states.count(state) != count:
                yield f"best-follows: best.json counts {count} {state} trials of {name}, not {states.count(state)}"

"""Follows the events of a history and complains about each that breaks a rule; the rules are those of `history_check`.

Keeps for each trial what is written for certain, what a kill left in doubt, and what the session knows; for each worker
its pack and its request; for the ledger a lower and an upper bound. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.pruning_rules import Scores

__all__ = ["Event", "Replay", "TrialHistory"]

Event = Mapping[str, Any]
_Key = tuple[str, int]
"""Study and number of a trial."""
_INFEASIBLE = {"out_of_memory", "non_finite", "exploded"}
_STOPPING = {"disk_full"}
_SAME = ("state", "chunks", "rungs", "decided", "retries", "cost")
"""Fields of a record that tell two versions apart."""
_SLACK_S = 0.5
_TRAINING = ("chunk", "save")
"""Requests on which a worker's trials depend: they are charged for it if it is lost."""


@dataclass
class TrialHistory:
    """What is known of a trial."""

    written: Event | None = None
    """The last record that was written for certain."""
    doubtful: list[Event] = field(default_factory=list)
    """Later records whose writing was cut or failed."""
    now: Event | None = None
    """The record as the session has it."""
    cost: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """What the trial has cost, as the session should have it."""
    asked: Event | None = None
    decision: tuple[int, str] | None = None
    """Rung and decision that the next record must follow."""
    failure: str | None = None
    """Failure that the next record must handle."""
    refundable: int = 0
    """Retries that a broken device may give back."""
    may_rewind: bool = False
    damaged: set[int] = field(default_factory=set)
    """Chunks whose checkpoint was damaged and not written again."""
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What workers replied, by chunk: sets of digests, and the metrics."""

    def reply(self, chunk: int) -> dict[str, Any]:
        """Return what workers replied after ``chunk`` chunks; ``sent`` is whether the last one sent a checkpoint."""
        digests = ("checkpoints", "adapters", "rung_adapters", "outcomes")
        return self.replies.setdefault(chunk, {"metrics": None, "sent": False, **{what: set() for what in digests}})


@dataclass
class _Worker:
    study: str = ""
    lanes: dict[int, int] = field(default_factory=dict)
    """Chunks done by trial."""
    refused: set[int] = field(default_factory=set)
    """Trials that came with a damaged checkpoint, so that it must not train them."""
    works: str = ""
    """The request without a reply: ``chunk``, ``score`` or another; empty if there is none."""
    asked_m: float = 0.0
    is_charged: bool = False
    """Whether its lost request was charged."""


class Replay:
    """Follows the events; each kind has a method."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.trials: dict[_Key, TrialHistory] = {}
        self.studies: dict[str, Event] = {}
        """The event ``open`` of each study."""
        self.end: Event | None = None
        """How the last session ended; None if it was killed or failed."""
        self.low, self.high = [0.0] * 3, [0.0] * 3
        """Bounds of the ledger; they differ by what a kill put in doubt."""
        self._session = -1
        self._scores: dict[str, Scores] = {}
        self._workers: dict[int, _Worker] = {}
        self._unpaid: list[float] | None = None
        """The cost of a reply that is still to be charged."""
        self._loss_s: float | None = None
        """A charge for lost work, until it is known which worker lost it."""
        self._losing: _Worker | None = None
        self._limit: Event = {"until": None, "device_hours": 0}
        self._replied_t: dict[int, float] = {}
        self._unseen: dict[_Key, tuple[int, str]] = {}
        """Proposals (chunk 0) and values that the search has, but perhaps no record."""

    def see(self, event: Event) -> None:
        """Take in the next event."""
        # A command that finds the sweep locked starts and ends while another one is running.
        if event["session"] != self._session and event["kind"] != "start":
            self._begin(event["session"])
        handle = getattr(self, f"_{event['kind']}", None)
        if handle is not None:
            handle(event)

    def _complain(self, rule: str, text: str, event: Event) -> None:
        self.complaints.append(f"{rule}: {text} (session {event['session']}, event {event['n']})")

    def _trial(self, event: Event) -> TrialHistory:
        return self.trials.setdefault((event["study"], event["trial"]), TrialHistory())

    # Sessions

    def _begin(self, session: int) -> None:
        self._session = session
        self._workers.clear()
        self._replied_t.clear()
        self._unseen.clear()
        self._unpaid = self._loss_s = self._losing = self.end = None
        for trial in self.trials.values():
            trial.asked = trial.decision = trial.failure = trial.now = None
            trial.refundable = 0

    def _end(self, event: Event) -> None:
        if event["phase"] != "done":
            return
        self.end = event
        self._settle(event)
        if event["reason"] or event["signal"]:
            return
        for (study, number), trial in self.trials.items():
            now = trial.now or trial.written
            if study not in event["unopened"] and now is not None and now["state"] == "running":
                rule = "retry-used" if now["failure"] is not None and now["retries"] else "lost-trial"
                self._complain(rule, f"trial {number} of {study} is unfinished, but nothing is left", event)

    def _open(self, event: Event) -> None:
        self.studies[event["study"]] = event

    def _budget(self, event: Event) -> None:
        self._limit = event

    # The search

    def _search(self, event: Event) -> None:
        self._scores[event["study"]] = Scores(event)

    def _sync(self, event: Event) -> None:
        if event["phase"] != "begin":
            return
        study, scores = event["study"], self._scores[event["study"]]
        read = {record["trial"]: record for record in event["trials"]}
        for (name, number), trial in self.trials.items():
            if name == study and trial.written is not None and number not in read:
                self._complain("record-kept", f"trial {number} of {study} was written, but is not read again", event)
        for number, record in read.items():
            trial = self.trials.setdefault((study, number), TrialHistory())
            if not any(_is_same(record, known) for known in (trial.written, *trial.doubtful) if known):
                self._complain("record-kept", f"trial {number} of {study} is read as it was never written", event)
            trial.written = trial.now = record
            trial.cost = list(record["cost"])
            trial.doubtful.clear()
            if record["why"] == "search":
                self._restore(scores, record)

    def _restore(self, scores: Scores, record: Event) -> None:
        number = record["trial"]
        scores.origins[number] = record["origin"]
        for chunk in sorted(map(int, record["rungs"])):
            costs = {"parameters": record["parameters"], "device_s": record["rungs"][str(chunk)]["elapsed_s"]}
            measured = record["rungs"][str(chunk)]
            value = measured.get(self.studies[record["study"]]["metric"])
            if value is not None:
                scores.add(number, chunk, value, measured.get("validation/loss", math.nan), costs)
        if record["state"] != "running":
            scores.end(number, record["state"])
        if record["state"] == "pruned":
            scores.decided[number, record["chunks"]] = "stop"
        elif record["decided"]:
            scores.decided[number, record["decided"]] = "continue"

    def _ask(self, event: Event) -> None:
        if event["phase"] == "done":
            trial = self._trial(event)
            if trial.now is not None:
                self._complain("proposal-kept", f"trial {event['trial']} is proposed a second time", event)
            trial.asked = event
            self._scores[event["study"]].origins[event["trial"]] = event["origin"]
            self._unseen[event["study"], event["trial"]] = (0, "its proposal")

    def _report(self, event: Event) -> None:
        if event["phase"] != "done":
            return
        scores, trial = self._scores[event["study"]], self._trial(event)
        number, chunk, value = event["trial"], event["chunk"], event["value"]
        scores.add(number, chunk, value, event["loss"], event["costs"])
        right = scores.decide(number, chunk, value)
        if event["decision"] != right:
            text = f"{self._name(event)} after chunk {chunk}: {event['decision']}, but the rule says {right}"
            self._complain("decision-follows", text, event)
        if number not in scores.ended:
            trial.decision = (chunk, event["decision"])
            if trial.written is None or trial.written["chunks"] < chunk:
                self._unseen[event["study"], number] = (chunk, "a value")

    def _tell(self, event: Event) -> None:
        if event["phase"] == "begin":
            written = self._trial(event).written
            if written is None or written["state"] != event["state"]:
                self._complain("order", f"the search is told of {self._name(event)} before it is written", event)
        elif event["phase"] == "done":
            self._scores[event["study"]].end(event["trial"], event["state"])

    def _publish(self, event: Event) -> None:
        for (study, number), (_, what) in list(self._unseen.items()):
            if study == event["study"]:
                self._complain("order", f"{what} of trial {number} of {study} is published, not written", event)
                del self._unseen[study, number]

    def _show(self, event: Event) -> None:
        written = self._trial(event).written
        if written is None or (written["state"], written["chunks"]) != (event["state"], event["chunks"]):
            self._complain("order", f"{self._name(event)} is shown before it is written", event)

    # Records

    def _record(self, event: Event) -> None:
        trial = self._trial(event)
        if event["phase"] == "begin":
            self._attribute(event)
            self._judge_record(event, trial)
            if event["checkpoint"] is not None:
                trial.damaged.discard(event["chunks"])
            trial.doubtful.append(event)
            trial.now = event
        elif event["phase"] == "done":
            trial.written = event
            trial.doubtful.clear()
            self._seen(event)
        else:
            trial.now = trial.written  # the session goes on from what is written, if it goes on

    def _seen(self, event: Event) -> None:
        """Note that what the search has of a trial is written."""
        key = (event["study"], event["trial"])
        chunk, _ = self._unseen.get(key, (math.inf, ""))
        if event["chunks"] >= chunk or event["state"] != "running":
            self._unseen.pop(key, None)

    def _judge_record(self, event: Event, trial: TrialHistory) -> None:
        before, name = trial.now, self._name(event)
        if before is None:
            self._judge_first(event, trial)
            before = event
        elif before["state"] != "running":
            if not _is_same(before, event):
                self._complain("ends-once", f"{name} is {before['state']}, but is written again", event)
            return
        elif any(before[key] != event[key] for key in ("params", "seed", "origin", "why")):
            self._complain("proposal-kept", f"{name} changes its configuration", event)
        self._judge_progress(event, before, trial)
        self._judge_decision(event, trial)
        self._judge_retries(event, before, trial)
        if not _are_close(event["cost"], trial.cost):
            rule = "no-charge-without-work" if sum(event["cost"]) > sum(trial.cost) else "no-work-without-charge"
            self._complain(rule, f"{name} has cost {event['cost']}, not {trial.cost}", event)
            trial.cost = list(event["cost"])

    def _judge_first(self, event: Event, trial: TrialHistory) -> None:
        name, asked, study = self._name(event), trial.asked, self.studies[event["study"]]
        if event["state"] != "running" or event["chunks"]:
            self._complain("order", f"{name} trains before it is written", event)
        hours = self._limit["device_hours"]
        if hours and self.low[2] >= hours * 3600:
            self._complain("budget", f"{name} starts although the device hours are spent", event)
        if event["why"] != "search":
            return
        keys = ("params", "origin")
        if asked is None or any(asked[key] != event[key] for key in keys):
            self._complain("proposal-kept", f"{name} is not what was proposed", event)
        mine = [key for key, each in self.trials.items() if key[0] == event["study"] and each.now is not None]
        searched = sum(self.trials[key].now["why"] == "search" for key in mine)  # type: ignore[index]
        if searched >= study["trials"]:
            self._complain("budget", f"{name} exceeds the budget of {study['trials']} trials", event)

    def _judge_progress(self, event: Event, before: Event, trial: TrialHistory) -> None:
        name, chunk = self._name(event), event["chunks"]
        if chunk < before["chunks"]:
            # Chunks that no worker sent a checkpoint of may be repeated, except those that the search knows of.
            was_sent = any(trial.reply(later)["sent"] for later in range(chunk + 1, before["chunks"] + 1))
            is_saved = chunk == max(map(int, before["checkpoints"]), default=0) and not was_sent
            if not trial.may_rewind and not (is_saved and event["rungs"].keys() == before["rungs"].keys()):
                self._complain("no-repeat", f"{name} goes back to chunk {chunk}, but nothing was damaged", event)
        elif chunk > before["chunks"] + 1:
            self._complain("no-charge-without-work", f"{name} skips chunks up to {chunk}", event)
        if chunk > before["chunks"]:
            self._judge_reply(event, trial.reply(chunk), trial)
        elif event["checkpoint"] is not None and event["checkpoint"] not in trial.reply(chunk)["checkpoints"]:
            self._complain("checkpoint-chain", f"the checkpoint of {name} after chunk {chunk} is another", event)
        if event["state"] == "complete" and chunk != self.studies[event["study"]]["num_chunks"]:
            self._complain("lost-trial", f"{name} is complete after {chunk} chunks", event)

    def _judge_reply(self, event: Event, reply: Mapping[str, Any], trial: TrialHistory) -> None:
        name, chunk = self._name(event), str(event["chunks"])
        if reply["metrics"] is None:
            self._complain("no-charge-without-work", f"{name} has chunk {chunk}, which no worker replied", event)
            return
        metric = self.studies[event["study"]]["metric"]
        for rung, scores in event["rungs"].items():
            replied = trial.reply(int(rung))["metrics"] or {}
            if not _equal(scores.get(metric), replied.get(metric)):
                text = f"{name} has {scores.get(metric)} after chunk {rung}, not {replied.get(metric)}"
                self._complain("scores-kept", text, event)
        if chunk not in event["rungs"] and metric in reply["metrics"]:
            self._complain("scores-kept", f"{name} has no score after chunk {chunk}", event)
        if event["state"] == "running":
            digest, is_rung = event["checkpoints"].get(chunk), chunk in event["rungs"]
            is_needed = reply["sent"] or is_rung or digest is not None
            if is_needed and (digest not in reply["checkpoints"] or event["checkpoint"] != digest):
                self._complain("checkpoint-chain", f"the checkpoint of {name} after chunk {chunk} is another", event)
        digest = event["outcomes"].get(chunk)
        if (digest is None) != (not reply["outcomes"]) or (digest and digest not in reply["outcomes"]):
            self._complain("adapter-own", f"the row outcomes of {name} after chunk {chunk} are others", event)

    def _judge_decision(self, event: Event, trial: TrialHistory) -> None:
        name, decision = self._name(event), trial.decision
        is_pruned = event["state"] == "pruned"
        if is_pruned != (decision is not None and decision[1] == "stop"):
            text = "is pruned without a decision to stop" if is_pruned else "goes on after a decision to stop"
            self._complain("decision-acted", f"{name} {text}", event)
        elif decision is not None and event["state"] == "running" and event["decided"] != decision[0]:
            self._complain("decision-acted", f"{name} does not note the decision after chunk {decision[0]}", event)
        trial.decision = None

    def _judge_retries(self, event: Event, before: Event, trial: TrialHistory) -> None:
        name, failure, state = self._name(event), trial.failure, event["state"]
        most, used = self.studies[event["study"]]["max_retries"], event["retries"] - before["retries"]
        if state == "infeasible" and failure not in _INFEASIBLE:
            self._complain("retry-used", f"{name} is infeasible after {failure}", event)
        if state == "failed" and (failure is None or failure in _INFEASIBLE or before["retries"] < most):
            self._complain("retry-used", f"{name} fails with {before['retries']} of {most} retries used", event)
        if used == -1 and trial.refundable:
            trial.refundable -= 1
        elif used not in (0, 1) or (used == 1 and (failure is None or event["retries"] > most)):
            self._complain("retry-used", f"{name} has {event['retries']} retries, before {before['retries']}", event)
        if failure is not None and (used == 1 or state != "running"):
            if failure in _INFEASIBLE and state != "infeasible":
                self._complain("retry-used", f"{name} is {state} after {failure}", event)
            trial.failure = None

    # Workers

    def _worker(self, event: Event) -> _Worker:
        return self._workers.setdefault(event["worker"], _Worker())

    def _request(self, event: Event) -> None:
        worker = self._worker(event)
        self._settle(event)
        if event["what"] == "open":
            worker.study, worker.lanes = event["study"], {}
            worker.refused.clear()
        elif event["what"] == "chunk":
            for number in event["evict"]:
                worker.lanes.pop(number, None)
            for admission in event["admit"]:
                self._admit(event, admission, worker)
            self._judge_pack(event, worker)
        worker.works, worker.asked_m, worker.is_charged = event["what"], event["m"], False

    def _judge_pack(self, event: Event, worker: _Worker) -> None:
        for number in worker.lanes:
            now = self.trials[worker.study, number].now
            if now is not None and now["state"] != "running":
                self._complain("ends-once", f"trial {number} of {worker.study} is {now['state']}, but trains", event)
            # An idle worker may still have it: it evicts it with its next request.
            busy = [each for each in self._workers.values() if each is not worker and each.works in _TRAINING]
            if any(number in each.lanes and each.study == worker.study for each in busy):
                self._complain("no-repeat", f"trial {number} of {worker.study} trains on two workers", event)
        until, before = self._limit["until"], self._replied_t.get(event["worker"], -math.inf)
        if until is not None and before > until and event["t"] > until:
            self._complain("budget", f"worker {event['worker']} gets a chunk after the end of the session", event)

    def _admit(self, event: Event, admission: Mapping[str, Any], worker: _Worker) -> None:
        key = (worker.study, admission["trial"])
        trial = self.trials.setdefault(key, TrialHistory())
        name, chunk, record = f"trial {key[1]} of {key[0]}", admission["chunks"], trial.written
        worker.lanes[key[1]] = chunk
        (worker.refused.add if chunk in trial.damaged else worker.refused.discard)(key[1])
        if record is None:
            self._complain("order", f"{name} trains before it is written", event)
            return
        if trial.failure is not None:
            self._complain("retry-used", f"{name} continues after {trial.failure} without using a retry", event)
            trial.failure = None
        if chunk != record["chunks"]:
            rule = "no-repeat" if chunk < record["chunks"] else "checkpoint-chain"
            self._complain(rule, f"{name} continues after chunk {chunk}, but {record['chunks']} are written", event)
        known = record["checkpoints"].get(str(chunk)) if chunk else None
        if admission["checkpoint"] != known or (chunk and known not in trial.reply(chunk)["checkpoints"]):
            self._complain("checkpoint-chain", f"{name} does not continue from its checkpoint {chunk}", event)
        if admission["params"] != record["params"] or not _are_equal(admission["trained"], record["params"]):
            self._complain("proposal-kept", f"{name} is trained with other values than recorded", event)
        last = self._scores[key[0]].search["rungs"][-1]
        if record["why"] == "search" and str(chunk) in record["rungs"] and record["decided"] < chunk < last:
            self._complain("decision-acted", f"{name} trains on without a decision after chunk {chunk}", event)

    def _reply(self, event: Event) -> None:
        worker = self._worker(event)
        self._settle(event)
        if event["phase"] == "failed" or event["what"] == "failed":
            return
        self._replied_t[event["worker"]] = event["t"]
        if event["what"] in ("score", "save"):
            self._unpaid = list(event["cost"])
            for number, digest in event.get("checkpoints", {}).items():
                self.trials[worker.study, int(number)].reply(worker.lanes[int(number)])["checkpoints"].add(digest)
        elif event["what"] == "chunk":
            self._unpaid = [math.fsum(cost[k] for cost in event["costs"].values()) for k in range(3)]
            self._take_chunk(event, worker)
        worker.works = ""

    def _take_chunk(self, event: Event, worker: _Worker) -> None:
        for number, cost in event["costs"].items():
            trial = self.trials.setdefault((worker.study, int(number)), TrialHistory())
            trial.cost = [one + other for one, other in zip(trial.cost, cost, strict=True)]
        for number, measured in event["measured"].items():
            key, chunk = (worker.study, int(number)), measured["chunk"]
            trial, name = self.trials[key], f"trial {number} of {worker.study}"
            if worker.lanes.get(key[1]) != chunk - 1:
                self._complain("checkpoint-chain", f"{name} did chunk {chunk} after {worker.lanes.get(key[1])}", event)
            if trial.now is not None and trial.now["chunks"] >= chunk:
                self._complain("no-repeat", f"{name} did chunk {chunk} again", event)
            if key[1] in worker.refused:
                self._complain("checkpoint-chain", f"{name} continues from a damaged checkpoint", event)
            worker.lanes[key[1]] = chunk
            reply = trial.reply(chunk)
            reply["metrics"], reply["sent"] = measured["metrics"], number in event["checkpoints"]
            for what in ("checkpoints", "adapters", "rung_adapters", "outcomes"):
                if number in event[what]:
                    reply[what].add(event[what][number])
        for number, failure in event["failures"].items():
            trial = self.trials[worker.study, int(number)]
            trial.failure = None if failure in _STOPPING else failure
            trial.may_rewind = trial.may_rewind or failure == "checkpoint"
        for number in (*event["failures"], *event["adapters"]):
            worker.lanes.pop(int(number), None)

    def _loss(self, event: Event) -> None:
        worker = self._losing if event["phase"] != "begin" else self._worker(event)
        assert worker is not None
        if event["phase"] == "begin":
            self._losing = worker
            if worker.works in _TRAINING and len(worker.lanes) == 1 and not event["is_ending"]:
                trial = self.trials[worker.study, next(iter(worker.lanes))]
                if event["failure"] not in _STOPPING:
                    trial.failure, trial.refundable = event["failure"], trial.refundable + 1
            return
        if event["phase"] == "done" and worker.works in (*_TRAINING, "score") and not worker.is_charged:
            self._complain("no-work-without-charge", f"lost work of worker {event['worker']} is not charged", event)
        self._losing = None

    def _retire(self, event: Event) -> None:
        self._workers.pop(event["worker"], None)

    _restart = _retire

    # Charges

    def _ledger(self, event: Event) -> None:
        if not all(low * (1 - 1e-9) - 1e-6 <= value for low, value in zip(self.low, event["cost"], strict=True)):
            self._complain("no-work-without-charge", f"the ledger has {event['cost']}, before {self.low}", event)
        if not all(value <= high * (1 + 1e-9) + 1e-6 for high, value in zip(self.high, event["cost"], strict=True)):
            self._complain("no-charge-without-work", f"the ledger has {event['cost']}, at most {self.high}", event)
        self.low, self.high = list(event["cost"]), list(event["cost"])

    def _charge(self, event: Event) -> None:
        cost = event["cost"]
        if event["phase"] == "begin":
            self.high = [one + other for one, other in zip(self.high, cost, strict=True)]
            if self._unpaid is not None:
                if not _are_close(cost, self._unpaid):
                    rule = "no-charge-without-work" if sum(cost) > sum(self._unpaid) else "no-work-without-charge"
                    self._complain(rule, f"{cost} is charged for {self._unpaid}", event)
                self._unpaid = None
                return
            self._settle(event)
            self._loss_s = cost[2]
            if cost[0] or cost[1]:
                self._complain("no-charge-without-work", f"{cost} is charged, but no worker replied", event)
            if self._losing is not None:
                self._charge_loss(event, self._losing)
        elif event["phase"] == "done":
            if not _are_close(event["total"], self.high):
                self._complain("no-charge-without-work", f"the ledger has {event['total']}, not {self.high}", event)
            self.low, self.high = list(event["total"]), list(event["total"])

    def _attribute(self, event: Event) -> None:
        """Find out from a trial's record which worker a charge for lost work was for."""
        if self._loss_s is not None:
            for worker in self._workers.values():
                if worker.study == event["study"] and event["trial"] in worker.lanes and worker.works in _TRAINING:
                    self._charge_loss(event, worker)
                    return

    def _charge_loss(self, event: Event, worker: _Worker) -> None:
        loss_s = self._loss_s or 0.0
        elapsed_s = event["m"] - worker.asked_m
        if worker.works not in (*_TRAINING, "score") or worker.is_charged:
            self._complain("no-charge-without-work", f"{loss_s} s are charged for an idle worker", event)
        elif loss_s > elapsed_s * 1.01 + 0.01:
            self._complain("no-charge-without-work", f"{loss_s} s are charged for {elapsed_s} s of work", event)
        elif elapsed_s < 10 and loss_s < elapsed_s / 2 - _SLACK_S:
            self._complain("no-work-without-charge", f"{loss_s} s are charged for {elapsed_s} s of work", event)
        worker.is_charged, self._loss_s = True, None
        for number in worker.lanes if worker.works in _TRAINING else ():
            self.trials[worker.study, number].cost[2] += loss_s / len(worker.lanes)

    def _settle(self, event: Event) -> None:
        """Complain about a reply that was never charged, and a charge that no worker explains."""
        if self._unpaid is not None:
            self._complain("no-work-without-charge", f"{self._unpaid} of a reply is not charged", event)
            self._unpaid = None
        if self._loss_s is not None:
            self._complain("no-charge-without-work", f"{self._loss_s} s are charged, but nothing was lost", event)
            self._loss_s = None

    # Adapters and damage

    def _adapter(self, event: Event) -> None:
        if event["phase"] == "begin":
            trial, chunk = self._trial(event), event["chunk"]
            what = "adapters" if chunk is None else "rung_adapters"
            last = chunk if chunk is not None else self.studies[event["study"]]["num_chunks"]
            if event["digest"] not in trial.reply(last)[what]:
                self._complain(
                    "adapter-own", f"{self._name(event)} gets an adapter that no worker replied for it", event
                )

    def _outcomes(self, event: Event) -> None:
        if event["phase"] == "begin" and event["digest"] not in self._trial(event).reply(event["chunk"])["outcomes"]:
            self._complain("adapter-own", f"{self._name(event)} gets row outcomes that are not its own", event)

    def _damage(self, event: Event) -> None:
        """The harness damaged a trial's checkpoint."""
        trial = self._trial(event)
        trial.may_rewind = True
        trial.damaged.add(event["chunk"])

    @staticmethod
    def _name(event: Event) -> str:
        return f"trial {event['trial']} of {event['study']}"


def _is_same(one: Event, other: Event) -> bool:
    return all(_equal(one[key], other[key]) for key in _SAME)


def _equal(one: Any, other: Any) -> bool:
    """Compare values of events; NaN equals NaN."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124  NaN


def _are_close(one: Iterable[float], other: Iterable[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6) for a, b in zip(one, other, strict=True))


def _are_equal(trained: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    return all(trained.get(key) == value for key, value in params.items())

"""Each rule of the history's checker finds a history that breaks it, and accepts those of real sessions."""

from __future__ import annotations

import copy
import json
import math
import shutil

import pytest

from chaos.history import Recorder, read_events, recording
from chaos.history_check import check
from sweeper.analysis.best import best_configurations
from sweeper.config.settings import Recipe
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind
from tests.builders import DEFAULT_PARAMS
from tests.control.bench import Bench, Killed, lose
from tests.search.toy import preset

SEARCHES = {
    "halving": preset("tpe", num_startup_trials=2),
    "hyperband": preset("random", pruner="hyperband"),
    "median": preset("random", pruner="median"),
    "none": preset("random", pruner="none"),
    "parameters": preset("random", cost="parameters"),
    "device_s": preset("random", cost="device_s"),
}


def lose_some(numbers):
    """Lose the worker at some of the chunks: those of trial 5 alone, and of packs with trials 2 and 6."""
    calls = lose_some.__dict__.setdefault("calls", [])
    calls.append(numbers)
    if numbers in ((5,), (6,)) or len(calls) in (4, 9):
        lose()


def fail_some(spec, chunk):
    """Fail for good, retry and diverge, by the number of the trial."""
    kinds = {3: FailureKind.NON_FINITE, 7: FailureKind.ERROR, 8: FailureKind.CHECKPOINT}
    kind = kinds.get(spec.number)
    return Failure(kind=kind, message="injected") if kind and chunk == 2 else None


def record_sweep(folder, *, kills=(3, 8, 13, None), **changes):
    """Run a sweep, killed after some numbers of replies; return its history as a file keeps it."""
    events = []
    lose_some.__dict__.pop("calls", None)
    options = {"num_trials": 14, "num_workers": 2, "lanes": 3, "worker": {"before": lose_some, "fails": fail_some}}
    bench = Bench(folder, **{**options, **changes})
    recorder = Recorder(events.append, timer=bench.timer)
    with recording(recorder):
        for session, replies in enumerate(kills):
            recorder.start(session)
            try:
                bench.run(replies=replies)
            except Killed:
                continue
    return json.loads(json.dumps(events))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    references = {FIRST_REFERENCE_NUMBER: Recipe(name="peft_default", params=DEFAULT_PARAMS)}
    return record_sweep(folder, references=references, keep_adapters=2), folder


def rules(events, folder):
    return {complaint.split(":")[0] for complaint in check(events, folder)}


def find(events, kind, phase="done", **fields):
    """Return the events of a kind with these fields."""
    return [
        event
        for event in events
        if event["kind"] == kind and event["phase"] == phase and all(event.get(k) == v for k, v in fields.items())
    ]


def both(events, event):
    """Return the events before and after the call that an event belongs to."""
    at = events.index(event)
    begin = next(
        each for each in reversed(events[:at]) if (each["kind"], each.get("trial")) == (event["kind"], event["trial"])
    )
    return begin, event


def change(event_pair, **fields):
    for event in event_pair:
        event.update(fields)


@pytest.mark.parametrize("name", SEARCHES)
def test_sessions_that_are_killed_and_resumed_break_no_rule(tmp_path, name):
    events = record_sweep(tmp_path, search=SEARCHES[name])
    assert check(events, tmp_path) == []
    assert {event["session"] for event in events} == {0, 1, 2, 3}
    assert find(events, "reply", "failed")
    assert find(events, "charge")
    assert find(events, "end")
    if name not in ("none", "hyperband"):
        assert {event["decision"] for event in find(events, "report")} == {"stop", "continue"}


def test_the_sweep_of_these_tests_breaks_no_rule(sweep):
    events, folder = sweep
    assert check(events, folder) == []
    states = {event["state"] for event in find(events, "record")}
    assert states >= {"running", "complete", "pruned", "infeasible", "failed"}


def test_a_second_command_that_finds_the_sweep_locked_breaks_no_rule(sweep):
    events, folder = sweep
    second = [dict(find(events, "start")[0], session=99)]
    assert check([*events[:200], *second, *events[200:]], folder) == []


def test_a_finished_trial_that_is_written_again_ends_twice(sweep):
    events, folder = copy.deepcopy(sweep)
    pruned = find(events, "record", state="pruned")[0]
    again = copy.deepcopy(both(events, pruned))
    change(again, state="failed")
    events[events.index(pruned) + 1 : 0] = again
    at = events.index(pruned) + 1
    assert "ends-once" in rules([*events[:at], *again, *events[at:]], folder)


def test_a_pruned_trial_that_stays_in_the_pack_ends_twice(sweep):
    events, folder = copy.deepcopy(sweep)
    request = next(event for event in find(events, "request") if event.get("evict"))
    request["evict"] = []
    assert "ends-once" in rules(events, folder)


def test_a_chunk_that_is_trained_again_is_a_repeat(sweep):
    events, folder = copy.deepcopy(sweep)
    request, admission = next(
        (event, each) for event in find(events, "request") for each in event.get("admit", ()) if each["chunks"] == 1
    )
    admission.update(chunks=0, checkpoint=None)
    assert request in events
    assert "no-repeat" in rules(events, folder)


def test_going_back_without_damage_is_a_repeat(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in find(events, "reply"):
        event.get("failures", {}).pop("8", None)
    assert "no-repeat" in rules(events, folder)


def test_a_trial_in_two_packs_is_a_repeat(sweep):
    events, folder = copy.deepcopy(sweep)
    open_requests = {}
    for event in events:
        if event["kind"] == "reply":
            open_requests.pop(event["worker"], None)
        elif event["kind"] == "request" and event["what"] == "chunk":
            first = next((each for each in open_requests.values() if each["admit"]), None)
            if first is not None:
                break
            open_requests[event["worker"]] = event
    event["admit"] += first["admit"]
    assert "no-repeat" in rules(events, folder)


def test_a_charge_without_a_reply_is_a_charge_without_work(sweep):
    events, folder = copy.deepcopy(sweep)
    charge = find(events, "charge", "begin")[0]
    charge["cost"] = [2 * each for each in charge["cost"]]
    assert "no-charge-without-work" in rules(events, folder)


def test_a_second_charge_is_a_charge_without_work(sweep):
    events, folder = copy.deepcopy(sweep)
    at = events.index(find(events, "charge")[0]) + 1
    again = copy.deepcopy(events[at - 2 : at])
    again[1]["total"] = [a + b for a, b in zip(again[1]["total"], again[0]["cost"], strict=True)]
    assert "no-charge-without-work" in rules([*events[:at], *again, *events[at:]], folder)


def test_a_reply_that_is_not_charged_is_work_without_a_charge(sweep):
    events, folder = copy.deepcopy(sweep)
    charge = find(events, "charge")[1]
    at = events.index(charge)
    assert "no-work-without-charge" in rules([*events[: at - 1], *events[at + 1 :]], folder)


def test_lost_work_that_is_not_charged_is_work_without_a_charge(sweep):
    events, folder = copy.deepcopy(sweep)
    at = events.index(find(events, "loss", "begin")[0])
    assert events[at + 1]["kind"] == "charge"
    assert "no-work-without-charge" in rules([*events[: at + 1], *events[at + 3 :]], folder)


def test_a_trial_that_costs_more_than_its_chunks_is_charged_without_work(sweep):
    events, folder = copy.deepcopy(sweep)
    record = find(events, "record", chunks=1)[0]
    change(both(events, record), cost=[99, 999, 9.9])
    assert "no-charge-without-work" in rules(events, folder)


def test_a_ledger_that_forgets_is_work_without_a_charge(sweep):
    events, folder = copy.deepcopy(sweep)
    find(events, "ledger")[-1]["cost"] = [0, 0, 0.0]
    assert "no-work-without-charge" in rules(events, folder)


@pytest.mark.parametrize(("said", "instead"), [("stop", "continue"), ("continue", "stop")])
def test_a_decision_against_the_rule_does_not_follow(sweep, said, instead):
    events, folder = copy.deepcopy(sweep)
    find(events, "report", decision=said)[0]["decision"] = instead
    assert rules(events, folder) >= {"decision-follows", "decision-acted"}


def test_a_value_that_the_search_did_not_see_leads_to_decisions_that_do_not_follow(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in find(events, "report"):
        if event["decision"] == "stop":
            event["value"] = 1.0
    assert "decision-follows" in rules(events, folder)


def test_a_trial_that_is_pruned_without_a_decision_was_not_decided(sweep):
    events, folder = copy.deepcopy(sweep)
    pruned = find(events, "record", state="pruned")[0]
    at = events.index(both(events, pruned)[0])
    assert events[at - 1]["kind"] == "report"
    assert "decision-acted" in rules([*events[: at - 2], *events[at:]], folder)


def test_a_retry_that_is_not_counted_is_not_used(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in events:
        if event["kind"] == "record" and event["trial"] == 7 and event["state"] == "running":
            event["retries"] = 0
    assert "retry-used" in rules(events, folder)


def test_a_trial_that_fails_with_retries_left_does_not_use_them(sweep):
    events, folder = copy.deepcopy(sweep)
    failed = next(event for event in find(events, "record", trial=7) if event["retries"] == 1)
    change(both(events, failed), state="failed", retries=0)
    assert "retry-used" in rules(events, folder)


def test_a_trial_that_nobody_continues_is_lost(sweep):
    events, folder = copy.deepcopy(sweep)
    last = [event for event in events if event["kind"] == "record" and event["trial"] == 13]
    change(last, state="running")
    assert "lost-trial" in rules(events, folder)


def test_other_values_than_proposed_are_complaints(sweep):
    events, folder = copy.deepcopy(sweep)
    find(events, "ask", trial=4)[-1]["params"]["lora.r"] += 1
    assert "proposal-kept" in rules(events, folder)


def test_other_values_than_recorded_are_complaints(sweep):
    events, folder = copy.deepcopy(sweep)
    admission = next(each for event in find(events, "request") for each in event.get("admit", ()))
    admission["trained"]["lora.r"] += 1
    assert "proposal-kept" in rules(events, folder)


def test_other_scores_than_replied_are_complaints(sweep):
    events, folder = copy.deepcopy(sweep)
    reply = next(event for event in find(events, "reply", what="chunk") if any(event["outcomes"]))
    for measured in reply["measured"].values():
        measured["metrics"]["validation/accuracy"] = math.nan
    assert "scores-kept" in rules(events, folder)


def test_another_checkpoint_breaks_the_chain(sweep):
    events, folder = copy.deepcopy(sweep)
    admission = next(each for event in find(events, "request") for each in event.get("admit", ()) if each["checkpoint"])
    admission["checkpoint"] = "0" * 64
    assert "checkpoint-chain" in rules(events, folder)


def test_a_trial_that_goes_on_from_a_damaged_checkpoint_breaks_the_chain(sweep):
    events, folder = copy.deepcopy(sweep)
    request, admission = next(
        (event, each) for event in find(events, "request") for each in event.get("admit", ()) if each["checkpoint"]
    )
    damage = {"trial": admission["trial"], "study": request["study"], "chunk": admission["chunks"]}
    at = events.index(request)
    noted = {**request, "kind": "damage", "phase": "done", **damage}
    assert rules([*events[:at], noted, *events[at:]], folder) == {"checkpoint-chain"}
    # What is written again is no longer damaged.
    record = next(
        event
        for event in find(events, "record", trial=admission["trial"], chunks=admission["chunks"])
        if event["checkpoint"] == admission["checkpoint"]
    )
    begin = events.index(both(events, record)[0])
    assert rules([*events[:begin], {**noted, "session": record["session"]}, *events[begin:]], folder) == set()


def test_a_large_checkpoint_that_no_record_refers_to_is_left_over(sweep, tmp_path):
    events, folder = sweep
    copied = shutil.copytree(folder, tmp_path / "sweep")
    left = copied / "studies" / "toy" / "incoming" / "0" / "1-checksum"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"content")
    assert rules(events, copied) == {"left-over"}


def test_the_adapter_of_another_trial_is_not_its_own(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in events:
        if event["kind"] == "adapter" and event["chunk"] is None:
            event["digest"] = "0" * 64
    assert "adapter-own" in rules(events, folder)


def test_an_adapter_on_disk_that_no_worker_replied_is_not_its_own(sweep, tmp_path):
    events, folder = sweep
    copied = tmp_path / "sweep"
    shutil.copytree(folder, copied)
    next(copied.glob("studies/*/trials/*/adapter/adapter_model.safetensors")).write_bytes(b"of another trial")
    assert rules(events, copied) == {"adapter-own"}


def test_more_trials_than_the_budget_exceed_it(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in find(events, "open"):
        event["trials"] = 13
    assert rules(events, folder) == {"budget"}


def test_a_chunk_after_the_end_of_the_session_exceeds_the_budget(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in find(events, "budget"):
        event["until"] = event["t"] - 1
    assert rules(events, folder) == {"budget"}


def test_a_trial_after_the_last_device_hour_exceeds_the_budget(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in find(events, "budget"):
        event["device_hours"] = 1e-9
    assert rules(events, folder) == {"budget"}


@pytest.mark.parametrize("kind", ["tell", "show", "publish"])
def test_telling_before_writing_is_the_wrong_order(sweep, kind):
    events, folder = copy.deepcopy(sweep)
    start = find(events, "start")[-1]
    last = next(event for event in find(events[events.index(start) :], "record", state="complete"))
    begin, done = both(events, last)
    if kind == "publish":
        begin, done = both(events, find(events, "record", chunks=0)[0])
    moved = next(event for event in events[events.index(done) :] if event["kind"] == kind)
    events.remove(moved)
    events.insert(events.index(begin), moved)
    assert "order" in rules(events, folder)


def test_a_record_that_is_read_otherwise_was_not_kept(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in events:
        if event["kind"] == "sync" and event["session"] == 3:
            event["trials"][0]["chunks"] += 1
    assert "record-kept" in rules(events, folder)


def test_a_record_that_is_gone_was_not_kept(sweep):
    events, folder = copy.deepcopy(sweep)
    for event in events:
        if event["kind"] == "sync" and event["session"] == 3:
            del event["trials"][0]
    assert "record-kept" in rules(events, folder)


def test_a_record_that_differs_on_disk_was_not_kept(sweep, tmp_path):
    events, folder = sweep
    copied = tmp_path / "sweep"
    shutil.copytree(folder, copied)
    path = min(copied.glob("studies/*/trials/*/trial.json"))
    path.write_text(path.read_text().replace('"num_retries": 0', '"num_retries": 1'))
    assert rules(events, copied) == {"record-kept"}


@pytest.fixture
def reported(sweep, tmp_path):
    """The sweep with its best.json, which a test may change."""
    events, folder = sweep
    copied = shutil.copytree(folder, tmp_path / "sweep")
    (copied / "best.json").write_text(json.dumps(best_configurations(TrialStore(copied))))
    return events, copied


def test_the_best_trial_follows_from_the_records(reported):
    assert check(*reported) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda study, other: study["best"].update(trial=other),
        lambda study, _other: study["best"].update(value=0.999),
        lambda study, _other: study.update(best=None),
        lambda study, _other: study["trials"].update(complete=study["trials"]["complete"] + 1),
    ],
    ids=["another trial", "another value", "no trial", "another count"],
)
def test_a_best_trial_that_does_not_follow_from_the_records_is_a_complaint(reported, edit):
    events, folder = reported
    content = json.loads((folder / "best.json").read_text())
    (study,) = content["studies"]
    edit(study, next(number for number in study["pareto"] + [0, 1] if number != study["best"]["trial"]))
    (folder / "best.json").write_text(json.dumps(content))
    assert rules(events, folder) == {"best-follows"}


def test_an_event_that_a_kill_cut_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('\n{"kind": "start"}\n{"kind": "as\n{"kind": "start"}\n')
    assert read_events(path) == [{"kind": "start"}, {"kind": "start"}]
    assert read_events(tmp_path / "none") == []

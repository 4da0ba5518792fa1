"""Records what a session does: every ask, tell, decision, checkpoint, charge and adapter, as one event each.

`record_to` patches the product's classes in the present process; the product has no hook for it. `history_check` judges
the events. A call has an event before it (``begin``) and one after it (``done``, or ``failed`` if it raised), so a call
that a kill cut is known to be in doubt. What is only observed (a request, a reply) has one event. Each event is one
append to the file, so a kill loses at most the one being written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.clock import Clock, utc_now
from sweeper.config.time_limit import find_time_limit
from sweeper.control.controller import Controller
from sweeper.control.study_run import StudyRun
from sweeper.errors import WorkerLost
from sweeper.execute.base import AdaptersScored, OpenStudy, SaveTrials, ScoreAdapters, TrialsSaved, WorkerFailed
from sweeper.execute.inline import InlineExecutor, _InlineHandle
from sweeper.execute.process import ProcessExecutor, _ProcessHandle
from sweeper.search.study import Search
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.track.background import BackgroundTracker
from sweeper.track.base import NullTracker
from sweeper.types import AdapterFiles, Checkpoint, CheckpointFile, ChunkReport, ChunkRequest, Cost, TrialRecord

__all__ = ["HISTORY", "Event", "Recorder", "read_events", "record_to", "recording"]

HISTORY = "history.jsonl"
"""Name of the file, beside the session's log and outside of the disk that the suite fills."""

Event = dict[str, Any]
"""``n`` counts within a session; ``t`` is the sweep's clock, ``m`` a monotonic timer, both in seconds."""
_WEIGHTS = "adapter_model.safetensors"


class Recorder:
    """Numbers the events of a session.

    Args:
        append: Keeps an event.
        clock: The present time, as the sweep sees it.
        timer: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        append: Callable[[Event], object],
        *,
        clock: Clock = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._append, self._clock, self._timer = append, clock, timer
        self._number, self._session = 0, -1
        self.studies: dict[int, str] = {}
        """The study that each worker has open, by index."""

    def start(self, session: int) -> None:
        """Begin a session."""
        self._number, self._session = 0, session
        self.studies.clear()
        self.note("start")

    def note(self, kind: str, phase: str = "done", **fields: Any) -> None:
        """Append an event."""
        head = {"n": self._number, "session": self._session, "t": self._clock().timestamp(), "m": self._timer()}
        self._number += 1
        self._append({**head, "kind": kind, "phase": phase, **fields})

    @contextlib.contextmanager
    def call(self, kind: str, **fields: Any) -> Iterator[Event]:
        """Append an event before and after a call; what the block puts into the dictionary is added to the second."""
        self.note(kind, "begin", **fields)
        result: Event = {}
        try:
            yield result
        except Exception as error:
            self.note(kind, "failed", **fields, error=type(error).__name__)
            raise
        self.note(kind, "done", **fields, **result)


def record_to(path: Path, *, clock: Clock = utc_now) -> Recorder:
    """Record this process, from now to its end, as a further session in a file.

    Args:
        path: The history, JSON lines.
        clock: The present time, as the sweep sees it.
    """
    session = sum(event["kind"] == "start" for event in read_events(path))
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.write(file, b"\n")  # an event that a kill cut must not spoil the next one

    def append(event: Event) -> None:
        os.write(file, json.dumps(event, default=str).encode() + b"\n")

    recorder = Recorder(append, clock=clock)
    _patch(recorder)
    recorder.start(session)
    return recorder


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Record this process within the block."""
    replaced = _patch(recorder)
    try:
        yield recorder
    finally:
        for owner, name, original in reversed(replaced):
            setattr(owner, name, original)


def read_events(path: Path) -> list[Event]:
    """Return the events of a history, without the one of each session that a kill may have cut; empty if missing."""
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict)]


def record_fields(record: TrialRecord) -> Event:
    """Return what the history keeps of a trial's record."""
    spec, cost = record.spec, record.cost
    return {
        "study": spec.study,
        "trial": spec.number,
        "why": spec.phase.value,
        "origin": spec.origin,
        "params": dict(spec.params),
        "seed": spec.seed,
        "state": record.state.value,
        "chunks": record.chunks_done,
        "rungs": {str(m.chunk): {**m.metrics, "elapsed_s": m.elapsed_s} for m in record.measurements if m.is_rung},
        "outcomes": {str(m.chunk): m.outcomes for m in record.measurements if m.outcomes},
        "decided": record.decided_chunk,
        "retries": record.num_retries,
        "failure": record.failure.kind.value if record.failure else None,
        "cost": _cost(cost),
        "parameters": record.num_parameters,
        "checkpoints": {str(chunk): digest for chunk, digest in record.checkpoints.items()},
    }


def _cost(cost: Cost) -> list[float]:
    return [cost.rows, cost.tokens, cost.device_s]


def _digest(content: Checkpoint | None) -> str | None:
    if isinstance(content, CheckpointFile):
        return content.sha256
    return None if content is None else hashlib.sha256(content).hexdigest()


def _digests(files: Mapping[int, Checkpoint | AdapterFiles]) -> dict[str, str | None]:
    """Return the digests of files by trial; of an adapter, that of its tensors."""
    found = {
        number: content.get(_WEIGHTS) if isinstance(content, Mapping) else content for number, content in files.items()
    }
    return {str(number): _digest(content) for number, content in found.items()}


def _patch(recorder: Recorder) -> list[tuple[type, str, Any]]:
    """Replace methods of the product by ones that record; return what was replaced."""
    replaced = []
    for owner, name, wrap in _methods():
        if name in vars(owner):
            original = vars(owner)[name]
            replaced.append((owner, name, original))
            setattr(owner, name, functools.wraps(original)(wrap(recorder, original)))
    return replaced


def _methods() -> Iterable[tuple[type, str, Callable[[Recorder, Any], Any]]]:
    yield from ((Search, name, _SEARCH[name]) for name in _SEARCH)
    yield from ((TrialStore, name, _STORE[name]) for name in _STORE)
    yield Ledger, "__init__", _ledger_opened
    yield Ledger, "charge", _charge
    yield Controller, "__init__", _controller_made
    yield Controller, "run", _run
    yield Controller, "_handle_loss", _loss
    yield StudyRun, "__init__", _study_opened
    for handle in (_ProcessHandle, _InlineHandle):
        yield handle, "send", _send
        yield handle, "receive", _receive
    for executor in (ProcessExecutor, InlineExecutor):
        yield executor, "restart", functools.partial(_worker, "restart")
        yield executor, "retire", functools.partial(_worker, "retire")
    for tracker in (BackgroundTracker, NullTracker):
        yield tracker, "show", _show


# The functions below make a method that records. Their first argument is the recorder, the second the original method.


def _search_opened(recorder: Recorder, original: Any) -> Any:
    def method(search: Any, name: str, *args: Any, **more: Any) -> None:
        original(search, name, *args, **more)
        settings = more["settings"]
        recorder.note(
            "search",
            study=_study(name),
            name=name,
            pruner=settings.pruner,
            factor=settings.reduction_factor,
            cost=settings.cost,
            rungs=list(more["rungs"]),
            maximize=more["maximize"],
            majority=list(more["majority"]),
            default=f"recipe:{settings.recipes[0].name}" if settings.recipes else None,
        )

    return method


def _ask(recorder: Recorder, original: Any) -> Any:
    def method(search: Any) -> Any:
        with recorder.call("ask", study=_study(search._name)) as result:
            proposal = original(search)
            result |= {"trial": proposal.number, "params": dict(proposal.params), "origin": proposal.origin}
        return proposal

    return method


def _report(recorder: Recorder, original: Any) -> Any:
    def method(search: Any, number: int, *, chunk: int, value: float, loss: float, costs: Mapping[str, float]) -> Any:
        fields = {"chunk": chunk, "value": value, "loss": loss, "costs": dict(costs)}
        with recorder.call("report", study=_study(search._name), trial=number, **fields) as result:
            decision = original(search, number, chunk=chunk, value=value, loss=loss, costs=costs)
            result["decision"] = decision.value
        return decision

    return method


def _tell(recorder: Recorder, original: Any) -> Any:
    def method(search: Any, number: int, *, state: Any, value: float | None = None, **more: Any) -> None:
        with recorder.call("tell", study=_study(search._name), trial=number, state=state.value, value=value):
            original(search, number, state=state, value=value, **more)

    return method


def _sync(recorder: Recorder, original: Any) -> Any:
    def method(search: Any, records: Any, value_of: Any) -> None:
        trials = [record_fields(record) for record in records]
        with recorder.call("sync", study=_study(search._name), trials=trials):
            original(search, records, value_of)

    return method


def _publish(recorder: Recorder, original: Any) -> Any:
    def method(search: Any) -> None:
        recorder.note("publish", study=_study(search._name))
        original(search)

    return method


def _write_trial(recorder: Recorder, original: Any) -> Any:
    def method(store: Any, record: TrialRecord, checkpoint: Checkpoint | None = None) -> None:
        with recorder.call("record", **record_fields(record), checkpoint=_digest(checkpoint)):
            original(store, record, checkpoint)

    return method


def _write_adapter(recorder: Recorder, original: Any) -> Any:
    def method(store: Any, study: str, number: int, files: AdapterFiles) -> None:
        with recorder.call("adapter", study=study, trial=number, chunk=None, digest=_digest(files.get(_WEIGHTS))):
            original(store, study, number, files)

    return method


def _write_rung_adapter(recorder: Recorder, original: Any) -> Any:
    def method(store: Any, study: str, number: int, chunk: int, files: AdapterFiles) -> None:
        with recorder.call("adapter", study=study, trial=number, chunk=chunk, digest=_digest(files.get(_WEIGHTS))):
            original(store, study, number, chunk, files)

    return method


def _write_outcomes(recorder: Recorder, original: Any) -> Any:
    def method(store: Any, study: str, number: int, chunk: int, content: bytes) -> Any:
        with recorder.call("outcomes", study=study, trial=number, chunk=chunk, digest=_digest(content)):
            return original(store, study, number, chunk, content)

    return method


def _ledger_opened(recorder: Recorder, original: Any) -> Any:
    def method(ledger: Any, path: Path, *args: Any, **more: Any) -> None:
        original(ledger, path, *args, **more)
        recorder.note("ledger", cost=_cost(ledger.cost))

    return method


def _charge(recorder: Recorder, original: Any) -> Any:
    def method(ledger: Any, cost: Cost) -> None:
        with recorder.call("charge", cost=_cost(cost)) as result:
            original(ledger, cost)
            result["total"] = _cost(ledger.cost)

    return method


def _controller_made(recorder: Recorder, original: Any) -> Any:
    def method(controller: Any, *args: Any, ledger: Ledger, budget: Any, **more: Any) -> None:
        original(controller, *args, ledger=ledger, budget=budget, **more)
        limit = find_time_limit(budget, ledger.started_at)
        until = limit.at.timestamp() if limit is not None else None
        recorder.note("budget", until=until, device_hours=budget.device_hours)

    return method


def _run(recorder: Recorder, original: Any) -> Any:
    def method(controller: Any) -> None:
        with recorder.call("end") as result:
            original(controller)
            runs = [run for run, _ in controller._studies.values()]
            result["unopened"] = [run.record.name for run in runs if run.cannot_open]
            result |= {"reason": controller.stop_reason, "signal": controller._shutdown.reason}

    return method


def _loss(recorder: Recorder, original: Any) -> Any:
    def method(controller: Any, slot: Any, failure: Any) -> None:
        why, is_ending = failure.kind.value, controller._is_ending
        with recorder.call("loss", worker=slot.handle.index, failure=why, is_ending=is_ending):
            original(controller, slot, failure)

    return method


def _study_opened(recorder: Recorder, original: Any) -> Any:
    def method(run: Any, records: Any, *args: Any, num_trials: int, executor: Any, **more: Any) -> None:
        study, fields = records.study, {"trials": num_trials, "max_retries": executor.max_retries}
        recorder.note("open", study=study.name, metric=study.metric, num_chunks=study.num_chunks, **fields)
        original(run, records, *args, num_trials=num_trials, executor=executor, **more)

    return method


def _send(recorder: Recorder, original: Any) -> Any:
    def method(handle: Any, request: Any) -> None:
        fields: Event = {}
        if isinstance(request, OpenStudy):
            recorder.studies[handle.index] = request.name
            fields = {"what": "open"}
        elif isinstance(request, ChunkRequest):
            admitted = [
                {
                    "trial": each.spec.number,
                    "chunks": each.chunks_done,
                    "checkpoint": _digest(each.checkpoint),
                    "params": dict(each.spec.params),
                    "trained": {key: each.spec.by_key().get(key) for key in each.spec.params},
                    "seed": each.spec.seed,
                }
                for each in request.admit
            ]
            fields = {"what": "chunk", "admit": admitted, "evict": list(request.evict)}
        elif isinstance(request, SaveTrials):
            fields = {"what": "save", "trials": list(request.numbers)}
        elif isinstance(request, ScoreAdapters):
            adapters = {number: files for number, (_, files) in request.adapters.items()}
            fields = {"what": "score", "adapters": _digests(adapters)}
        recorder.note("request", worker=handle.index, study=recorder.studies.get(handle.index), **fields)
        original(handle, request)

    return method


def _receive(recorder: Recorder, original: Any) -> Any:
    def method(handle: Any) -> Any:
        fields: Event = {"worker": handle.index, "study": recorder.studies.get(handle.index)}
        try:
            reply = original(handle)
        except WorkerLost:
            recorder.note("reply", "failed", **fields)
            raise
        recorder.note("reply", **fields, **_reply_fields(reply))
        return reply

    return method


def _reply_fields(reply: Any) -> Event:
    if isinstance(reply, ChunkReport):
        return {
            "what": "chunk",
            "measured": {str(n): {"chunk": m.chunk, "metrics": dict(m.metrics)} for n, m in reply.measurements.items()},
            "costs": {str(number): _cost(cost) for number, cost in reply.costs.items()},
            "checkpoints": _digests(reply.checkpoints),
            "adapters": _digests(reply.adapters),
            "rung_adapters": _digests(reply.rung_adapters),
            "outcomes": _digests(reply.outcomes),
            "failures": {str(number): failure.kind.value for number, failure in reply.failures.items()},
        }
    if isinstance(reply, TrialsSaved):
        return {"what": "save", "cost": [0, 0, reply.elapsed_s], "checkpoints": _digests(reply.checkpoints)}
    if isinstance(reply, AdaptersScored):
        return {"what": "score", "cost": [0, 0, reply.elapsed_s]}
    if isinstance(reply, WorkerFailed):
        return {"what": "failed", "failure": reply.kind.value}
    return {"what": "open" if hasattr(reply, "references") else "start"}


def _worker(what: str, recorder: Recorder, original: Any) -> Any:
    def method(executor: Any, handle: Any) -> Any:
        recorder.note(what, worker=handle.index)
        return original(executor, handle)

    return method


def _show(recorder: Recorder, original: Any) -> Any:
    def method(tracker: Any, study: Any, trial: TrialRecord, files: Any = ()) -> None:
        state, chunks = trial.state.value, trial.chunks_done
        recorder.note("show", study=study.name, trial=trial.spec.number, state=state, chunks=chunks)
        original(tracker, study, trial, files)

    return method


def _study(name: str) -> str:
    """Return the study of the name that a search has, ``<sweep>/<study>``."""
    return name.split("/", 1)[1]


_SEARCH = {
    "__init__": _search_opened,
    "ask": _ask,
    "report": _report,
    "tell": _tell,
    "sync": _sync,
    "publish": _publish,
}
_STORE = {
    "write_trial": _write_trial,
    "write_adapter": _write_adapter,
    "write_rung_adapter": _write_rung_adapter,
    "write_outcomes": _write_outcomes,
}

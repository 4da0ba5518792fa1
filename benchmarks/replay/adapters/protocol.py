"""Lines of JSON between the driver and a peer: a start, then asks and tells until the next start.

    python -m benchmarks.replay.adapters.protocol smac

Messages: ``start`` has the declared space, the default recipe, the number of chunks and lanes, the seed and options;
``ask`` is answered with a trial, its values and the chunk to train to (a trial that was seen before goes on); ``tell``
has a score, higher is better, and is answered with the next chunk to train to, 0 if the trial leaves its lane.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any, Protocol

__all__ = ["Adapter", "Message"]

Message = dict[str, Any]


class Adapter(Protocol):
    """A peer's search."""

    def __init__(self, message: Message) -> None: ...

    def ask(self) -> Message:
        """Return trial, values and until; trial is None if the search waits."""
        ...

    def tell(self, trial: str, chunk: int, score: float) -> int:
        """Return the chunk to train to next, or 0."""
        ...


def main() -> None:
    """Answer messages until the input ends."""
    # Libraries print what they like, some when they are imported, so the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    kind: type[Adapter] = importlib.import_module(f"benchmarks.replay.adapters.{sys.argv[1]}").SEARCH
    search: Adapter | None = None
    for line in sys.stdin:
        message = json.loads(line)
        begun_s = time.process_time()
        try:
            if message["do"] == "start":
                search, answer = kind(message), {}
            elif message["do"] == "ask":
                assert search is not None
                answer = search.ask()
            else:
                assert search is not None
                answer = {"until": search.tell(message["trial"], message["chunk"], message["score"])}
        except Exception:  # noqa: BLE001  the driver shows it
            answer = {"error": traceback.format_exc()}
        answer["cpu_s"] = time.process_time() - begun_s
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""Does the README hold for someone who has just cloned? ``make fresh-clone`` runs this; it needs a package index.

Clones the committed state into a new folder, with no virtual environment and an empty cache, and types what the README
says: a small `make sweep`, the same again, a sweep of a file nobody has seen, a trial reproduced, the status.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from commands import REPOSITORY, SMALL, check, step, sweep_own_file


def main() -> None:
    """Run every step; the first that fails ends it with its output."""
    with tempfile.TemporaryDirectory() as folder:
        clone, cache = Path(folder) / "sweeper", Path(folder) / "cache"
        step(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], Path(folder))
        args = f"ARGS=dataset=trec name=first cache={cache} {SMALL}"
        step(["make", "sweep", args], clone)
        best = json.loads((clone / "outputs/first/best.json").read_text())
        check(best["studies"][0]["best"]["value"] > 0.3, "the small sweep learnt nothing")
        began = time.monotonic()
        check("is done" in step(["make", "sweep", args], clone), "the same command again does not say that it is done")
        print(f"the same again: {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        step(["make", "setup"], clone)
        check(time.monotonic() - began < 1, "a set-up that is done takes over a second")
        sweep_own_file(".venv/bin/sweeper", clone, cache)
        number = best["studies"][0]["best"]["trial"]
        step([".venv/bin/sweeper", "reproduce", f"first/trec-minilm-lora/{number}"], clone)
        step(["make", "status"], clone)
        check("jobs run overnight" in step(["make", "schedule", "ARGS=--dry-run"], clone), "no schedule is shown")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

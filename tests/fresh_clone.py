"""Does the README hold for someone who has just cloned? ``make fresh-clone`` runs this; it needs a package index.

Clones the committed state into a new folder, with no virtual environment and an empty cache, and types what the README
says: a small `make sweep`, the same again, a sweep of a file nobody has seen, a trial reproduced, the status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SMALL = "budget.trials=2 executor.lanes=2 train.epochs=1 search.num_startup_trials=1"


def main() -> None:
    """Run every step; the first that fails ends it with its output."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "sweeper"
        step(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], Path(folder))
        args = f"ARGS=dataset=trec name=first cache={folder}/cache {SMALL}"
        step(["make", "sweep", args], clone)
        best = json.loads((clone / "outputs/first/best.json").read_text())
        check(best["studies"][0]["best"]["value"] > 0.3, "the small sweep learnt nothing")
        began = time.monotonic()
        check("is done" in step(["make", "sweep", args], clone), "the same command again does not say that it is done")
        print(f"the same again: {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        step(["make", "setup"], clone)
        check(time.monotonic() - began < 1, "a set-up that is done takes over a second")
        own_file(clone, Path(folder))
        number = best["studies"][0]["best"]["trial"]
        step([".venv/bin/sweeper", "reproduce", f"first/trec-minilm-lora/{number}"], clone)
        step(["make", "status"], clone)
        check("jobs run overnight" in step(["make", "schedule", "ARGS=--dry-run"], clone), "no schedule is shown")
    print("1 passed, 0 failed")


def own_file(clone: Path, folder: Path) -> None:
    """Sweep a JSONL file with no code and no YAML."""
    rows = [{"text": f"{word} number {i}", "label": label} for i in range(40) for word, label in WORDS.items()]
    (clone / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = "dataset=files dataset.files.path=my.jsonl dataset.files.name=mine name=own"
    step([".venv/bin/sweeper", "run", *own.split(), f"cache={folder}/cache", *SMALL.split()], clone)
    best = json.loads((clone / "outputs/own/best.json").read_text())
    check(best["studies"][0]["dataset"] == "mine", "the study of one's own file has another name")


WORDS = {"apple": "fruit", "hammer": "tool", "pear": "fruit", "saw": "tool"}


def step(command: list[str], folder: Path) -> str:
    """Run a command as a user would, without our virtual environment; return what it printed."""
    print("$", " ".join(command), flush=True)
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")
    }
    done = subprocess.run(
        command, cwd=folder, env=inherited, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(done.stdout, flush=True)
    check(done.returncode == 0, f"exit code {done.returncode}")
    return done.stdout


def check(holds: bool, message: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        sys.exit(f"fresh clone: {message}")


if __name__ == "__main__":
    main()

"""What `fresh_clone.py` and `installed_wheel.py` share: running the commands of a user who has no environment yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SMALL = "budget.trials=2 executor.lanes=2 train.epochs=1 search.num_startup_trials=1"
_WORDS = {"apple": "fruit", "hammer": "tool", "pear": "fruit", "saw": "tool"}
_OURS = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")


def step(command: list[str], folder: Path) -> str:
    """Run a command as a user would, without our virtual environment; return what it printed."""
    print("$", " ".join(command), flush=True)
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
    done = subprocess.run(
        command, cwd=folder, env=inherited, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(done.stdout, flush=True)
    check(done.returncode == 0, f"exit code {done.returncode}")
    return done.stdout


def check(holds: bool, message: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        print("0 passed, 1 failed", flush=True)
        sys.exit(f"{Path(sys.argv[0]).stem}: {message}")


def sweep_own_file(sweeper: str, folder: Path, cache: Path) -> None:
    """Sweep a JSONL file with no code and no YAML."""
    rows = [{"text": f"{word} number {i}", "label": label} for i in range(40) for word, label in _WORDS.items()]
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = "dataset=files dataset.files.path=my.jsonl dataset.files.name=mine name=own"
    step([sweeper, "run", *own.split(), f"cache={cache}", *SMALL.split()], folder)
    best = json.loads((folder / "outputs/own/best.json").read_text())
    check(best["studies"][0]["dataset"] == "mine", "the study of one's own file has another name")
    check((folder / "outputs/own/report.md").stat().st_size > 0, "there is no report")

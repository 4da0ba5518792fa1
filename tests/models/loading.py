"""Loads a model in a process of its own, and prints how much memory of its own that takes, in bytes, as JSON.

Anonymous memory is what no other process shares and no file backs; pages of the weights' file are neither.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import torch

from sweeper.models.load import load_model


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


def main() -> None:
    folder, quantization = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    options = {"kind": "causal_lm", "num_labels": 0, "dtype": torch.bfloat16, "attention": "eager"}
    load_model(folder / "tiny", quantization=quantization, **options)  # imports what is needed
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(folder / "large", quantization=quantization, **options)
    done.set()
    watcher.join()
    held = anonymous_bytes() - before
    print(json.dumps({"peak": max(most[0] - before, held), "held": held, "model": type(model).__name__}))


main()

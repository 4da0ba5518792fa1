"""Record the golden losses anew: ``python tests/golden/record.py`` rewrites ``losses.json``.

One may, when a change is meant to change what a trial computes or what a search proposes (another initialisation,
another sampler, a new version of PyTorch or Optuna), and the commit says so. One may not to make a refactoring pass.
Look at the difference before committing it: ``git diff tests/golden/losses.json``.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """Run every sweep and write what is recorded."""
    from tests.golden.sweeps import RECORDED, SWEEPS, run

    found = {}
    for name in SWEEPS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(name, Path(folder))
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{sum(map(len, found.values()))} trials of {len(found)} sweeps are recorded in {RECORDED}.")


if __name__ == "__main__":
    main()

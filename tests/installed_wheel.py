"""Does an installed wheel work outside the checkout? ``make wheel-check`` runs this; it needs a package index.

Builds the wheel, installs it into a new virtual environment, and sweeps a small file of one's own with the default
model, from a folder that holds a broken package called ``analysis``, as one of the top level of the checkout is called.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from commands import REPOSITORY, check, step, sweep_own_file


def main() -> None:
    """Run every step; the first that fails ends it with its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "--directory", f"{folder}/dist"], REPOSITORY)
        (wheel,) = (folder / "dist").glob("lora_sweeper-*.whl")
        step(["make", "setup", f"PYTHON={sys.executable}", f"VENV={folder}/venv", f"PACKAGE={wheel}"], REPOSITORY)
        place = folder / "place"
        (place / "analysis").mkdir(parents=True)
        (place / "analysis" / "__init__.py").write_text('raise RuntimeError("this is the user\'s own analysis")\n')
        binaries = folder / "venv" / "bin"
        imported = step([f"{binaries}/python", "-c", "import sweeper; print(sweeper.__file__)"], place)
        check(imported.startswith(str(folder / "venv")), f"sweeper was imported from {imported}")
        sweeper = str(binaries / "sweeper")
        check("run" in step([sweeper, "--help"], place), "the help does not speak of run")
        check("peft_default" in step([sweeper, "config"], place), "the configuration names no recipe")
        sweep_own_file(sweeper, place, folder / "cache")
        check("own" in step([sweeper, "status"], place), "the status does not name the sweep")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

"""Imports go downwards only, and each heavy library has an owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "errors": 0,
    "types": 0,
    "space": 0,
    "settings": 0,
    "setting_docs": 0,
    "windows": 0,
    "failures": 0,
    "hopeless": 1,
    "disk": 1,
    "health": 1,
    "store": 1,
    "ledger": 1,
    "provenance": 1,
    "checks": 1,
    "config": 1,
    "sessions": 1,
    "fetch": 1,
    "damage": 1,
    "retention": 1,
    "search": 2,
    "execute": 2,
    "data": 2,
    "tasks": 2,
    "models": 2,
    "notify": 2,
    "track": 2,
    "train": 3,
    "forecast": 4,
    "waiting": 4,
    "resume": 4,
    "adviser": 4,
    "stopwatch": 4,
    "trial_book": 4,
    "study_run": 4,
    "breaker": 4,
    "watchdog": 4,
    "losses": 4,
    "controller": 4,
}
"""Layer of each module or package directly under sweeper; what is not listed is 5, the top."""

LIBRARIES = {
    "optuna": {"sweeper.search"},
    "cmaes": {"sweeper.search"},
    "sqlalchemy": {"sweeper.search"},
    "hydra": {"sweeper.config"},
    "omegaconf": {"sweeper.config"},
    "mlflow": {"sweeper.track"},
    "apprise": {"sweeper.notify"},
    "datasets": {"sweeper.data"},
    "pyarrow": {"sweeper.data"},
    "transformers": {"sweeper.data", "sweeper.models", "sweeper.tasks"},
    "peft": {"sweeper.models", "sweeper.train"},
    "torch": {"sweeper.train", "sweeper.models", "sweeper.tasks", "sweeper.execute"},
    "pynvml": {"sweeper.provenance", "sweeper.execute"},
    "typer": {"sweeper.cli", "sweeper.jobs.cli"},
    "pandas": {"analysis"},
    "jinja2": {"analysis", "sweeper.jobs.render"},
    "yaml": {"sweeper.jobs"},
}
"""Who may import a library; execute may ask torch for the number of devices."""

TYPE_ONLY_PROTOCOLS = {
    "sweeper.execute.base",
    "sweeper.search.base",
    "sweeper.track.base",
    "sweeper.data.base",
    "sweeper.tasks.base",
}
"""Contracts without a library behind them: any layer may name them."""


def _modules():
    for path in sorted([*ROOT.glob("sweeper/**/*.py"), *ROOT.glob("analysis/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(path):
    """Names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(module):
    parts = module.split(".")
    return LAYERS.get(parts[1], 5) if parts[0] == "sweeper" and len(parts) > 1 else 5


def _is_in(module, package):
    return module == package or module.startswith(f"{package}.")


MODULES = dict(_modules())
assert "sweeper.types" in MODULES


def _is_allowed(module, imported):
    if imported in TYPE_ONLY_PROTOCOLS or any(_is_in(imported, protocol) for protocol in TYPE_ONLY_PROTOCOLS):
        return True
    same_package = imported.split(".")[:2] == module.split(".")[:2]
    own, other = _layer(module), _layer(imported)
    return same_package or (other < own if own == 2 else other <= own)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("sweeper.")])
def test_imports_go_downwards(module):
    ours = [name for name in _imports(MODULES[module]) if name.startswith("sweeper.") and _is_known(name)]
    assert [name for name in ours if not _is_allowed(module, name)] == []


def _is_known(name):
    return name in MODULES


@pytest.mark.parametrize("module", [name for name in MODULES if _layer(name) < 5])
def test_the_lower_layers_do_not_know_the_analysis(module):
    assert [name for name in _imports(MODULES[module]) if _is_in(name, "analysis")] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_by_its_owners_only(library):
    users = {name for name, path in MODULES.items() if any(_is_in(used, library) for used in _imports(path))}
    strangers = {user for user in users if not any(_is_in(user, owner) for owner in LIBRARIES[library])}
    assert strangers == set()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sweeper", ["torch", "mlflow", "transformers", "optuna", "datasets", "peft", "hydra", "pandas"]),
        ("sweeper.store", ["torch", "mlflow", "transformers", "optuna", "datasets", "hydra"]),
        ("sweeper.search.study", ["torch", "mlflow", "transformers", "datasets", "hydra"]),
    ],
)
def test_an_import_stays_light(module, heavy):
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

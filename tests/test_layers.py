"""The structure: one layer per package, imports downwards only, no circles, one owner for each heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "errors": 0,
    "clock": 0,
    "urls": 0,
    "config": 1,
    "types": 2,
    "failures": 2,
    "disk": 3,
    "figures": 4,
    "statistics": 4,
    "fetch": 4,
    "store": 5,
    "kernels": 5,
    "search": 6,
    "execute": 6,
    "data": 6,
    "models": 6,
    "track": 6,
    "analysis": 6,
    "tasks": 7,
    "control": 7,
    "train": 8,
    "display": 8,
    "simulate": 9,
    "sweep": 9,
    "plan": 10,
    "recovery": 10,
    "jobs": 10,
    "cli": 11,
}
"""Layer of every module and package directly under sweeper. A package may import from lower layers and from itself."""

SAME_LAYER = {("failures", "types"), ("errors", "urls")}
"""The only imports within a layer, as (importer, imported): causes are keyed by the kinds of failures, and no error
shows a password."""

SEEN_BY_ANALYSIS = {
    "analysis",
    "clock",
    "config",
    "disk",
    "errors",
    "failures",
    "figures",
    "statistics",
    "store",
    "types",
}
"""All that `analysis` may import of sweeper: it reads sweeps, and needs neither search nor training for that."""

MAX_TOP_MODULES = 6

LIBRARIES = {
    "optuna": {"sweeper.search"},
    "cmaes": {"sweeper.search"},
    "sqlalchemy": {"sweeper.search"},
    "hydra": {"sweeper.config"},
    "omegaconf": {"sweeper.config"},
    "mlflow": {"sweeper.track"},
    "apprise": {"sweeper.sweep.notify"},
    "datasets": {"sweeper.data"},
    "charset_normalizer": {"sweeper.data.content"},
    "pyarrow": {"sweeper.data", "sweeper.simulate"},
    "transformers": {"sweeper.data", "sweeper.models"},
    "bitsandbytes": {"sweeper.models"},
    "torch": {"sweeper.train", "sweeper.models", "sweeper.tasks", "sweeper.kernels", "sweeper.plan.command"},
    "triton": {"sweeper.kernels"},
    "pynvml": {"sweeper.store.provenance", "sweeper.execute"},
    "typer": {"sweeper.cli", "sweeper.jobs.cli"},
    "rich": {
        "sweeper.display",
        "sweeper.plan",
        "sweeper.simulate.command",
        "sweeper.sweep",
        "sweeper.recovery",
        "sweeper.jobs",
        "sweeper.cli",
    },
    "pandas": {"sweeper.analysis"},
    "plotly": {"sweeper.analysis"},
    "scipy": {"sweeper.search", "sweeper.statistics"},
    "filelock": {"sweeper.disk"},
    "jinja2": {"sweeper.analysis", "sweeper.jobs.render"},
    "yaml": {"sweeper.jobs"},
}
"""Who may import a library."""


def _modules():
    # Not rglob, which does not follow the link sweeper/analysis in every Python.
    for path in sorted([*ROOT.glob("sweeper/*.py"), *ROOT.glob("sweeper/*/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


@cache
def _imports(path):
    """Return the full names that a file imports, wherever in it; types that are only checked are imports, too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _module_of(name):
    """Return the module that an imported name is, or is defined in; None outside of sweeper."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name if name.startswith("sweeper.") else None


@cache
def _graph():
    """Return what each module imports of sweeper; not a constant, which every process of a test run would compute."""
    return {
        module: {found for name in _imports(path) if (found := _module_of(name)) and found != module}
        for module, path in MODULES.items()
    }


def _top(module):
    return module.split(".")[1]


def _is_in(module, package):
    return module == package or module.startswith(f"{package}.")


def test_every_module_and_package_has_a_layer():
    assert {_top(module) for module in MODULES if module != "sweeper"} == set(LAYERS)


def test_the_top_level_is_easy_to_survey():
    modules = [module for module in MODULES if module.count(".") == 1 and MODULES[module].name != "__init__.py"]
    assert len(modules) <= MAX_TOP_MODULES


@pytest.mark.parametrize("module", [name for name in MODULES if name != "sweeper"])
def test_imports_go_downwards(module):
    own = _top(module)
    upwards = {
        imported
        for imported in _graph()[module]
        if _top(imported) != own and LAYERS[_top(imported)] >= LAYERS[own] and (own, _top(imported)) not in SAME_LAYER
    }
    assert upwards == set()


@pytest.mark.parametrize("module", [name for name in MODULES if _is_in(name, "sweeper.analysis")])
def test_analysis_sees_only_configuration_core_values_figures_and_store(module):
    assert {_top(imported) for imported in _graph()[module]} <= SEEN_BY_ANALYSIS


def test_no_packages_import_each_other_in_a_circle():
    packages = {}
    for module, imported in _graph().items():
        if module != "sweeper":
            packages.setdefault(_top(module), set()).update(_top(name) for name in imported)
    assert _circle({name: found - {name} for name, found in packages.items()}) == []


def test_no_modules_import_each_other_in_a_circle():
    assert _circle(_graph()) == []


def test_a_circle_would_be_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def _circle(graph):
    """Return a circle of a graph as the names along it; an empty list if there is none."""
    done = set()

    def visit(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        found = next(filter(None, (visit(other, [*path, node]) for other in sorted(graph.get(node, ())))), [])
        done.add(node)
        return found

    return next(filter(None, (visit(node, []) for node in sorted(graph))), [])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_by_its_owners_only(library):
    users = {name for name, path in MODULES.items() if any(_is_in(used, library) for used in _imports(path))}
    strangers = {user for user in users if not any(_is_in(user, owner) for owner in LIBRARIES[library])}
    assert strangers == set()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sweeper", ["torch", "mlflow", "transformers", "optuna", "datasets", "peft", "hydra", "pandas", "plotly"]),
        ("sweeper.store.trials", ["torch", "mlflow", "transformers", "optuna", "datasets", "hydra"]),
        ("sweeper.search.study", ["torch", "mlflow", "transformers", "datasets", "hydra", "scipy.stats"]),
        ("sweeper.sweep.run", ["torch", "mlflow", "transformers", "datasets", "pandas", "scipy.stats"]),
        ("sweeper.control.controller", ["torch", "mlflow", "transformers", "optuna", "datasets", "hydra", "rich"]),
    ],
)
def test_an_import_stays_light(module, heavy):
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_folder_called_analysis_in_the_working_directory_does_no_harm(tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("raise RuntimeError('imported')")
    code = "import sweeper.sweep.run, sweeper.analysis.report, sweeper.cli"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

"""The notebook of docs/ runs, and converts to a Jupyter notebook."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import jupytext
import pytest

import sweeper
from sweeper.config.compose import compose

CONFIRM = ["confirm.max_share=3", "confirm.seeds=2", "confirm.max_seeds=2", "budget.trials=4"]
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.py"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
def test_the_notebook_shows_a_sweep_and_uses_its_adapter(tiny, monkeypatch):
    run = sweeper.run
    monkeypatch.setattr(sweeper, "run", lambda _overrides: run([*tiny, *CONFIRM]))
    shown = runpy.run_path(str(NOTEBOOK))
    assert shown["study"]["dataset"] == "tiny"
    assert len(shown["curves"].data) == shown["rungs"]["trial"].nunique() > 4
    assert shown["verdict"] == shown["study"]["confirmation"]["verdict"]
    assert not shown["sweep"].verdicts.empty
    assert shown["confusion"].to_numpy().sum() == 30
    assert set(shown["points"]["hyperparameter"]) == set(shown["study"]["space"])
    assert shown["adapter"] == shown["sweep"].adapter("tiny")
    assert sorted(shown["prediction"].index) == ["colour", "food", "place"]
    assert shown["prediction"].sum() == pytest.approx(1, abs=1e-4)


def test_the_overrides_of_the_notebook_compose():
    calls = [node for node in ast.walk(ast.parse(NOTEBOOK.read_text())) if isinstance(node, ast.Call)]
    (run,) = [call for call in calls if ast.unparse(call.func) == "sweeper.run"]
    assert compose(ast.literal_eval(run.args[0])).settings.dataset


def test_the_notebook_converts_to_a_jupyter_notebook():
    notebook = jupytext.read(NOTEBOOK)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert {"markdown", "code"} == set(kinds)
    assert kinds[0] == "markdown"
    assert '"cells"' in jupytext.writes(notebook, fmt="ipynb")

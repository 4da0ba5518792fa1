"""Renders report.html: one file that works without a network, for every sweep, finished or not.

`report` calls it with the content of best.json. `study_section` and `sweep_section` choose what is shown, other modules
draw it, and the templates lay it out. Everything from data is escaped: by jinja2 in the page, by `script_json` within
scripts, and by `plot_parts.plot_text` for plotly. The page's own rules (Content-Security-Policy) forbid requests,
and any script but the three that are in the template.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sweeper.analysis.final import FINAL_COLUMNS
from sweeper.analysis.sessions import session_rows
from sweeper.analysis.study_section import study_section
from sweeper.analysis.sweep_section import sweep_section
from sweeper.analysis.texts import duration, flatten
from sweeper.figures.baselines import baseline_descriptions
from sweeper.figures.text import plural
from sweeper.store.damage import adapter_warnings
from sweeper.store.health import read_health
from sweeper.store.trials import TrialStore

__all__ = ["render_html", "script_json"]

_TEMPLATES = Path(__file__).parent / "templates"
_VERDICTS = {
    "better": ("▲", "better than the default"),
    "worse": ("▼", "worse than the default"),
    "equivalent": ("=", "equivalent to the default"),
    "undecided": ("?", "undecided"),
    "default": ("=", "the default is recommended"),
    "unconfirmed": ("-", "not confirmed"),
    "none": ("-", "no complete trial"),
    "supported": ("▲", "supported"),
    "refuted": ("▼", "refuted"),
}
"""Sign and words of each kind of verdict; never told by colour alone."""


def render_html(store: TrialStore, best: Mapping[str, Any]) -> str:
    """Return the text of report.html.

    Args:
        store: The sweep.
        best: The content of best.json.
    """
    sweep = store.read_sweep() if store.exists else {}
    studies = best["studies"]
    names = {name for study in studies for name in study["baselines"]}
    scripts = {name: _template_text(f"report.{name}.js") for name in ("theme", "app")}
    plotly = Markup(get_plotlyjs())  # noqa: S704  part of a pinned package
    return _environment().get_template("report.html.j2").render(
        sweep=best["sweep"],
        default_recipe=best["default_recipe"],
        models=sorted({study["model"] for study in studies}),
        methods=sorted({study["method"] for study in studies}),
        sections=[study_section(store, study, index=index) for index, study in enumerate(studies, 1)],
        across=sweep_section(best),
        num_unfinished=sum(study["trials"].get("running", 0) for study in studies),
        baseline_descriptions=baseline_descriptions(names),
        problems=[*read_health(store.root).lines(), *adapter_warnings(store)],
        sessions=session_rows(store, sweep.get("settings") or {}),
        provenance=flatten(sweep.get("provenance") or {}),
        verdicts=_VERDICTS,
        style=_template_text("report.css"),
        scripts=scripts,
        plotly=plotly,
        final_columns=FINAL_COLUMNS,
        policy=_policy([*scripts.values(), plotly]),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"script_json": script_json, "duration": duration, "plural": plural}
    return environment


def _template_text(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  our own file


def script_json(value: object) -> Markup:
    """Return JSON that can stand in a script element: no text in it can end the element or a line of a script."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  escaped above


def _policy(scripts: list[Markup]) -> str:
    """Return the page's Content-Security-Policy: no requests, and no scripts but these."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"

"""Compares sweeper with the scripts that people write today. `make bench` runs the standard form.

    python benchmarks/run.py                      all sections of the standard form, under 50 minutes on two cores
    python benchmarks/run.py memory limit         only these sections
    python benchmarks/run.py --long               three hours: five seeds, parity, a language model, the default sweep
    python benchmarks/run.py --long time_to_score --resume        only what the newest run of this section lacks
    python benchmarks/run.py make_sweep --older ../old-worktree   the default sweep, beside an older checkout's
    python benchmarks/run.py --short              checks in three minutes that everything runs; the numbers mean nothing
    python benchmarks/run.py --render             only writes bench.md again, from the recorded rows

Nothing else should run on the machine. Rows are appended to <results>/<section>.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.context import FORMS, Context  # noqa: E402  after the path is set
from benchmarks.machine_speed import record_speed  # noqa: E402
from benchmarks.record import Results  # noqa: E402
from benchmarks.report import render_report  # noqa: E402
from benchmarks.sections import (  # noqa: E402
    equal_work,
    language_model,
    layout,
    limit,
    make_sweep,
    memory,
    parity,
    profile,
    throughput,
    time_to_score,
)

SECTIONS: dict[str, Callable[[Context], None]] = {
    "layout": layout.run,
    "limit": limit.run,
    "profile": profile.run,
    "throughput": throughput.run,
    "memory": memory.run,
    "equal_work": equal_work.run,
    "time_to_score": time_to_score.run,
    "make_sweep": make_sweep.run,
    "parity": parity.run,
    "language_model": language_model.run,
}
IN_FORM = {
    "standard": ("layout", "limit", "profile", "throughput", "memory", "equal_work", "time_to_score"),
    "short": tuple(name for name in SECTIONS if name not in {"layout", "language_model"}),
    "long": ("layout", "memory", "equal_work", "time_to_score", "make_sweep", "parity", "language_model"),
}
RESUMABLE = ("time_to_score", "make_sweep")


def main() -> None:
    """Run the requested sections and write the report."""
    asked = _parse()
    form = "short" if asked.short else "long" if asked.long else "standard"
    folder = asked.results or ROOT / "benchmarks" / "results" / ("short" if asked.short else "")
    results = Results(folder.absolute(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    if asked.resume:
        results.run = _run_to_resume(asked.sections, results)
    if not asked.render:
        with tempfile.TemporaryDirectory(prefix="sweeper-bench-") as scratch:
            _measure(asked, form, results, Path(scratch))
    sys.stdout.write(render_report(results))


def _measure(asked: argparse.Namespace, form: str, results: Results, scratch: Path) -> None:
    sizes = dataclasses.replace(FORMS[form], **_sizes(asked))
    context = Context(
        results=results,
        cache=asked.cache.expanduser().absolute(),
        scratch=scratch,
        sizes=sizes,
        form=form,
        ours=tuple(asked.ours),
        dataset=asked.dataset,
        older=asked.older.expanduser().absolute() if asked.older else None,
    )
    results.start(form)
    for dataset in sorted({context.dataset, *context.sizes.datasets}):
        context.prepare(dataset)
    names = asked.sections or IN_FORM[form]
    record_speed(context, names[0])
    for index, name in enumerate(names):
        started = time.perf_counter()
        SECTIONS[name](context)
        context.log(f"section {name} took {time.perf_counter() - started:.0f} s")
        record_speed(context, name, *names[index + 1 : index + 2])


def _run_to_resume(sections: Sequence[str], results: Results) -> str:
    if len(sections) != 1 or sections[0] not in RESUMABLE:
        sys.exit(f"--resume continues one of the sections {', '.join(RESUMABLE)}: name it")
    rows = results.latest(sections[0])
    if not rows:
        sys.exit(f"--resume: {results.folder} has no run of {sections[0]}. Leave the option out")
    return str(rows[0]["run"])


def _sizes(asked: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in asked.size:
        name, _, value = text.partition("=")
        kinds = {field.name: field for field in dataclasses.fields(FORMS["standard"])}
        if name not in kinds:
            sys.exit(f"--size {name}: there is no such size. Sizes: {', '.join(kinds)}")
        default = getattr(FORMS["standard"], name)
        given[name] = _as(default, value)
    return given


def _as(default: Any, value: str) -> Any:
    if not isinstance(default, tuple):
        return type(default)(value)
    kind = type(default[0]) if default else str
    return tuple(kind(item) for item in value.split(",") if item)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="section", help=", ".join(SECTIONS))
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--short", action="store_true")
    forms.add_argument("--long", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--resume", action="store_true", help=f"for {' and '.join(RESUMABLE)}")
    parser.add_argument("--older", type=Path, help="for make_sweep: a git worktree of another commit")
    parser.add_argument("--dataset", default="trec", help="for equal_work, memory, layout, profile and parity")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper"))
    parser.add_argument("--results", type=Path, help="folder for rows and bench.md")
    parser.add_argument("--ours", nargs="*", default=[], help="overrides for sweeper only, e.g. executor.lanes=16")
    parser.add_argument("--size", action="append", default=[], metavar="NAME=VALUE", help="e.g. repetitions=1")
    return parser.parse_args()


if __name__ == "__main__":
    main()

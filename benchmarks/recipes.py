"""Which recipe is a good default? Trains the default recipe with one or two things changed, on ten datasets.

    python benchmarks/recipes.py head probe before lr length    the head's rate and initial values, and epochs
    python benchmarks/recipes.py screen language         other hyperparameters, one at a time and in pairs
    python benchmarks/recipes.py --render                only writes recipes.md again, from the recorded rows

Every lane is r=8, alpha=8, dropout 0, except for what its row names. Trials of a dataset train in packs, one process
per core, and are scored four times on validation rows, and on test rows at the end (`length`: each time).
Rows are appended to <results>/recipes.jsonl; what is recorded there already is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from benchmarks.recipe_tables import EPOCHS, EPOCHS_BEFORE, INIT, RATE, RATIO, render  # noqa: E402  after the path
from benchmarks.variants import VARIANTS, variants  # noqa: E402
from sweeper.execute.process import worker_environment  # noqa: E402

_LANES = 8
_RATIOS = (1.0, 10.0, 30.0, 100.0)
_LARGE = ("trec_fine_4000",)
"""Datasets that get one seed of the first plan and few epochs."""

_LENGTH_DATASETS = ("trec_fine", "trec_250", "trec_entity", "trec", "rotten_tomatoes_250", "sms_spam_500")
_LONGEST = ("trec_fine", "trec_250")
_RATE_DATASETS = ("trec_fine", "trec_250", "trec", "rotten_tomatoes_250")

Job = dict[str, Any]


def _epochs(dataset: str, rows_seen: int) -> dict[str, int]:
    """Return the whole number of epochs that comes nearest to a number of rows seen."""
    return {EPOCHS: max(1, round(rows_seen / VARIANTS[dataset]["train_rows"]))}


def plan_head() -> Iterator[Job]:
    """Head's learning rate, at the default learning rate and 3,000 rows seen, two seeds."""
    for seed, dataset in itertools.product((0, 1), VARIANTS):
        if not (seed and dataset in _LARGE):
            for ratio in _RATIOS:
                yield _head_job(dataset, seed, ratio, "random")


def plan_probe() -> Iterator[Job]:
    """The same with a head from a probe: a weak one, and one whose strength was chosen on held-out rows."""
    for seed, dataset in itertools.product((0, 1), VARIANTS):
        if not (seed and dataset in _LARGE):
            yield _head_job(dataset, seed, 10.0, "probe")
            yield _head_job(dataset, seed, 30.0, "probe")
            yield _head_job(dataset, seed, 30.0, "probe", held_out_strength=True)


def _head_job(dataset: str, seed: int, ratio: float, init: str, **extras: bool) -> Job:
    length = _epochs(dataset, 8000 if dataset in _LARGE else 3000)
    return {"dataset": dataset, "seed": seed, "params": {**length, RATIO: ratio, INIT: init, **extras}}


def plan_before() -> Iterator[Job]:
    """The default recipe before it had a learning rate for the head: three epochs of any dataset, two seeds."""
    for seed, dataset in itertools.product((0, 1), VARIANTS):
        if not (seed and dataset in _LARGE) and _epochs(dataset, 3000)[EPOCHS] != EPOCHS_BEFORE:
            yield {"dataset": dataset, "seed": seed, "params": {EPOCHS: EPOCHS_BEFORE, RATIO: 1.0}}


def plan_lr() -> Iterator[Job]:
    """Head's learning rate at a lower and a higher learning rate."""
    for dataset in _RATE_DATASETS:
        for rate, ratio in itertools.product((3e-4, 3e-3), (1.0, 10.0, 30.0)):
            yield {"dataset": dataset, "seed": 0, "params": {**_epochs(dataset, 3000), RATE: rate, RATIO: ratio}}


def plan_length() -> Iterator[Job]:
    """Number of rows seen, with two learning rates of the head, and with a head from a probe."""
    heads: tuple[Job, ...] = (
        {RATIO: 10.0},
        {RATIO: 30.0},
        {RATIO: 10.0, INIT: "probe"},
        {RATIO: 30.0, INIT: "probe"},
    )
    seen: dict[str, tuple[int, ...]] = dict.fromkeys(_LENGTH_DATASETS, (1500, 6000))
    seen |= dict.fromkeys(_LONGEST, (1500, 6000, 12000))
    seen |= {"rotten_tomatoes": (2000,), "tweets": (2000,)}
    for dataset, lengths in seen.items():
        for rows, head in itertools.product(lengths, heads):
            yield {"dataset": dataset, "seed": 0, "params": {**_epochs(dataset, rows), **head}}


_SCREENED: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "B at 4 times A's rate": {"b_lr_ratio": 4.0},
    "B at 16 times A's rate": {"b_lr_ratio": 16.0},
    "one norm for adapter and head": {"joint_clip": True},
    "no clipping": {"train.max_grad_norm": 0.0},
    "no warm-up": {"train.warmup_ratio": 0.0},
    "warm-up 20 %": {"train.warmup_ratio": 0.2},
    "cosine": {"train.lr_schedule": "cosine"},
    "constant": {"train.lr_schedule": "constant"},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "batch of 32": {"train.batch_size": 32},
    "batch of 8": {"train.batch_size": 8},
    "dropout 0.1": {"lora.dropout": 0.1},
    "alpha = 4 r": {"lora.alpha_ratio": 4.0},
    "B at 4 times, no warm-up": {"b_lr_ratio": 4.0, "train.warmup_ratio": 0.0},
    "batch of 8, constant": {"train.batch_size": 8, "train.lr_schedule": "constant"},
    "label smoothing, weight decay": {"label_smoothing": 0.1, "train.weight_decay": 0.1},
}
_SCREENED_DATASETS = ("trec_fine", "trec_250", "trec")


def plan_screen() -> Iterator[Job]:
    """Other hyperparameters, at the default head."""
    for seed, dataset, (name, params) in itertools.product((0, 1), _SCREENED_DATASETS, _SCREENED.items()):
        shared = {**_epochs(dataset, 3000), INIT: "probe"}
        yield {"dataset": dataset, "seed": seed, "name": name, "params": {**shared, **params}}


_LANGUAGE: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "B at 4 times A's rate": {"b_lr_ratio": 4.0},
    "B at 16 times A's rate": {"b_lr_ratio": 16.0},
    "no warm-up": {"train.warmup_ratio": 0.0},
    "cosine": {"train.lr_schedule": "cosine"},
    "constant": {"train.lr_schedule": "constant"},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "batch of 8": {"train.batch_size": 8},
    "alpha = 4 r": {"lora.alpha_ratio": 4.0},
    "learning rate 3e-4": {RATE: 3e-4},
    "learning rate 3e-3": {RATE: 3e-3},
}


def plan_language() -> Iterator[Job]:
    """The same for a small language model that answers TREC as instructions, one seed."""
    for name, params in _LANGUAGE.items():
        experiment = "smollm2_trec"
        yield {
            "dataset": experiment,
            "experiment": experiment,
            "seed": 0,
            "name": name,
            "params": {EPOCHS: 3, **params},
        }


PLANS = {
    "language": plan_language,
    "head": plan_head,
    "probe": plan_probe,
    "before": plan_before,
    "lr": plan_lr,
    "length": plan_length,
    "screen": plan_screen,
}


def main() -> None:
    """Train what is not recorded yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", choices=[*PLANS, []], metavar="plan", help=", ".join(PLANS))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--datasets", nargs="*", default=[])
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        _serve(asked.cache.expanduser())
        return
    path = asked.results / "recipes.jsonl"
    if not asked.render:
        _measure(asked, path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (asked.results / "recipes.md").write_text(render(rows), encoding="utf-8")


def _measure(asked: argparse.Namespace, path: Path) -> None:
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {_identity(json.loads(line)) for line in known}
    packs = [pack for name in asked.plans for pack in _packs(name, PLANS[name](), done)]
    packs = [pack for pack in packs if not asked.datasets or pack[0]["dataset"] in asked.datasets]
    variants(asked.cache.expanduser())  # converted once, before two processes need it
    workers = [_start(asked.cache) for _ in range(min(asked.processes, len(packs)))]
    waiting = iter(packs)
    with path.open("a", encoding="utf-8") as file:
        busy = [worker for worker in workers if _send(worker, next(waiting, None))]
        while busy:
            worker = busy.pop(0) if len(busy) == 1 else busy.pop(_first_ready(busy))
            assert worker.stdout is not None
            file.write("".join(json.dumps(row) + "\n" for row in json.loads(worker.stdout.readline())))
            file.flush()
            if _send(worker, next(waiting, None)):
                busy.append(worker)
    for worker in workers:
        worker.communicate()


def _packs(plan: str, jobs: Iterator[Job], done: set[str]) -> Iterator[list[Job]]:
    """Yield jobs that can train side by side: of one dataset, seed, length and loss."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        job["plan"] = plan
        shared = [job["dataset"], job["seed"], *(job["params"].get(name) for name in _SHARED)]
        if _identity(job) not in done:
            groups.setdefault(json.dumps(shared), []).append(job)
    for group in groups.values():
        lanes = 2 if group[0].get("experiment") else _LANES
        yield from (group[first : first + lanes] for first in range(0, len(group), lanes))


_SHARED = (EPOCHS, "train.batch_size", "label_smoothing", "joint_clip", "b_lr_ratio")


def _identity(job: Job) -> str:
    return json.dumps([job["plan"], job["dataset"], job["seed"], job.get("name"), job["params"]])


def _start(cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", "--cache", str(cache)]
    return subprocess.Popen(  # noqa: S603  this file
        command, env=worker_environment("", 1), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _send(worker: subprocess.Popen[str], pack: list[Job] | None) -> bool:
    assert worker.stdin is not None
    if pack is None:
        return False
    worker.stdin.write(json.dumps(pack) + "\n")
    worker.stdin.flush()
    return True


def _first_ready(workers: Sequence[subprocess.Popen[str]]) -> int:
    import select

    ready, _, _ = select.select([worker.stdout for worker in workers if worker.stdout], [], [])
    return next(index for index, worker in enumerate(workers) if worker.stdout in ready)


def _serve(cache: Path) -> None:
    """Answer each line, a pack, with a line, the results of its trials."""
    from benchmarks.recipe_worker import RecipeWorker

    workers: dict[str, RecipeWorker] = {}
    for line in sys.stdin:
        jobs = json.loads(line)
        experiment = jobs[0].get("experiment", "")
        if experiment not in workers:
            workers.clear()  # one model in memory is enough
            workers[experiment] = RecipeWorker(variants(cache), cache, experiment)
        sys.stdout.write(json.dumps(workers[experiment].train(jobs)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The script that people write today: Optuna ``study.optimize`` + Trainer + PEFT + MLflow, in the two forms of `trial`.

Choices of the search that affect the ratio:

- default form: one process, torch's default threads (one for each core), TPE with Optuna's defaults, no pruning;
- tuned form: one process of two threads, or two of one thread that share the study (``--processes``, ``--threads``),
  whichever ``run.py layout`` measured as faster; for the time to a score, SuccessiveHalving with sweeper's default
  factor (2) and the first rung after one epoch;
- the study is a SQLite file, as is MLflow's database; both are created before the processes start, because
  several processes that create them at once would corrupt them;
- the space is that of conf/space/default.yaml as it was without a learning rate for the head: rank, alpha, dropout and
  one learning rate. With ``--head-ratio``, the script also searches the ratio of the head's learning rate to the
  adapter's, in the same interval as sweeper, which tells what this costs or gains without sweeper's engine.

Prints one JSON line per trial: when it started and ended, its state, and its score at each evaluation.

    python -m benchmarks.peers.optuna_trainer --dataset trec --cache ~/.cache/sweeper --trials 24 --folder out [--tuned]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.config.space import Dimension
from sweeper.config.values import ParamValue

__all__ = ["create_databases", "main", "parse"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="trec")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the databases and adapters")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--prune", action="store_true")
    parser.add_argument("--head-ratio", action="store_true", help="search the head's learning rate, too")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="threads of each process; 0 for torch's default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler")
    parser.add_argument("--shared", type=int, nargs="*", help="train these points of the shared list instead")
    parser.add_argument("--all-rows", action="store_true")
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--hold", type=Path, help="after its trials, a process waits until this file exists")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="Hydra overrides")
    parser.add_argument("--process", type=int, default=-1, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    asked.cache, asked.folder = asked.cache.expanduser(), asked.folder.absolute()
    return asked


def main() -> None:
    """Run the study in as many processes as asked for."""
    asked = parse()
    if asked.process >= 0 or asked.processes == 1:
        _optimize(asked)
        return
    create_databases(asked)
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads or 1)}
    command = [sys.executable, "-m", "benchmarks.peers.optuna_trainer", *sys.argv[1:]]
    workers = [
        subprocess.Popen([*command, "--process", str(index)], env=environment)  # noqa: S603  our own module
        for index in range(asked.processes)
    ]
    sys.exit(max(worker.wait() for worker in workers))


def _optimize(asked: argparse.Namespace) -> None:
    """Run one process's share of the trials."""
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    import optuna

    from benchmarks.configuration import head_ratio_dimension
    from benchmarks.inputs import load_inputs, shared_configurations
    from benchmarks.peers.trial import Form, train

    head_ratio = head_ratio_dimension() if asked.head_ratio else None
    inputs = load_inputs(asked.dataset, asked.cache, asked.overrides)
    study = create_databases(asked)
    listed = None
    if asked.shared is not None:
        points = shared_configurations(inputs, max(asked.shared) + 1)
        listed = [points[index] for index in asked.shared]
    form = Form(tuned=asked.tuned, max_steps=asked.max_steps, all_rows=asked.all_rows)

    def objective(trial: optuna.Trial) -> float:
        params = _suggest(trial, head_ratio) if listed is None else listed[trial.number]
        begun_at = time.time()
        scores: list[tuple[float, float]] = []

        def on_evaluation(epoch: int, accuracy: float) -> None:
            scores.append((time.time(), accuracy))
            trial.report(accuracy, epoch)
            if asked.prune and trial.should_prune():
                _print_trial(asked, trial.number, params, begun_at=begun_at, state="pruned", scores=scores)
                raise optuna.TrialPruned

        accuracy = train(params, inputs, form, name=f"trial-{trial.number}", on_evaluation=on_evaluation)
        _print_trial(asked, trial.number, params, begun_at=begun_at, state="complete", scores=scores)
        return accuracy

    if asked.process < 0:
        study.optimize(objective, n_trials=asked.trials)
    elif asked.shared is not None:
        study.optimize(objective, n_trials=asked.trials // asked.processes)
    else:
        # trials that the other process has started count too
        while len(study.get_trials(deepcopy=False)) < asked.trials:
            study.optimize(objective, n_trials=1)
    _hold(asked.hold)


def create_databases(asked: argparse.Namespace) -> Any:
    """Create, or open, MLflow's database and the study."""
    import mlflow
    import optuna

    asked.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{asked.folder}/mlflow.db")
    if mlflow.get_experiment_by_name("lora") is None:
        mlflow.create_experiment("lora", artifact_location=f"{asked.folder}/artifacts")
    mlflow.set_experiment("lora")
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.create_study(
        study_name="lora",
        storage=f"sqlite:///{asked.folder}/optuna.db",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=asked.seed + max(0, asked.process)),
        pruner=pruner if asked.prune else optuna.pruners.NopPruner(),
    )


def _suggest(trial: Any, head_ratio: Dimension | None) -> dict[str, ParamValue]:
    """Draw a configuration, with a ratio of the head's learning rate to the adapter's if it has a dimension."""
    params: dict[str, ParamValue] = {
        "lora.r": 2 ** trial.suggest_int("log2_r", 0, 6),
        "lora.alpha_ratio": trial.suggest_float("alpha_ratio", 0.25, 8, log=True),
        "lora.dropout": trial.suggest_float("dropout", 0, 0.2),
        "train.learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
    }
    if head_ratio is not None:
        params[head_ratio.key] = trial.suggest_float("head_lr_ratio", head_ratio.low, head_ratio.high, log=True)
    return params


def _print_trial(
    asked: argparse.Namespace,
    number: int,
    params: Mapping[str, ParamValue],
    *,
    begun_at: float,
    state: str,
    scores: Sequence[tuple[float, float]],
) -> None:
    line = {
        "number": number,
        "process": max(0, asked.process),
        "begun_at": begun_at,
        "ended_at": time.time(),
        "state": state,
        "accuracy": scores[-1][1],
        "scores": scores,
        "params": dict(params),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _hold(flag: Path | None) -> None:
    """Keep the process's memory until all are measured side by side."""
    while flag is not None and not flag.exists():
        time.sleep(0.2)


if __name__ == "__main__":
    main()

"""Ray Tune with ASHA over the same Trainer function, in its tuned form.

Choices that affect the ratio: one CPU and one torch thread per trial, and as many trials in parallel as there are
cores; processes are reused for several trials (``reuse_actors``), because otherwise each trial would import torch and
transformers again; random search, as in Ray's ASHA example; ASHA with sweeper's default factor (2) and the first rung
after one epoch. The equal-work comparison has no pruning (FIFO) and uses the shared configurations. MLflow writes to
SQLite, as for the other peer. Ray's dashboard is off.

Prints one JSON line per trial when all are done.

    python -m benchmarks.peers.ray_asha --dataset trec --cache ~/.cache/sweeper --trials 24 --folder out --prune
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.configuration import compose_equal_work
from benchmarks.peers.optuna_trainer import create_databases, parse

__all__ = ["main"]


def main() -> None:
    """Run the search."""
    asked = parse()
    asked.folder.mkdir(parents=True, exist_ok=True)
    create_databases(asked)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray

    cores = len(os.sched_getaffinity(0))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": environment},
    )
    try:
        _tune(asked, cores)
    finally:
        ray.shutdown()


def _tune(asked: argparse.Namespace, cores: int) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    folder = asked.folder
    scheduler = (
        ASHAScheduler(time_attr="epoch", grace_period=1, max_t=_epochs(asked), reduction_factor=2)
        if asked.prune
        else FIFOScheduler()  # type: ignore[no-untyped-call]
    )
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(_trial, asked=vars(asked)), {"cpu": 1}),
        param_space=_space(asked),
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            scheduler=scheduler,
            num_samples=1 if asked.shared is not None else asked.trials,
            max_concurrent_trials=cores,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), name="lora", verbose=0),
    )
    results = tuner.fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")
    _print(results)


def _space(asked: argparse.Namespace) -> dict[str, Any]:
    """Return conf/space/default.yaml in Ray's terms, or the numbers of the common list."""
    from ray import tune

    if asked.shared is not None:
        return {"shared": tune.grid_search(list(asked.shared))}
    return {
        "lora.r": tune.choice([1, 2, 4, 8, 16, 32, 64]),
        "lora.alpha_ratio": tune.loguniform(0.25, 8),
        "lora.dropout": tune.uniform(0, 0.2),
        "train.learning_rate": tune.loguniform(1e-4, 1e-2),
    }


def _trial(config: dict[str, Any], *, asked: dict[str, Any]) -> None:
    """What a Ray worker runs."""
    import mlflow
    import torch
    from ray import tune

    from benchmarks.inputs import load_inputs, shared_configurations
    from benchmarks.peers.trial import Form, train

    torch.set_num_threads(1)
    mlflow.set_tracking_uri(f"sqlite:///{asked['folder']}/mlflow.db")
    mlflow.set_experiment("lora")
    inputs = load_inputs(asked["dataset"], Path(asked["cache"]), asked["overrides"])
    params = shared_configurations(inputs, config["shared"] + 1)[-1] if "shared" in config else config
    begun_at = time.time()

    def on_evaluation(epoch: int, accuracy: float) -> None:
        tune.report(
            {
                "accuracy": accuracy,
                "epoch": epoch,
                "begun_at": begun_at,
                "ended_at": time.time(),
                "process": os.getpid(),
                "params": dict(params),
            }
        )

    form = Form(tuned=True, max_steps=asked["max_steps"], all_rows=asked["all_rows"])
    train(params, inputs, form, name=tune.get_context().get_trial_name(), on_evaluation=on_evaluation)


def _epochs(asked: argparse.Namespace) -> int:
    return int(compose_equal_work(asked.dataset, asked.cache, asked.overrides).settings.train.epochs)


def _print(results: Any) -> None:
    order = sorted(results, key=lambda result: result.metrics["begun_at"])
    last = max(result.metrics["epoch"] for result in order)
    for number, result in enumerate(order):
        metrics = result.metrics
        line = {
            "number": number,
            "process": metrics["process"],
            "begun_at": metrics["begun_at"],
            "ended_at": metrics["ended_at"],
            "state": "complete" if metrics["epoch"] == last else "pruned",
            "accuracy": metrics["accuracy"],
            "scores": result.metrics_dataframe[["ended_at", "accuracy"]].values.tolist(),
            "params": metrics["params"],
        }
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

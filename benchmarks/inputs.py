"""What sweeper and the peers share: model folder, rows, token ids, and every value that is not searched.

All read the same composed configuration, so that overrides of rows, epochs or batch size apply to all; epochs and the
head's learning rate are those of the peers (`configuration.EQUAL_WORK`). Run as a module, it fills the cache, so that
no contender's time includes a download, and prints the sizes of the dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.configuration import compose_equal_work
from sweeper.config.compose import SweepConfig
from sweeper.config.values import ParamValue
from sweeper.data import prepare_splits
from sweeper.data.base import TokenisedSplits
from sweeper.data.prompt_tokens import chat_use
from sweeper.data.tokens import tokenise
from sweeper.models.targets import targets_for
from sweeper.sweep.plan import StudyPlan, plan_model, plan_study
from sweeper.tasks import make_task

__all__ = ["Inputs", "load_inputs", "main", "shared_configurations"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A dataset and a model, ready to train on."""

    config: SweepConfig
    plan: StudyPlan
    model_dir: Path
    rows: TokenisedSplits
    target_modules: tuple[str, ...]

    @property
    def rows_per_epoch(self) -> int:
        """Training rows of one epoch of sweeper: chunks are always full, so each epoch leaves out a few rows."""
        return self.plan.record.rows_per_chunk * self.plan.record.chunks_per_epoch

    def padded_lengths(self) -> list[int]:
        """Return the padded length of each row of a chunk on a CPU."""
        import numpy as np

        from sweeper.train.batches import length_classes
        from sweeper.train.chunks import ChunkPlan

        opening, lengths = self.plan.opening, np.array(self.rows.train["length"])
        chunks, epochs = opening.chunks_per_epoch, opening.epochs
        plan = ChunkPlan.of(len(lengths), micro_batch=opening.micro_batch, chunks_per_epoch=chunks, epochs=epochs)
        padded: list[int] = []
        for narrow in length_classes(lengths, plan, np.random.default_rng(0)):
            for members in narrow:
                padded += [int(lengths[members].max())] * (plan.micro_batch // len(narrow))
        return padded


def load_inputs(dataset: str, cache: Path, overrides: Sequence[str] = ()) -> Inputs:
    """Fetch, split and tokenise a dataset, or read it from the cache.

    Args:
        dataset: Name of a file in conf/dataset, or of a variant.
        cache: Folder of fetched models and datasets.
        overrides: Further Hydra overrides.
    """
    config = compose_equal_work(dataset, cache, overrides)
    settings = config.settings
    (chosen,) = settings.dataset.values()
    model_dir = plan_model(settings)
    plan = plan_study(config, chosen, model_dir=model_dir)
    splits = prepare_splits(
        chosen, cache=cache, completions=make_task(settings.task.name).takes_completions, loss_on=settings.task.loss_on
    )
    rows = tokenise(
        splits,
        model_dir=model_dir,
        max_length=settings.model.max_length,
        cache=cache,
        chat=chat_use(settings.model),
    )
    model_type = json.loads((model_dir / "config.json").read_text())["model_type"]
    targets = targets_for(model_type, settings.model.target_modules)
    return Inputs(config=config, plan=plan, model_dir=model_dir, rows=rows, target_modules=targets)


def shared_configurations(inputs: Inputs, count: int) -> list[Mapping[str, ParamValue]]:
    """Return the configurations that all contenders train in an equal-work comparison: sweeper's Sobol points.

    Of each two consecutive points, one lies in either half of every dimension. So a few trials of a peer have the same
    mean rank and dropout as many trials of sweeper.
    """
    from sweeper.search.proposals import sobol_point

    return [sobol_point(inputs.config.space, inputs.config.settings.seed, index) for index in range(count)]


def main() -> None:
    """Fill the cache; print the number of rows and labels as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    asked = parser.parse_args()
    record = load_inputs(asked.dataset, asked.cache.expanduser(), asked.overrides).plan.record
    sizes = {"num_rows": dict(record.num_rows), "num_labels": len(record.labels)}
    sys.stdout.write(json.dumps(sizes) + "\n")


if __name__ == "__main__":
    main()

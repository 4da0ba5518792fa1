"""Which tables there are: dataset, size, model, space and length of a trial of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PLANS", "TablePlan"]

_SMOLLM2_SPACE = (
    "space.name=smollm2_table",
    "space.dimensions={lora.r:'tag(log2,interval(2,32))',lora.alpha_ratio:'tag(log,interval(0.25,8))',"
    "lora.dropout:'interval(0,0.2)',train.learning_rate:'tag(log,interval(1e-4,1e-2))'}",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePlan:
    """A table."""

    dataset: str
    """Name of a dataset in `benchmarks.variants`; with an experiment, of one in conf/dataset."""
    train_rows: int
    epochs: int
    num_chunks: int = 12
    """Chunks of a trial; a multiple of the epochs."""
    experiment: str = ""
    overrides: tuple[str, ...] = ()
    """Further Hydra overrides."""
    lanes: int = 8
    """Trials that train side by side."""


PLANS: Mapping[str, TablePlan] = {
    "trec": TablePlan(dataset="trec", train_rows=1000, epochs=2),
    "sms_spam": TablePlan(dataset="sms_spam_500", train_rows=500, epochs=3),
    "trec_entity": TablePlan(dataset="trec_entity", train_rows=600, epochs=3),
    "rotten_tomatoes": TablePlan(dataset="rotten_tomatoes", train_rows=500, epochs=2),
    "trec_fine": TablePlan(dataset="trec_fine", train_rows=1000, epochs=2),
    "smollm2_trec": TablePlan(
        dataset="trec",
        train_rows=240,
        epochs=2,
        num_chunks=6,
        experiment="smollm2_trec",
        overrides=("dataset.trec.validation_rows=200", *_SMOLLM2_SPACE),
        lanes=2,
    ),
    "trec_250": TablePlan(dataset="trec_250", train_rows=250, epochs=6),
    "tweets": TablePlan(dataset="tweets", train_rows=500, epochs=3),
}

"""The engine on a stand-in for a GPU that computes (see `fake_cuda`): the branches for GPUs give what a CPU gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import sweeper.train.worker
from sweeper.models import padded_attention
from sweeper.models.checkpointing import checkpoint_blocks
from sweeper.models.device_choice import PADDED_SDPA
from sweeper.models.first_token import read_first_token
from sweeper.models.fused import fuse_operations
from sweeper.models.load import load_model
from sweeper.tasks.base import Examples
from sweeper.tasks.causal_lm import Task
from sweeper.train import make_worker
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.out_of_memory import OutOfMemoryFallback
from sweeper.train.pack import Pack, sort_lanes
from sweeper.types import ChunkRequest
from tests.tasks.languages import END, language_model, pairs
from tests.train.fake_cuda import CUDA, AsyncError, FakeCuda
from tests.train.languages import examples_of, targets_of
from tests.train.test_worker import admit, dataset_of, disk, setup, study, trial
from tests.train.tiny import (
    CPU,
    NUM_LABELS,
    PAD,
    build_model,
    examples,
    layers_of,
    outputs,
    row_loss,
    specs,
    token_rows,
)

__all__ = ["disk"]  # a fixture

TRIALS = specs([{"lora.r": 3}, {"lora.r": 12, "train.batch_size": 8}], **{"lora.dropout": 0.2})
"""Two ranks that are padded to one, and steps that end at different micro-batches."""
CHOICES = ((5, 6), (7,), (8, 9, 2))


class Loaded:
    """A tiny model in a pack on a device, with its rows."""

    def __init__(self, kind, device, dtype=torch.float32, *, num_rows=8, is_checkpointed=False):
        is_classifier = kind == "bert"
        model = (build_model if is_classifier else language_model)(kind).to(device, dtype)
        if device != CPU:
            padded_attention.register()
            model.set_attn_implementation(PADDED_SDPA)
            fuse_operations(model)
        if is_checkpointed:
            checkpoint_blocks(model)
        if is_classifier:
            read_first_token(model)
            targets, head = layers_of(model)
            ids = token_rows(num_rows)
            rows, pad, self.row_loss = examples(ids, [row[0] % NUM_LABELS for row in ids]), PAD, row_loss
        else:
            targets, head = targets_of(model), []
            rows, pad, self.row_loss = examples_of(pairs(num_rows)), END, Task().row_loss
        self.pack = Pack(model, targets=targets, head=head, dtype=dtype)
        plan = ChunkPlan.of(num_rows, micro_batch=4, chunks_per_epoch=1, epochs=1)
        self.rows = TrainingRows(rows, plan, seed=7, pad_token_id=pad, device=device)
        self.split = EvaluationBatches(rows, batch_size=4, pad_token_id=pad, device=device)
        self.lanes = sort_lanes([Lane.start(each, self.pack.shape, CPU) for each in TRIALS])

    def train(self):
        return self.pack.train_chunk(self.lanes, self.rows, self.row_loss)


def assert_same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **{"rtol": 1e-4, "atol": 1e-5, **tolerance})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [("bert", {}), ("llama", {}), ("qwen3", {"is_checkpointed": True})],
    ids=["bert", "llama", "qwen3, checkpointed"],
)
def test_a_chunk_ends_as_on_a_cpu_and_waits_once(kind, options):
    there = Loaded(kind, CPU, **options)
    expected = there.train()
    with FakeCuda() as gpu:
        here = Loaded(kind, CUDA, **options)
        gpu.waits.clear()
        first = []

        def counted(model, batch):
            first.append(len(gpu.waits))
            return there.row_loss(model, batch)

        here.row_loss = counted
        found = here.train()
    assert {"drop", "add_dropped_"} <= gpu.operators.keys()
    assert kind == "bert" or {"rotate", "gate", "gate_backward"} <= gpu.operators.keys()
    during = gpu.waits[first[0] :]
    assert during[0] == "_to_copy to the host"  # of the losses
    assert set(during[1:]) == {"copy_ to the host"}  # what is written back at the end
    assert gpu.stalls == []
    assert [outcome.loss for outcome in found] == pytest.approx([outcome.loss for outcome in expected], rel=1e-4)
    for one, other in zip(here.lanes, there.lanes, strict=True):
        assert one.parameters.device == CPU
        assert_same(one.parameters, other.parameters, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_chunk_in_half_precision_stays_near_float32(dtype):
    expected = Loaded("llama", CPU).train()
    with FakeCuda():
        found = Loaded("llama", CUDA, dtype).train()
    assert [outcome.loss for outcome in found] == pytest.approx([outcome.loss for outcome in expected], rel=0.02)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_evaluation_gives_what_a_cpu_gives_and_waits_once(kind):
    scored = outputs if kind == "bert" else Task().outputs
    there = Loaded(kind, CPU)
    expected = there.pack.predict(there.lanes, there.split, scored)
    with FakeCuda() as gpu:
        here = Loaded(kind, CUDA)
        gpu.waits.clear()
        found = here.pack.predict(here.lanes, here.split, scored)
    assert [why for why in gpu.waits if "to the host" in why] == ["_to_copy to the host"]
    assert found.device == CPU
    assert_same(found, expected)


def test_choices_have_the_scores_of_a_cpu():
    def scored(device):
        loaded = Loaded("llama", device)
        rows = examples_of(pairs(6, choices=CHOICES))
        split = EvaluationBatches(rows, batch_size=4, pad_token_id=END, device=device)
        return loaded.pack.predict(loaded.lanes, split, Task(CHOICES).outputs)

    expected = scored(CPU)
    with FakeCuda():
        found = scored(CUDA)
    assert_same(found, expected, rtol=1e-3, atol=1e-4)


def test_the_features_of_a_probe_are_those_of_a_cpu():
    def features(device):
        loaded = Loaded("bert", device)
        return loaded.pack.features(loaded.lanes[0], loaded.split)

    expected = features(CPU)
    with FakeCuda():
        found = features(CUDA)
    assert_same(found.pooled, expected.pooled)
    assert_same(found.head_inputs, expected.head_inputs)


@pytest.mark.slow
def test_the_ladder_of_out_of_memory_gives_the_losses_of_a_cpu():
    expected = Loaded("llama", CPU).train()
    with FakeCuda() as gpu:
        loaded = Loaded("llama", CUDA)
        longest, inner = loaded.rows.longest, loaded.row_loss

        def limited(model, batch):
            if batch.ids.numel() > 2 * longest:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return inner(model, batch)

        results, failures = OutOfMemoryFallback(device="cuda").run(
            loaded.lanes,
            lambda group, tokens: loaded.pack.train_chunk(group, loaded.rows, limited, tokens_per_pass=tokens),
            loaded.rows,
        )
    assert failures == {}
    assert gpu.emptied > 0
    found = [results[lane.spec.number].loss for lane in loaded.lanes]
    assert found == pytest.approx([outcome.loss for outcome in expected], rel=1e-4)


@pytest.mark.slow
def test_a_worker_trains_scores_and_exports_as_on_a_cpu(disk, monkeypatch):
    opening = {
        "micro_batch": 4,
        "chunks_per_epoch": 1,
        "epochs": 2,
        "rungs": (1, 2),
        "dataset": dataset_of(disk, train_rows=8, validation_rows=8),
    }

    def run(device):
        worker = make_worker(replace(setup(disk), device=device), 0)
        notes = worker.start().notes
        sizes = {"typical": trial(0), "largest": trial(0)}
        opened = worker.answer(study(disk, **opening, lane_limit=1, **sizes))
        dropping = trial(1, **{"lora.dropout": 0.1})
        return notes, opened, [worker.answer(admit(dropping, trial(2))), worker.answer(ChunkRequest())]

    *_, expected = run("cpu")
    options = {"kind": "sequence_classification", "num_labels": 3, "dtype": torch.float32, "attention": PADDED_SDPA}
    model = load_model(disk / "model", **options)  # transformers loads in threads, which the stand-in does not reach
    with FakeCuda() as gpu:
        monkeypatch.setattr(sweeper.train.worker, "load_model", lambda *_, device, **__: model.to(device))
        notes, opened, found = run("cuda")
    assert notes[1].startswith(f"attention: {PADDED_SDPA}")
    assert opened.lanes == 1
    for one, other in zip(found, expected, strict=True):
        assert (one.failures, one.peak_bytes) == ({}, gpu.peak_bytes)
        for number in (1, 2):
            assert one.measurements[number].metrics == pytest.approx(other.measurements[number].metrics, rel=1e-4)
    assert found[-1].adapters.keys() == {1, 2}
    assert found[0].checkpoints.keys() == {1, 2}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_batches_are_copied_from_pinned_memory(kind):
    """From other memory, copies of more than 64 kB would wait for the passes before them."""
    ids = [[5] * 200] * 64
    rows = Examples(ids, [0] * 64, [1.0] * 64, [] if kind == "bert" else [[(1, 200)]] * 64)
    plan = ChunkPlan.of(64, micro_batch=64, chunks_per_epoch=1, epochs=1)
    with FakeCuda() as gpu:
        batch = TrainingRows(rows, plan, seed=7, pad_token_id=1, device=CUDA).batch(np.arange(64), 200)
        repeated = batch.repeated(slice(0, 64), 2)
    assert batch.ids.nbytes > 1 << 16
    assert batch.ids.device == repeated.ids.device == CUDA
    assert (gpu.waits, gpu.stalls) == ([], [])


# The stand-in itself.


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(2),
        lambda x: x.index_add(0, torch.tensor([0]), x[:1]),
        lambda x: torch.cat([x, torch.zeros(1)]),
        lambda x: x @ torch.zeros(2, device=CUDA, dtype=torch.bfloat16),
    ],
    ids=["add", "index_add", "cat", "types"],
)
def test_it_refuses_what_a_gpu_refuses(wrong):
    with FakeCuda(), pytest.raises(RuntimeError):
        wrong(torch.zeros(2, device=CUDA))


def test_it_notices_who_waits_and_who_does_not_although_he_must():
    with FakeCuda() as gpu:
        x = torch.arange(40_000, device=CUDA)
        assert x[3].item() == 3
        assert gpu.waits == ["_local_scalar_dense"]
        assert x.cpu()[7] == 7
        x.copy_(torch.zeros(40_000, dtype=torch.int64))
        assert gpu.waits[1:] == ["_to_copy to the host", "copy_ from the host"]
        torch.zeros(40_000).to(CUDA, non_blocking=True)
        assert len(gpu.stalls) == 1
        torch.zeros(40_000).pin_memory().to(CUDA, non_blocking=True)
        torch.zeros(4).to(CUDA, non_blocking=True)
        assert len(gpu.stalls) == 1
        with pytest.raises(AsyncError):
            x.to("cpu", non_blocking=True)

"""What only a CUDA device can show. Skipped without one; ``pytest -m gpu`` runs these alone."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from sweeper.config.settings import ExecutorSettings
from sweeper.execute.base import WorkerReady
from sweeper.execute.devices import choose_devices, visible_cuda_devices
from sweeper.execute.process import ProcessExecutor
from sweeper.failures import is_out_of_memory
from sweeper.models.device_choice import PADDED_SDPA, choose_attention, choose_dtype
from sweeper.store.trials import TrialStore
from sweeper.sweep.run import run_sweep
from sweeper.train.lane import Lane
from sweeper.train.out_of_memory import OutOfMemoryFallback, failure_of
from sweeper.types import Admission, FailureKind, TrialState
from tests.doubles import save_tiny_bert, write_rows
from tests.e2e.conftest import overrides_of
from tests.execute.test_contract import replies
from tests.gpu.see import SeeingWorker
from tests.train.tiny import Data, build_pack, row_loss, spec, specs, start, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False"),
    pytest.mark.timeout(300),  # the first use of a device loads kernels, in each process anew
]
CUDA = torch.device("cuda:0")
MORE_THAN_THERE_IS = 1 << 50
"""Bytes."""


@pytest.fixture(scope="module")
def data():
    return Data(device=CUDA)


def losses_of(data, trials, *, chunks=4, **options):
    pack = build_pack(device=data.device, **options)
    return {number: losses.cpu() for number, losses in train(pack, start(pack, trials), data, chunks).items()}


def run_out_of_memory():
    torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8, device=CUDA)


# Training.


def test_a_mixed_pack_has_the_losses_of_the_cpu_in_float32(data):
    on_cpu, on_cuda = losses_of(Data(), specs()), losses_of(data, specs())
    assert on_cuda.keys() == on_cpu.keys()
    for number, losses in on_cpu.items():
        assert len(losses) == 20
        torch.testing.assert_close(on_cuda[number], losses, rtol=1e-3, atol=1e-5)


def test_a_trial_with_dropout_has_the_same_losses_alone_and_in_a_pack(data):
    trials = specs(**{"lora.dropout": 0.1})
    packed = losses_of(data, trials)
    for trial in trials[:3]:
        alone = losses_of(data, [trial])[trial.number]
        torch.testing.assert_close(packed[trial.number], alone, rtol=1e-3, atol=1e-5)


def test_a_trial_continues_from_its_checkpoint_on_the_device(data):
    trial = spec(3, seed=5, **{"lora.dropout": 0.1})
    whole = losses_of(data, [trial])[3]
    pack = build_pack(device=CUDA)
    (lane,) = start(pack, [trial])
    train(pack, [lane], data, 2)
    admission = Admission(spec=trial, chunks_done=2, checkpoint=lane.checkpoint())
    resumed = Lane.admit(admission, pack.shape, CUDA)
    assert resumed.parameters.device == CUDA
    torch.testing.assert_close(train(pack, [resumed], data, 2)[3].cpu(), whole[10:], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(
    torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False),
    reason="this GPU does not compute in bfloat16",
)
def test_bfloat16_is_chosen_where_the_device_computes_in_it_and_stays_near_float32(data):
    dtype, why = choose_dtype("auto", CUDA)
    assert (dtype, why) == (torch.bfloat16, "bfloat16, which this GPU supports")
    rough, exact = losses_of(data, specs(), dtype=dtype), losses_of(data, specs())
    for number, losses in exact.items():
        torch.testing.assert_close(rough[number].mean(), losses.mean(), rtol=0.02, atol=0)


def test_the_fused_attention_is_chosen():
    assert choose_attention("auto", CUDA)[0] == PADDED_SDPA


# Memory.


def test_what_the_device_raises_without_memory_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        run_out_of_memory()
    assert is_out_of_memory(caught.value)
    assert failure_of(caught.value, device="cuda").kind is FailureKind.OUT_OF_MEMORY


def test_a_lane_that_the_device_has_no_memory_for_is_trained_in_smaller_passes_and_ends_the_same(data):
    def limited(model, batch):
        if batch.ids.numel() > data.rows.longest:
            run_out_of_memory()
        return row_loss(model, batch)

    def trained(loss_of):
        pack = build_pack(device=CUDA)
        (lane,) = start(pack, [spec(0, seed=3, **{"lora.dropout": 0.2, "train.batch_size": 8})])
        fallback = OutOfMemoryFallback(device="cuda")
        results, failures = fallback.run(
            [lane], lambda group, n: pack.train_chunk(group, data.rows, loss_of, tokens_per_pass=n), data.rows
        )
        assert failures == {}
        return lane, results[0].loss

    (whole, loss), (parted, other_loss) = trained(row_loss), trained(limited)
    assert other_loss == pytest.approx(loss, rel=1e-3)
    torch.testing.assert_close(parted.parameters, whole.parameters, rtol=1e-2, atol=1e-4)


def test_a_lane_that_fits_in_no_pass_fails_alone(data):
    def work(group, tokens):
        if any(lane.spec.number == 2 for lane in group):
            run_out_of_memory()
        return pack.train_chunk(group, data.rows, row_loss, tokens_per_pass=tokens)

    pack = build_pack(device=CUDA)
    lanes = start(pack, [spec(number) for number in range(4)])
    results, failures = OutOfMemoryFallback(device="cuda").run(lanes, work, data.rows)
    assert results.keys() == {0, 1, 3}
    assert {number: failure.kind for number, failure in failures.items()} == {2: FailureKind.OUT_OF_MEMORY}


# Devices and workers.


def test_all_visible_devices_are_counted():
    assert len(visible_cuda_devices()) == torch.cuda.device_count()
    chosen = choose_devices(ExecutorSettings())
    assert (chosen.kind, chosen.num_workers) == ("cuda", torch.cuda.device_count())


def test_each_worker_sees_one_device_and_it_is_its_own(tmp_path):
    chosen = choose_devices(ExecutorSettings())
    executor = ProcessExecutor(SeeingWorker, chosen.num_workers, logs=tmp_path, cuda_devices=chosen.cuda)
    executor.start()
    try:
        answers = [reply for _, reply in sorted(replies(executor, chosen.num_workers), key=lambda found: found[0])]
    finally:
        executor.stop()
    assert all(isinstance(answer, WorkerReady) for answer in answers), answers
    seen = [dict(note.split("=", 1) for note in ready.notes) for ready in answers]
    assert tuple(notes["given"] for notes in seen) == chosen.cuda
    assert {notes["count"] for notes in seen} == {"1"}
    assert len({notes["uuid"] for notes in seen}) == chosen.num_workers


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_sweep_on_the_device_ends_with_scores_and_adapters(executor, tmp_path):
    model = save_tiny_bert(tmp_path / "tiny-bert")
    overrides = overrides_of(tmp_path, write_rows(tmp_path / "rows.jsonl"), model, tmp_path / "cache")
    choice = ["model.dtype=auto", f"executor={executor}", "executor.device=cuda", "executor.workers=1"]
    run_sweep([*overrides, *choice], console=Console(file=io.StringIO()))
    store = TrialStore(tmp_path / "outputs" / "tiny")
    (study,) = store.studies()
    trials = store.trials(study.name)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert complete
    for trial in complete:
        assert study.value(trial) is not None
        assert (store.adapter_dir(study.name, trial.spec.number) / "adapter_model.safetensors").exists()

"""The state of lanes on disk: a file of the format that others read, written and checked without being trusted."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest
import torch
from safetensors.torch import save

from sweeper.errors import StoreError
from sweeper.execute.base import CheckpointPolicy
from sweeper.train.checkpoints import ADAPTER_METADATA, CheckpointWriter, read_checkpoint, to_safetensors
from sweeper.train.lane import Lane
from sweeper.types import Admission, CheckpointFile
from tests.train.tiny import spec, start, train

CPU = torch.device("cpu")


def state(size=7):
    values = torch.arange(size, dtype=torch.float32)
    return {"parameters": values, "moment1": values / 3, "moment2": values / 7, "step": torch.tensor(5)}


def writer(folder, file_bytes=0):
    found = CheckpointWriter(CheckpointPolicy(file_bytes=file_bytes))
    found.open(folder)
    return found


@pytest.mark.parametrize("size", [1, 7, 8])
def test_a_file_is_the_one_that_safetensors_writes(size):
    tensors = {**state(size), "small": torch.arange(3).bfloat16()}
    assert to_safetensors(tensors) == save(tensors)


def test_tensors_need_not_be_contiguous_and_a_header_may_have_texts():
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2, 2)}
    expected = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=ADAPTER_METADATA)
    assert to_safetensors(tensors, ADAPTER_METADATA) == expected


def test_a_large_checkpoint_is_a_file_that_is_named_by_its_content(tmp_path):
    saved = writer(tmp_path / "incoming").save(3, state())
    content = to_safetensors(state())
    assert saved == CheckpointFile(
        path=tmp_path / "incoming" / f"3-{hashlib.sha256(content).hexdigest()}",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
    )
    assert saved.path.read_bytes() == content
    assert torch.equal(read_checkpoint(saved)["parameters"], state()["parameters"])


def test_a_small_one_and_one_without_a_folder_are_bytes(tmp_path):
    size = sum(tensor.nbytes for tensor in state().values())
    assert isinstance(writer(tmp_path / "incoming", size).save(3, state()), CheckpointFile)
    assert writer(tmp_path / "incoming", size + 1).save(3, state()) == to_safetensors(state())
    assert writer(None).save(3, state()) == to_safetensors(state())


@pytest.mark.parametrize("failing", ["fsync", "replace", "mkdir"])
def test_where_the_worker_cannot_write_it_sends_the_bytes_and_leaves_nothing(tmp_path, monkeypatch, failing):
    def fail(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    found = writer(tmp_path / "incoming")
    monkeypatch.setattr(os, failing, fail)
    assert found.save(3, state()) == to_safetensors(state())
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_new_worker_removes_what_the_one_before_it_left(tmp_path):
    writer(tmp_path / "incoming").save(3, state())
    writer(tmp_path / "incoming")
    assert not (tmp_path / "incoming").exists()


@pytest.mark.parametrize("damage", ["one bit", "torn", "gone"])
def test_a_file_that_is_not_the_one_that_was_written_is_named(pack, tmp_path, damage):
    (lane,) = start(pack, [spec(31)])
    saved = writer(tmp_path).save(31, lane.state())
    content = bytearray(saved.path.read_bytes())
    content[len(content) // 2] ^= 1
    saved.path.write_bytes(content if damage == "one bit" else content[:-9])
    if damage == "gone":
        saved.path.unlink()
    with pytest.raises(StoreError, match="trial 31"):
        Lane.admit(Admission(spec=lane.spec, chunks_done=1, checkpoint=saved), pack.shape, CPU)


def test_a_lane_does_not_depend_on_the_file_that_it_came_from(pack, tmp_path):
    (lane,) = start(pack, [spec(31)])
    saved = writer(tmp_path).save(31, lane.state())
    admission = Admission(spec=lane.spec, chunks_done=1, checkpoint=saved)
    resumed = Lane.admit(admission, pack.shape, CPU)
    with saved.path.open("r+b") as file:  # in place, so that pages of the file would change
        file.write(bytes(saved.num_bytes))
    for name, tensor in lane.state().items():
        assert torch.equal(resumed.state()[name], tensor)


class Timer:
    """A clock that advances when it is told to, and by some seconds whenever it is read."""

    def __init__(self):
        self.now, self.per_call = 100.0, 0.0

    def __call__(self):
        self.now += self.per_call
        return self.now


def due(found, number=1, size=7, *, is_scored=False):
    return found.is_due(number, state(size), is_scored=is_scored)


def test_a_large_checkpoint_is_due_after_its_time_and_at_rungs(tmp_path):
    timer = Timer()
    found = CheckpointWriter(CheckpointPolicy(file_bytes=10, every_s=300), timer)
    found.open(tmp_path)
    found.admitted(1)
    assert not due(found)
    assert due(found, is_scored=True)
    timer.now += 299
    assert not due(found)
    timer.now += 1
    assert due(found)
    found.save(1, state())
    assert not due(found)


def test_a_small_one_is_due_after_every_chunk_and_so_are_all_with_no_time_between(tmp_path):
    for policy in (CheckpointPolicy(file_bytes=10**6, every_s=300), CheckpointPolicy(file_bytes=10, every_s=0)):
        found = CheckpointWriter(policy, Timer())
        found.open(tmp_path)
        found.admitted(1)
        assert due(found)


def test_after_a_slow_one_the_next_is_due_when_the_last_has_taken_a_fiftieth_of_the_time(tmp_path):
    timer = Timer()
    found = CheckpointWriter(CheckpointPolicy(file_bytes=10, every_s=300), timer)
    found.open(tmp_path)
    found.admitted(1)
    found.admitted(2)
    timer.per_call = 4.0  # seconds that saving takes
    found.save(2, state())
    found.save(1, state())
    timer.per_call = 0.0
    timer.now += 399  # of 50 times the seconds of both
    assert not due(found)
    assert due(found, is_scored=True)
    timer.now += 1
    assert due(found)
    found.save(1, state())
    found.keep({1})
    timer.now += 300
    assert due(found)


CHUNKS = 6


def losses_after_a_pause(pack, data, moments, *, at):
    """Return a trial's losses after a checkpoint with moments of this type, and its parameters at the end."""
    trial = spec(5, seed=5, **{"train.learning_rate": 3e-3})
    (lane,) = start(pack, [trial])
    train(pack, [lane], data, at)
    found = CheckpointWriter(CheckpointPolicy(moments=moments))
    checkpoint = found.save(5, lane.state())
    resumed = Lane.admit(Admission(spec=trial, chunks_done=at, checkpoint=checkpoint), pack.shape, CPU)
    losses = train(pack, [resumed], data, CHUNKS - at)[5]
    return losses, resumed.parameters, len(checkpoint)


@pytest.mark.parametrize("at", [1, 3])
def test_moments_in_bfloat16_make_a_checkpoint_smaller_and_change_the_losses_little(pack, data, at):
    exact, parameters, size = losses_after_a_pause(pack, data, "float32", at=at)
    close, changed, small = losses_after_a_pause(pack, data, "bfloat16", at=at)
    assert small / size == pytest.approx(2 / 3, abs=0.02)
    assert not torch.equal(exact, close)  # or nothing was compared
    torch.testing.assert_close(close, exact, rtol=1e-4, atol=0)
    assert (changed - parameters).norm() / parameters.norm() < 5e-4

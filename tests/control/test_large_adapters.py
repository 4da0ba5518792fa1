"""Large adapters are written by workers and moved into place: whole or absent, whatever dies, and never left over."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sweeper.disk.atomic import file_checksum
from sweeper.store.damage import find_damage
from sweeper.store.retention import adapters_to_keep
from sweeper.types import CheckpointFile, ChunkReport, FailureKind, TrialState
from tests.control.bench import Bench, Killed, check_intact, no_pruning, record
from tests.control.test_exactly_once import kill_at_write
from tests.control.test_large_checkpoints import ALL, left
from tests.control.test_rung_adapters import ShapedBench, check_adapters
from tests.doubles import FakeWorker, weights_of

NUM_CHUNKS = 4
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, search=no_pruning(), executor=ALL, worker={"writes_files": True})


def check_complete(bench):
    """Check the content of every adapter that is kept, and that nothing else is left."""
    check_intact(bench)
    kept = adapters_to_keep(record("toy"), bench.trials().values(), bench.keep_adapters)
    for number in kept:
        folder = bench.store.adapter_dir("toy", number)
        assert {path.name for path in folder.iterdir()} == {"adapter_config.json", WEIGHTS}
        assert (folder / WEIGHTS).read_bytes() == weights_of(number, NUM_CHUNKS)
    assert find_damage(bench.store, record("toy"), keep_adapters=bench.keep_adapters) == []
    assert not bench.store.paths.incoming("toy").exists()


def test_the_store_takes_them_over(bench):
    bench.run(on_change=lambda: left(bench) and pytest.fail(f"{left(bench)} is left"))
    assert bench.store.adapters("toy") == set(range(6))
    check_complete(bench)


def test_those_that_are_not_kept_do_not_pile_up(bench):
    bench.keep_adapters = 1
    bench.run(on_change=lambda: left(bench) and pytest.fail(f"{left(bench)} is left"))
    assert len(bench.store.adapters("toy")) < 6
    check_complete(bench)


@pytest.mark.parametrize("method", ["write_adapter", "write_rung_adapter", "write_trial", "drop_files"])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_kill_after_any_write_leaves_whole_ones(tmp_path, monkeypatch, method, number):
    bench = ShapedBench(tmp_path, num_trials=3, search=no_pruning(), executor=ALL, worker={"writes_files": True})
    with monkeypatch.context() as patch:
        kill_at_write(patch, method, number)
        with suppress(Killed):
            bench.run()
    for trial in bench.trials().values():
        if trial.state is TrialState.COMPLETE:
            folder = bench.store.adapter_dir("toy", trial.spec.number)
            assert (folder / WEIGHTS).read_bytes() == weights_of(trial.spec.number, NUM_CHUNKS)
    bench.run()
    check_adapters(bench)
    check_complete(bench)


@pytest.mark.parametrize("replies", [5, 6, 7, 9])
def test_a_killed_session_continues_and_completes_them(bench, replies):
    with pytest.raises(Killed):
        bench.run(replies=replies)
    bench.run()
    check_complete(bench)


class Losing(FakeWorker):
    """Loses a file of an adapter once, after it was written."""

    what, number, is_lost = "", 0, False

    def answer(self, request):
        reply = super().answer(request)
        sent = getattr(reply, Losing.what, {}) if isinstance(reply, ChunkReport) else {}
        if Losing.number in sent and not Losing.is_lost:
            sent[Losing.number][WEIGHTS].path.unlink()
            Losing.is_lost = True
        return reply


@pytest.mark.parametrize("what", ["adapters", "rung_adapters"])
def test_one_that_is_gone_costs_its_trial_chunks_but_not_the_sweep(bench, monkeypatch, caplog, what):
    monkeypatch.setattr(Losing, "what", what)
    monkeypatch.setattr(Losing, "number", 2)
    monkeypatch.setattr(Losing, "is_lost", False)
    bench._make_worker = lambda index: Losing(events=bench.events, index=index, **bench.worker)
    bench.run()
    assert Losing.is_lost
    trial = bench.trials()[2]
    if what == "adapters":
        assert (trial.failure.kind, trial.num_retries) == (FailureKind.CHECKPOINT, 1)
        assert f"{WEIGHTS}, which the worker wrote, is not there any more" in trial.failure.message
    else:
        assert f"toy, trial 2: {WEIGHTS} is not there, so this rung has no adapter" in caplog.text
        assert trial.failure is None
    assert bench.states() == [TrialState.COMPLETE] * 6
    check_complete(bench)


def test_a_worker_that_scores_one_reads_the_file(bench):
    bench.run()
    path = bench.store.adapter_dir("toy", 0) / WEIGHTS
    size = path.stat().st_size
    files = bench.store.read_adapter("toy", 0, file_bytes=size)
    assert files == {
        "adapter_config.json": b"{}",
        WEIGHTS: CheckpointFile(path=path, sha256=file_checksum(path), num_bytes=size),
    }
    assert bench.store.read_adapter("toy", 0, file_bytes=size + 1)[WEIGHTS] == path.read_bytes()

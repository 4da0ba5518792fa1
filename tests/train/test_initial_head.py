"""A head from a probe: on the exact inputs of the head, once a study, and no part of other trials."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sweeper.train.batches import EvaluationBatches
from sweeper.train.initial_head import head_values, initial_head
from sweeper.train.lane import Lane
from sweeper.train.probe import fit_probe
from tests.data.test_rows import flip, halve, zero
from tests.train.tiny import CPU, NUM_LABELS, PAD, build_pack, examples, outputs, spec, token_rows

ROWS = token_rows(60)
LABELS = [row[0] % NUM_LABELS for row in ROWS]


def batches():
    return EvaluationBatches(examples(ROWS, LABELS), batch_size=16, pad_token_id=PAD, device=CPU)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_the_head_computes_the_probes_logits(kind):
    """If features were not the head's exact inputs (another token, another layer), logits would differ."""
    pack, trial = build_pack(kind), spec()
    start = Lane.start(trial, pack.shape, CPU)
    features = pack.features(start, batches())
    last = pack.shape.head[-1]
    assert features.head_inputs.shape == (60, last.num_in)
    probe = fit_probe(features.head_inputs, torch.tensor(LABELS), NUM_LABELS, has_bias=last.has_bias)
    lane = Lane.start(trial, pack.shape, CPU, head=head_values(probe, last))
    expected = features.head_inputs @ probe.weight.T + probe.bias
    torch.testing.assert_close(pack.predict([lane], batches(), outputs)[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(lane.parameters[: lane.layout.size_lora], start.parameters[: lane.layout.size_lora])


def test_features_are_those_of_the_frozen_model():
    pack = build_pack("bert")
    features = pack.features(Lane.start(spec(), pack.shape, CPU), batches())
    other = pack.features(Lane.start(spec(seed=7, **{"lora.r": 2}), pack.shape, CPU), batches())
    torch.testing.assert_close(features.pooled, other.pooled)
    torch.testing.assert_close(features.head_inputs, other.head_inputs)
    assert not torch.allclose(F.normalize(features.pooled), F.normalize(features.head_inputs))


def test_it_is_fitted_once(tmp_path):
    fitted = []

    def fit():
        fitted.append(1)
        return torch.tensor([1.0, 2.0])

    for _ in range(2):
        assert initial_head(tmp_path, ["rows", 1], fit).tolist() == [1.0, 2.0]
    assert len(fitted) == 1
    initial_head(tmp_path, ["rows", 2], fit)
    assert len(fitted) == 2


@pytest.mark.parametrize("damage", [flip, halve, zero])
def test_a_damaged_file_is_moved_aside_and_fitted_again(tmp_path, damage):
    def fit():
        return torch.tensor([1.0, 2.0])

    initial_head(tmp_path, "rows", fit)
    (path,) = (tmp_path / "heads").glob("*.safetensors")
    damage(path)
    assert initial_head(tmp_path, "rows", fit).tolist() == [1.0, 2.0]
    assert initial_head(tmp_path, "rows", lambda: pytest.fail("fitted again")).tolist() == [1.0, 2.0]
    assert len(list(path.parent.glob("*.damaged-*"))) == 1


def test_other_values_in_an_intact_file_are_noticed(tmp_path):
    initial_head(tmp_path, "rows", lambda: torch.tensor([1.0, 2.0]))
    (path,) = (tmp_path / "heads").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    assert initial_head(tmp_path, "rows", lambda: torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]

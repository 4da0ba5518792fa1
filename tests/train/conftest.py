"""Fixtures of the training engine: one thread, tiny models."""

from __future__ import annotations

import pytest
import torch

from tests.train.tiny import Data, build_pack

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    return Data()


@pytest.fixture(scope="session")
def pack():
    """A pack on a tiny BERT; it holds nothing between calls."""
    return build_pack()

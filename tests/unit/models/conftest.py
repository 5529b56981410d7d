"""Fixtures of the model tests: one thread, and the big filled model built once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from official_fill import filled_tpavi

from avs.models.tpavi import TpaviSegmenter


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share cores; numbers do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def filled_pvt() -> TpaviSegmenter:
    """The official S4 / MS3 PVT model, weights by formula. Tests must leave it as it is."""
    return filled_tpavi("avs_s4_pvt")

"""Small networks gain nothing from threads, and lose much when tests run beside other work."""

import sys
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def no_rank_is_left() -> Iterator[None]:
    yield
    if ranks := sys.modules.get("tests.model.engine.ranks"):
        ranks.end_kept()

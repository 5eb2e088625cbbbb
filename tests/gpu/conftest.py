"""Skips every test in here where torch sees no GPU, and says why."""

import pytest
import torch

from tests.needs import check_need

REASON = (
    "" if torch.cuda.is_available() else "torch sees no GPU here; on a machine with one: bash tests/gpu/run.sh"
)  # fmt: skip


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    check_need("gpu", REASON)
    return torch.device("cuda", 0)

"""Promise 1: the same run on any back-end and any number of ranks (bounds of the design).

A part of the table that `bash launch/parity.sh` measures.
"""

import pytest

from tests.parity.kinds import BOUNDS, KINDS, STEPS, fp16_runs
from tests.parity.measure import Parity
from tests.ranks.run_verb import largest_difference, read_losses, read_weights
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

TESTED = [kind for kind in KINDS if kind.cut and (kind.precision != "fp16" or fp16_runs())]


@pytest.fixture(scope="module")
def parity(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    folder = tmp_path_factory.mktemp("parity")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    return Parity(runs.write, folder, TESTED)


@pytest.mark.parametrize(
    ("backend", "world_size"),
    [
        ("ddp", 2), ("ddp", 3), ("ddp", 4), ("zero0", 2), ("zero1", 2), ("zero2", 2), ("zero2_offload", 2),
        ("zero3", 2), ("fsdp2", 2), ("fsdp2", 3),
    ],
)  # fmt: skip
def test_losses_norms_and_parameters_are_those_of_one_process(parity, backend, world_size):
    differences = parity.measure(backend, world_size)
    assert len(differences) >= 2
    beyond = {kind.name: found for kind, found in differences.items() if not found.is_within(kind)}
    assert not beyond


def test_clipping_was_active(parity):
    # The two differ in nothing else; without a difference the test above would prove nothing about it.
    plain, clipped = (
        next(folder for kind, folder in parity.references.items() if (kind.precision, kind.clipped) == ("fp32", on))
        for on in (False, True)
    )
    assert sum(norm > 0.1 for norm in read_losses(clipped, "grad_norm")) >= STEPS // 2
    assert largest_difference(read_weights(plain), read_weights(clipped)) > 10 * BOUNDS["fp32"].parameter

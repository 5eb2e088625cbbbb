"""Promise 1: the same run on any back-end and any number of ranks (bounds of the design)."""

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

LOSS_BOUND, PARAMETER_BOUND, FP64_BOUND = 1e-5, 1e-6, 1e-12
STEPS = 20

# 13 rows a step and a multiple of 1: the number of micro-batches differs from step to step and is
# seldom a multiple of the ranks, so that spare micro-batches occur.
PLAIN = {"train": {"clip_norm": None}}
CLIPPED = {"train": {"clip_norm": 0.1, "token_budget": 250, "head_learning_rate": 4e-5}}
FP64 = {"train": {"clip_norm": 0.5}, "model": {"weight_dtype": "fp64"}}


def train(write_run, name, backend, world_size, settings):
    """Train 20 steps and return (losses, weights)."""
    run_yaml, run_dir = write_run(name, **settings)
    check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
    losses = read_losses(run_dir)
    assert len(losses) == STEPS
    return losses, read_weights(run_dir)


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture
def reference(references, write_run):
    """Return a function that gives one process's result for some settings, computed once."""

    def get(kind, settings):
        if kind not in references:
            references[kind] = train(write_run, f"single_{kind}", "single", 1, settings)
        return references[kind]

    return get


@pytest.mark.parametrize(
    ("backend", "world_size"), [("ddp", 2), ("ddp", 3), ("ddp", 4), ("zero1", 2), ("zero2", 2), ("zero3", 2)]
)
def test_fp32_losses_and_parameters_are_those_of_one_process(write_run, reference, backend, world_size):
    losses, weights = reference("plain", PLAIN)
    found_losses, found_weights = train(write_run, f"{backend}_{world_size}", backend, world_size, PLAIN)
    assert largest_loss_difference(losses, found_losses) <= LOSS_BOUND
    assert largest_difference(weights, found_weights) <= PARAMETER_BOUND


@pytest.mark.parametrize(("backend", "world_size"), [("ddp", 3), ("zero2", 2), ("zero3", 2)])
def test_clipping_and_a_head_rate_are_the_same_too(write_run, reference, backend, world_size):
    losses, weights = reference("clipped", CLIPPED)
    found_losses, found_weights = train(write_run, f"{backend}_{world_size}", backend, world_size, CLIPPED)
    assert largest_loss_difference(losses, found_losses) <= LOSS_BOUND
    assert largest_difference(weights, found_weights) <= PARAMETER_BOUND


def test_clipping_changes_the_run(reference):
    # Otherwise the test above would prove nothing.
    plain, clipped = reference("plain", PLAIN), reference("clipped", CLIPPED)
    assert largest_difference(plain[1], clipped[1]) > 10 * PARAMETER_BOUND


@pytest.mark.parametrize("world_size", [2, 3])
def test_in_float64_a_wrong_normalisation_could_not_hide(write_run, reference, world_size):
    losses, weights = reference("fp64", FP64)
    found_losses, found_weights = train(write_run, f"ddp64_{world_size}", "ddp", world_size, FP64)
    assert largest_loss_difference(losses, found_losses) <= FP64_BOUND
    assert largest_difference(weights, found_weights) <= FP64_BOUND

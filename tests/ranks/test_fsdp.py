"""runtime/fsdp.py in float64, where nothing can hide, on models that are hard to share among ranks."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks

pytestmark = pytest.mark.ranks
SCRIPT = Path(__file__).parent / "fsdp_ranks.py"
BOUND = 1e-12
# On 4 ranks the last one has nothing of a bias with 3 values.
RUNS = {"plain": 4, "tied": 3, "repeated": 2, "frozen": 2}
NUM_LAYERS_APART = {"plain": 2, "tied": 0, "repeated": 1, "frozen": 2}


@pytest.fixture(scope="module")
def figures_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that gives the figures of every rank, from one launch for each kind of model."""
    found: dict[str, list[dict[str, Any]]] = {}

    def run(kind: str) -> list[dict[str, Any]]:
        if kind not in found:
            out = tmp_path_factory.mktemp(kind)
            check_ranks_succeeded(run_ranks(SCRIPT, RUNS[kind], ["--kind", kind, "--out", str(out)]))
            found[kind] = [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(RUNS[kind])]
        return found[kind]

    return run


@pytest.mark.parametrize("kind", RUNS)
def test_it_trains_as_one_plain_process_does_whatever_the_layers_share(figures_of: Any, kind: str) -> None:
    for rank in figures_of(kind):
        assert rank["loss_difference"] <= BOUND
        assert rank["norm_difference"] <= BOUND
        assert rank["parameter_difference"] <= BOUND
        assert 0 < rank["num_clipped"] < rank["num_steps"]


@pytest.mark.parametrize("kind", RUNS)
def test_layers_are_gathered_one_by_one_unless_they_share_weights(figures_of: Any, kind: str) -> None:
    for rank in figures_of(kind):
        assert rank["describe"]["layers_apart"] == NUM_LAYERS_APART[kind]
        assert rank["describe"]["weight_dtype"] == "torch.float64"


@pytest.mark.parametrize("kind", RUNS)
def test_gradients_are_exchanged_after_the_last_micro_batch_alone(figures_of: Any, kind: str) -> None:
    for rank in figures_of(kind):
        rounds = -(-rank["num_micro_batches"] // RUNS[kind])
        assert rounds > 1
        assert rank["num_micro_batches"] % RUNS[kind] != 0, "some ranks run a spare one"
        assert rank["exchanged"] == [0] * (rounds - 1) + [rank["num_trained"]]


def test_a_parameter_that_takes_no_part_is_an_error_on_every_rank(figures_of: Any) -> None:
    for rank in figures_of("plain"):
        assert "2 of 43 parameters took no part in the step (first: spare.weight)" in rank["left_out"]

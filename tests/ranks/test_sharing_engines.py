"""runtime/zero.py, runtime/fsdp.py: what shares a model trains as one plain process does, and goes on bit for bit.

One launch gives the figures of many tests, because it takes some ten seconds.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks

pytestmark = pytest.mark.ranks
SCRIPT = Path(__file__).parent / "sharing_engine_ranks.py"
BACKENDS = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2")
BUILD_TIMEOUT = 280.0  # DeepSpeed compiles its CPU parts where the cache of torch extensions is empty
needs_fp16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has no fp16 arithmetic (avx512_fp16)"
)
RUNS = [
    *((backend, "fp32") for backend in BACKENDS),
    ("zero3", "bf16"),
    ("fsdp2", "bf16"),
    pytest.param("zero0", "fp16", marks=needs_fp16),
    pytest.param("zero1", "fp16", marks=needs_fp16),
    pytest.param("zero3", "fp16", marks=needs_fp16),
    pytest.param("fsdp2", "fp16", marks=needs_fp16),
]
FP16_RUNS = RUNS[-4:]
# (loss, parameter): fp32 is the bound of the project; the fp16 engine also rounds weights and norms, which plain
# autocast does not, so that AdamW moves parameters with gradients near zero the other way.
BOUNDS = {"fp32": (1e-5, 1e-6), "bf16": (1e-5, 1e-6), "fp16": (1e-4, 5e-4)}


class Runs:
    """Every launch of this file, made when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.figures = functools.cache(self._run)

    def folder(self, backend: str, precision: str) -> Path:
        return self._folder / f"{backend}_{precision}"

    def _run(self, backend: str, precision: str) -> list[dict[str, Any]]:
        clip = [] if precision == "bf16" else ["--clip", "0.5"]
        return launch(backend, 2, self.folder(backend, precision), ["--precision", precision, *clip])


def launch(backend: str, world_size: int, out: Path, args: list[str]) -> list[dict[str, Any]]:
    out.mkdir()
    results = run_ranks(SCRIPT, world_size, ["--backend", backend, "--out", str(out), *args], timeout=BUILD_TIMEOUT)
    check_ranks_succeeded(results)
    return [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("sharing"))


@pytest.mark.parametrize(("backend", "precision"), RUNS)
def test_it_trains_as_one_plain_process_does(runs: Runs, backend: str, precision: str) -> None:
    loss_bound, parameter_bound = BOUNDS[precision]
    for found in (rank["parity"] for rank in runs.figures(backend, precision)):
        assert found["initial_difference"] == 0.0
        assert found["loss_difference"] <= loss_bound
        assert found["parameter_difference"] <= parameter_bound
        assert found["norm_difference"] <= (1e-3 if precision == "fp16" else 1e-5)
        assert found["parameter_move"] > 100 * parameter_bound or precision == "fp16"
        assert found["steps"] == [20]
        assert (found["num_clipped"] > 0) == (precision != "bf16")


@pytest.mark.parametrize(("backend", "precision"), RUNS)
def test_a_gradient_that_is_not_finite_on_one_rank_changes_nothing_on_any(
    runs: Runs, backend: str, precision: str
) -> None:
    for rank in runs.figures(backend, precision):
        assert rank["parity"]["skipped"] is True
        assert rank["parity"]["changed_by_skip"] == []


@pytest.mark.parametrize(("backend", "precision"), RUNS)
def test_a_new_engine_goes_on_bit_for_bit_from_what_was_read(runs: Runs, backend: str, precision: str) -> None:
    for rank in runs.figures(backend, precision):
        assert rank["resume"] == {"differing_after_write": [], "differing_after_resume": []}


@pytest.mark.parametrize(("backend", "precision"), RUNS)
def test_it_describes_what_was_asked_for(runs: Runs, backend: str, precision: str) -> None:
    asked = {"backend": backend, "precision": precision, "world_size": 2, "weight_dtype": "torch.float32"}
    for rank in runs.figures(backend, precision):
        assert asked.items() <= rank["describe"].items()


@pytest.mark.parametrize(
    ("source", "backend", "world_size"),
    [
        ("zero3", "zero1", 1),
        ("zero2_offload", "zero3", 3),
        ("fsdp2", "zero0", 2),
        ("zero0", "zero2_offload", 3),
        ("zero3", "fsdp2", 4),
        ("fsdp2", "fsdp2", 1),
    ],
)
def test_another_backend_on_another_number_of_ranks_goes_on_from_what_was_read(
    runs: Runs, tmp_path: Path, source: str, backend: str, world_size: int
) -> None:
    runs.figures(source, "fp32")
    args = ["--clip", "0.5", "--source", str(runs.folder(source, "fp32"))]
    for rank in launch(backend, world_size, tmp_path / "out", args):
        assert rank["other_world"]["differing_after_write"] == []
        assert rank["other_world"]["parameter_difference"] <= 1e-6


@pytest.mark.parametrize(("backend", "precision"), FP16_RUNS)
def test_the_fp16_scale_halves_on_overflow_and_doubles_after_clean_steps(
    runs: Runs, backend: str, precision: str
) -> None:
    ranks = [rank["loss_scale"] for rank in runs.figures(backend, precision)]
    assert ranks[0] == ranks[1]
    steps, interval = ranks[0]["history"], ranks[0]["growth_interval"]
    for scale, clean, skipped, scale_after, clean_after in steps:
        grows = not skipped and clean + 1 == interval
        assert scale_after == scale * (0.5 if skipped else 2.0 if grows else 1.0)
        assert clean_after == (0 if skipped or grows else clean + 1)
    assert {"skips": any(step[2] for step in steps), "grows": any(step[3] > step[0] for step in steps)} == {
        "skips": True,
        "grows": True,
    }


@pytest.mark.parametrize(("backend", "precision"), FP16_RUNS)
def test_a_step_in_which_the_fp16_scale_grows_uses_the_whole_gradient(runs: Runs, backend: str, precision: str) -> None:
    # DeepSpeed's own scaler divides by the scale of the next step there: 0.17.
    for rank in runs.figures(backend, precision):
        assert rank["loss_scale"]["growing_difference"] < 1e-3


@pytest.mark.parametrize("backend", ["zero3", "fsdp2"])
def test_shared_weights_evaluate_without_an_optimiser(runs: Runs, backend: str) -> None:
    for rank in runs.figures(backend, "fp32"):
        assert rank["inference"]["logit_difference"] <= 1e-6
        assert rank["inference"]["describe"]["backend"] == backend

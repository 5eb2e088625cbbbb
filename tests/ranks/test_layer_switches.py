"""parallel.activation_checkpointing and parallel.compile: what they change, and that they are really on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pref_dist.config.schema import ParallelSection
from pref_dist.errors import ConfigError, ModelError, ParallelError
from pref_dist.models.compiling import compile_layers
from pref_dist.models.recompute import recompute_activations
from pref_dist.runtime.parallel import check_compile
from tests.ranks.accelerate_ranks import Tiny
from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
SCRIPT = Path(__file__).parent / "layer_switch_ranks.py"
# back-end: (ranks, switches); a compilation takes up to a minute, and later launches find much of it in a cache.
LAUNCHES = {
    "single": (1, ["compile"]),
    "ddp": (2, ["recompute", "both"]),
    "zero3": (2, ["recompute"]),
    "fsdp2": (2, ["recompute", "compile"]),
}
LOSS_BOUND, PARAMETER_BOUND = 1e-5, 1e-6
RECOMPUTING = [backend for backend, (_, switches) in LAUNCHES.items() if "recompute" in switches]
COMPILING = [("single", "compile"), ("ddp", "both"), ("fsdp2", "compile")]
Figures = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def figures_of(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Return a function that gives the figures of every rank, from one launch for each back-end."""
    found: dict[str, list[dict[str, Any]]] = {}

    def run(backend: str) -> list[dict[str, Any]]:
        if backend not in found:
            ranks, switches = LAUNCHES[backend]
            out = tmp_path_factory.mktemp(backend)
            args = ["--backend", backend, "--out", str(out), "--switches", *switches]
            check_ranks_succeeded(run_ranks(SCRIPT, ranks, args, timeout=300.0))
            found[backend] = [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(ranks)]
        return found[backend]

    return run


@pytest.mark.parametrize("backend", RECOMPUTING)
def test_recomputed_activations_change_no_bit_although_there_is_dropout(figures_of: Figures, backend: str) -> None:
    for rank in figures_of(backend):
        assert rank["recompute"]["losses"] == rank["plain"]["losses"]
        assert rank["recompute"]["differing"] == []


@pytest.mark.parametrize("backend", RECOMPUTING)
def test_each_layer_computes_twice_where_activations_are_not_kept(figures_of: Figures, backend: str) -> None:
    for rank in figures_of(backend):
        assert rank["recompute"]["calls"] == 2 * rank["plain"]["calls"] > 0


@pytest.mark.parametrize(("backend", "switch"), COMPILING)
def test_compiled_layers_train_as_others_do_although_there_is_dropout(
    figures_of: Figures, backend: str, switch: str
) -> None:
    for rank in figures_of(backend):
        pairs = zip(rank[switch]["losses"], rank["plain"]["losses"], strict=True)
        assert max(abs(compiled - plain) for compiled, plain in pairs) <= LOSS_BOUND
        assert rank[switch]["parameter_difference"] <= PARAMETER_BOUND
        assert rank[switch]["num_graphs"] > 0


@pytest.mark.parametrize("backend", ["single", "fsdp2"])
def test_an_evaluation_is_not_compiled_and_gives_the_same_bits(figures_of: Figures, backend: str) -> None:
    for rank in figures_of(backend):
        assert rank["evaluation"] == {"num_graphs": 0, "difference": 0.0}


@pytest.mark.parametrize("backend", ["zero3", "zero3_offload"])
def test_compiling_is_refused_where_weights_are_gathered_inside_the_layers(backend: Any) -> None:
    with pytest.raises(ParallelError, match=rf"parallel\.compile=true, but parallel\.backend={backend}"):
        check_compile(ParallelSection(compile=True), backend)
    check_compile(ParallelSection(compile=False), backend)


def test_compiling_and_recomputing_together_are_refused_on_fsdp2_alone() -> None:
    both = ParallelSection(compile=True, activation_checkpointing=True)
    with pytest.raises(ParallelError, match=r"parallel\.activation_checkpointing=true do not go together"):
        check_compile(both, "fsdp2")
    check_compile(both, "ddp")


def test_a_model_that_cannot_do_it_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"parallel\.activation_checkpointing=true, but Tiny cannot"):
        recompute_activations(Tiny())
    with pytest.raises(ConfigError, match=r"parallel\.compile=true, but Tiny has no list of layers"):
        compile_layers(Tiny())

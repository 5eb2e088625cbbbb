"""parallel.activation_checkpointing and parallel.compile: what they change, and that they are really on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pref_dist.config.load import with_values
from pref_dist.config.schema import ParallelSection, RunConfig
from pref_dist.errors import ConfigError, ModelError, ParallelError
from pref_dist.models.build import BuiltModel
from pref_dist.models.compiling import compile_layers
from pref_dist.models.layers import list_layers
from pref_dist.models.recompute import recompute_activations
from pref_dist.runtime.parallel import Parallel, start_parallel
from pref_dist.runtime.topology import Topology
from pref_dist.train.assemble import build_engine
from tests.ranks.accelerate_ranks import Tiny
from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks
from tests.ranks.run_verb import launch_env
from tests.ranks.tiny_problem import build_model

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


@pytest.mark.parametrize(
    ("backend", "request_", "message"),
    [
        ("zero3", ParallelSection(compile=True), r"parallel\.compile=true, but parallel\.backend=zero3 gathers"),
        ("zero3_offload", ParallelSection(compile=True), r"parallel\.backend=zero3_offload gathers"),
        (
            "fsdp2",
            ParallelSection(compile=True, activation_checkpointing=True),
            r"parallel\.activation_checkpointing=true do not go together on parallel\.backend=fsdp2",
        ),
    ],
)
def test_compiling_is_refused_at_start_where_it_does_not_work(
    monkeypatch: pytest.MonkeyPatch, backend: str, request_: ParallelSection, message: str
) -> None:
    for name, value in launch_env(backend).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParallelError, match=message):
        start_parallel(request_)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")  # inductor imports it
@pytest.mark.parametrize("is_on", [False, True])
def test_a_run_turns_on_what_its_config_asks_for(is_on: bool) -> None:
    module = build_model(0)
    heads = tuple(name for name, _ in module.named_parameters() if name.startswith("classifier"))
    config = with_values(
        RunConfig(), train__precision="fp32", parallel__compile=is_on, parallel__activation_checkpointing=is_on
    )
    alone = Parallel(Topology("single", 1, 0, 0), torch.device("cpu"))
    build_engine(config, BuiltModel(module, heads, ()), alone)
    for layer in list_layers(module).values():
        assert layer.gradient_checkpointing is is_on
        assert (layer._compiled_call_impl is not None) is is_on


def test_a_model_that_cannot_do_it_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"parallel\.activation_checkpointing=true, but Tiny cannot"):
        recompute_activations(Tiny())
    with pytest.raises(ConfigError, match=r"parallel\.compile=true, but Tiny has no list of layers"):
        compile_layers(Tiny())

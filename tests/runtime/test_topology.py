import json

import pytest

from pref_dist.config.schema import ParallelSection
from pref_dist.errors import ConfigError, ParallelError
from pref_dist.runtime.topology import Topology, check_request, find_topology, settle_topology

TWO_RANKS = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}

# As `accelerate launch` sets it.
FSDP = TWO_RANKS | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"}


def zero_environment(path) -> dict[str, str]:
    return TWO_RANKS | {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}


def test_without_a_launcher_there_is_one_rank():
    assert find_topology({}) == Topology("single", 1, 0, 0)


def test_two_ranks_without_deepspeed_are_ddp():
    assert find_topology(TWO_RANKS) == Topology("ddp", 2, 1, 1)


@pytest.mark.parametrize("name", ["zero0", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_a_deepspeed_file_names_the_back_end(name):
    assert find_topology(zero_environment(f"configs/deepspeed/{name}.json")).backend == name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MASTER_ADDR": "10.0.0.1"}, "would train alone"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "each would train alone"),
        (TWO_RANKS | {"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 tasks"),
        (TWO_RANKS | {"ACCELERATE_MIXED_PRECISION": "fp16"}, r"set train\.precision"),
        (TWO_RANKS | {"ACCELERATE_USE_FSDP": "true"}, "FSDP 1"),
        (FSDP | {"FSDP_VERSION": "1"}, "FSDP_VERSION=1, but parallel.backend=fsdp2 runs with 2"),
        (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS=true"),
        (FSDP | {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}, "FSDP_AUTO_WRAP_POLICY"),
        (TWO_RANKS | {"ACCELERATE_USE_DEEPSPEED": "true"}, "without deepspeed_config_file"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is not a number"),
    ],
)
def test_a_launch_that_would_silently_be_something_else_is_refused(environment, message):
    with pytest.raises(ParallelError, match=message):
        find_topology(environment)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ParallelSection(world_size=4), r"parallel.world_size=4 was asked for, but this process sees 2"),
        (ParallelSection(backend="zero2"), r"parallel.backend=zero2 was asked for, but the launch gives ddp"),
        (ParallelSection(backend="single"), r"parallel.backend=single"),
    ],
)
def test_what_was_not_asked_for_is_refused(request_, message):
    with pytest.raises(ParallelError, match=message):
        check_request(find_topology(TWO_RANKS), request_)


def test_what_was_asked_for_passes():
    check_request(find_topology(TWO_RANKS), ParallelSection(backend="ddp", world_size=2))
    check_request(find_topology(TWO_RANKS), ParallelSection())


def test_fsdp2_is_found_where_accelerate_launched_it():
    assert settle_topology(find_topology(FSDP), ParallelSection()) == Topology("fsdp2", 2, 1, 1)


def test_fsdp2_may_be_asked_for_where_ddp_would_be_found_and_auto_means_ddp_there():
    found = find_topology(TWO_RANKS)
    assert settle_topology(found, ParallelSection(backend="fsdp2", world_size=2)) == Topology("fsdp2", 2, 1, 1)
    assert settle_topology(found, ParallelSection()) == found


@pytest.mark.parametrize(
    ("environment", "asked", "given"), [({}, "fsdp2", "single"), (FSDP, "ddp", "fsdp2"), (FSDP, "zero3", "fsdp2")]
)
def test_fsdp2_is_not_taken_for_anything_else(environment, asked, given):
    with pytest.raises(ParallelError, match=f"parallel.backend={asked} was asked for, but the launch gives {given}"):
        settle_topology(find_topology(environment), ParallelSection(backend=asked))


def test_a_deepspeed_file_may_not_say_what_the_run_config_says(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"gradient_clipping.*train\.clip_norm"):
        find_topology(zero_environment(path))

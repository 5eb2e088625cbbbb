import json

import pytest

from pref_dist.config.schema import ParallelSection
from pref_dist.errors import ConfigError, ParallelError
from pref_dist.runtime.topology import Topology, check_request, find_topology

TWO_RANKS = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}


def zero_environment(path) -> dict[str, str]:
    return TWO_RANKS | {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}


def test_without_a_launcher_there_is_one_rank():
    assert find_topology({}) == Topology("single", 1, 0, 0)


def test_two_ranks_without_deepspeed_are_ddp():
    assert find_topology(TWO_RANKS) == Topology("ddp", 2, 1, 1)


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_a_deepspeed_file_names_the_back_end(name):
    assert find_topology(zero_environment(f"configs/deepspeed/{name}.json")).backend == name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MASTER_ADDR": "10.0.0.1"}, "would train alone"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "each would train alone"),
        (TWO_RANKS | {"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 tasks"),
        (TWO_RANKS | {"ACCELERATE_MIXED_PRECISION": "fp16"}, r"set train\.precision"),
        (TWO_RANKS | {"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
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


def test_a_deepspeed_file_may_not_say_what_the_run_config_says(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"gradient_clipping.*train\.clip_norm"):
        find_topology(zero_environment(path))

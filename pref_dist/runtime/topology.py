"""How the processes were launched, read from the environment, and whether that is what was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pref_dist.config.schema import Backend, ParallelSection
from pref_dist.errors import ParallelError

# What `accelerate launch` hands on of its fsdp_config, with what is done here whatever it says.
FSDP_SETTINGS = {
    "FSDP_VERSION": "2",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
    "FSDP_AUTO_WRAP_POLICY": "none",  # the layers are found without one
}


@dataclass(frozen=True)
class Topology:
    """What the launcher set up. zero_file is the DeepSpeed JSON of a ZeRO launch."""

    backend: Backend
    world_size: int
    rank: int
    local_rank: int
    zero_file: Path | None = None

    @property
    def is_zero(self) -> bool:
        return self.backend.startswith("zero")


def find_topology(environ: Mapping[str, str]) -> Topology:
    """Read torchrun's and Accelerate's variables. Raises ParallelError where they contradict each other."""
    from pref_dist.runtime.zero_config import find_backend

    world_size, rank = read_number(environ, "WORLD_SIZE", 1), read_number(environ, "RANK", 0)
    local_rank = read_number(environ, "LOCAL_RANK", 0)
    check_environment(environ, world_size)
    if is_true(environ, "ACCELERATE_USE_DEEPSPEED"):
        name = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
        if not name:
            raise ParallelError(
                "Accelerate was asked for DeepSpeed without deepspeed_config_file. "
                "Use one of configs/accelerate/zero*.yaml, which name a file under configs/deepspeed/."
            )
        return Topology(find_backend(Path(name)), world_size, rank, local_rank, Path(name))
    if is_true(environ, "ACCELERATE_USE_FSDP"):
        check_fsdp_settings(environ)
        return Topology("fsdp2", world_size, rank, local_rank)
    return Topology("ddp" if world_size > 1 else "single", world_size, rank, local_rank)


def check_environment(environ: Mapping[str, str], world_size: int) -> None:
    """Raise ParallelError for launches that would silently do something else than they say."""
    mixed = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed != "no":
        raise ParallelError(
            f"The launcher sets mixed_precision={mixed}, but precision comes from the run config alone. "
            "Take it out of the Accelerate config and set train.precision."
        )
    if "MASTER_ADDR" in environ and "WORLD_SIZE" not in environ:
        raise ParallelError(
            f"MASTER_ADDR={environ['MASTER_ADDR']} is set, but WORLD_SIZE is not: this process was meant to be one "
            "of several and would train alone. Start it by launch/node.sh, launch/nodes.sh or torchrun."
        )
    tasks = read_number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if world_size < tasks:
        raise ParallelError(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS={tasks}), but this process sees "
            f"{world_size} rank(s): each would train alone. Start the ranks by slurm/train.sbatch."
        )


def check_fsdp_settings(environ: Mapping[str, str]) -> None:
    """Raise ParallelError if Accelerate's fsdp_config asks for what would not be done."""
    if "FSDP_VERSION" not in environ:
        raise ParallelError("Accelerate was asked for FSDP 1. Launch with configs/accelerate/fsdp2.yaml.")
    for name, done in FSDP_SETTINGS.items():
        asked = environ.get(name, done)
        if asked.strip().lower() != done.lower():
            raise ParallelError(
                f"The launcher sets {name}={asked}, but parallel.backend=fsdp2 runs with {done}. Launch with "
                "configs/accelerate/fsdp2.yaml, which leaves all settings to the run config."
            )


def settle_topology(found: Topology, request: ParallelSection) -> Topology:
    """Return what was found, or FSDP2 where it is asked for: its ranks are started as those of DDP are.

    Raises ParallelError if the back-end or the number of ranks is not what the run config asks for.
    """
    if request.backend == "fsdp2" and found.backend == "ddp":
        found = replace(found, backend="fsdp2")
    check_request(found, request)
    return found


def check_request(topology: Topology, request: ParallelSection) -> None:
    """Raise ParallelError if the back-end or the number of ranks is not what the run config asks for."""
    if request.world_size not in ("auto", topology.world_size):
        raise ParallelError(
            f"parallel.world_size={request.world_size} was asked for, but this process sees {topology.world_size} "
            f"rank(s). Were the ranks started by one launcher, for example `bash launch/node.sh ddp "
            f"{request.world_size} train RUN.yaml`? Set parallel.world_size={topology.world_size} if that is meant."
        )
    if request.backend not in ("auto", topology.backend):
        raise ParallelError(
            f"parallel.backend={request.backend} was asked for, but the launch gives {topology.backend} on "
            f"{topology.world_size} rank(s). Launch with configs/accelerate/{request.backend}.yaml, or set "
            f"parallel.backend={topology.backend}."
        )


def is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


def read_number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise ParallelError(f"The environment variable {name}={text!r} is not a number.") from error

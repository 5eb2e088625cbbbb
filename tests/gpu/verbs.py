"""Runs a verb on GPUs, as users do, and reads what it left."""

import os
from collections.abc import Sequence

import numpy as np

from tests.ranks.launch_ranks import RankResult, RunningRanks, check_ranks_succeeded, start_ranks
from tests.ranks.run_verb import launch_env

TIMEOUT_SECONDS = 300.0
# torch's own condition for kernels that give the same bits each time.
VISIBLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def start_on_gpus(args: Sequence[object], backend: str = "single", world_size: int = 1) -> RunningRanks:
    """Start `python -m pref_dist ARGS` on so many GPUs."""
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}"]
    env = launch_env(backend) | VISIBLE | {"CUDA_VISIBLE_DEVICES": os.environ["CUDA_VISIBLE_DEVICES"]}
    return start_ranks("pref_dist", world_size, [*map(str, args), *asked], env)


def run_on_gpus(args: Sequence[object], backend: str = "single", world_size: int = 1) -> list[RankResult]:
    """Run it to its end, which must be a good one."""
    with start_on_gpus(args, backend, world_size) as ranks:
        results = ranks.wait(TIMEOUT_SECONDS)
    check_ranks_succeeded(results)
    return results


def largest_gap(one: Sequence[float], other: Sequence[float]) -> float:
    assert len(one) == len(other)
    return float(np.abs(np.array(one) - np.array(other)).max())

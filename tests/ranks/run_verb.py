"""Run a verb of the program on several real ranks, and read what it left."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.ranks.launch_ranks import REPO_ROOT, RankResult, run_ranks


def launch_env(backend: str) -> dict[str, str]:
    """What `accelerate launch` sets for a back-end, besides the ranks themselves."""
    if backend == "fsdp2":
        return {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    if not backend.startswith("zero"):
        return {}
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(REPO_ROOT / "configs" / "deepspeed" / f"{backend}.json"),
    }


def run_verb(backend: str, world_size: int, args: Sequence[str], timeout: float = 240.0) -> list[RankResult]:
    """Run `python -m pref_dist ARGS` on every rank, asserting the back-end and the number of ranks."""
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}"]
    return run_ranks("pref_dist", world_size, [*args, *asked], launch_env(backend), timeout)


def read_losses(run_dir: Path, key: str = "loss") -> list[float]:
    """The training loss (or another figure) of every step, in order."""
    return [step[key] for step in read_steps(run_dir)]


def read_steps(run_dir: Path) -> list[dict[str, Any]]:
    """The line of every step, in the order of metrics.jsonl."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def read_weights(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """The parameters of a checkpoint, by default the newest."""
    folders = sorted((run_dir / "checkpoints").glob("step_*"))
    folder = folders[-1] if step is None else run_dir / "checkpoints" / f"step_{step:06d}"
    return {
        name: value for file in sorted(folder.glob("model-*.safetensors")) for name, value in load_file(file).items()
    }


def largest_difference(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def largest_loss_difference(left: list[float], right: list[float]) -> float:
    assert len(left) == len(right)
    return max(abs(one - other) for one, other in zip(left, right, strict=True))

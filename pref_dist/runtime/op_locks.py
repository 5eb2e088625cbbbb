"""Where DeepSpeed's operators are compiled, and whether a builder left a lock there, for which torch waits for ever."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.cpp_extension import get_default_build_root

from pref_dist.errors import ParallelError

# The operators that the back-ends need on each kind of device; offloaded optimisers compute on the CPU.
EVERY_RUN_ON_CPU = "deepspeed_shm_comm"
OFFLOAD = "cpu_adam"

# A builder needs one to two minutes. What no process of this machine holds may be another machine's, unless it is old.
LEFT_SECONDS = 900.0
POLL_SECONDS = 0.5


def find_op_root() -> Path:
    """Return the folder in which torch keeps what it compiles, as torch.utils.cpp_extension finds it."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named is not None:
        return Path(named)
    version = torch.version.hip or torch.version.cuda
    device = f"{'rocm' if torch.version.hip else 'cu'}{version.replace('.', '')}" if version else "cpu"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{device}"


def list_needed_ops(is_offloaded: bool) -> list[str]:
    """Return the operators that a ZeRO back-end needs on this machine."""
    everywhere = [] if torch.cuda.is_available() else [EVERY_RUN_ON_CPU]
    return [*everywhere, *([OFFLOAD] if is_offloaded else [])]


def find_holder(path: Path) -> int | None:
    """Return a process of this machine that has a file open, as a builder has its lock."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.path.samefile(entry, path):
                return int(entry.parts[2])
    return None


def wait_for_builders(names: Sequence[str]) -> None:
    """Wait until nobody builds these operators. Raises ParallelError for a lock that its builder has left."""
    for name in names:
        lock = find_op_root() / name / "lock"
        while (age := find_age(lock)) is not None:
            if age > LEFT_SECONDS and find_holder(lock) is None:
                raise ParallelError(
                    f"{lock} was left {age / 60:.0f} minutes ago by a process that compiled DeepSpeed's operator "
                    f"{name} and was killed: a start would wait for it for ever. If no other machine builds it now: "
                    f"rm {lock}"
                )
            time.sleep(POLL_SECONDS)


def find_age(path: Path) -> float | None:
    """Return how many seconds ago a file was written, None if it is not there."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return None

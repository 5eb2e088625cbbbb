"""Limits of the shell (ulimit) that end a training in the middle."""

import resource
from collections.abc import Iterator
from pathlib import Path

from pref_dist.doctor.finding import Finding, Question
from pref_dist.files import render_bytes

FEW_FILES = 1024
TOO_FEW_FILES = 128
# A checkpoint's largest files hold the two moments of 64 MiB of values, or of one large parameter.
SMALLEST_FILE_LIMIT = 1 << 28
INFINIBAND = Path("/sys/class/infiniband")


def check_open_files(question: Question) -> Iterator[Finding]:
    """Ranks, their connections and memory-mapped shards each need open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = f"at most {render_limit(soft)} (can be raised to {render_limit(hard)})"
    remedy = f"ulimit -n {min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536} before the start."
    if 0 <= soft < TOO_FEW_FILES:
        yield Finding("open files", "error", seen, remedy)
    elif 0 <= soft < FEW_FILES:
        yield Finding("open files", "warning", seen, remedy)
    else:
        yield Finding("open files", "ok", seen)


def check_file_size(question: Question) -> Iterator[Finding]:
    """A limit on the size of a file ends a checkpoint in the middle."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY:
        yield Finding("file size", "ok", "no limit")
        return
    state = "error" if soft < SMALLEST_FILE_LIMIT else "warning"
    yield Finding(
        "file size", "error" if state == "error" else "warning", f"a file may have {render_bytes(soft)}",
        "ulimit -f unlimited before the start: files of a checkpoint and of the cache are larger.",
    )  # fmt: skip


def check_locked_memory(question: Question) -> Iterator[Finding]:
    """NCCL registers memory with an InfiniBand card, which counts as locked."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    has_cards = INFINIBAND.is_dir() and any(INFINIBAND.iterdir())
    seen = "no limit" if soft == resource.RLIM_INFINITY else f"at most {render_bytes(soft)}"
    if has_cards and soft != resource.RLIM_INFINITY:
        yield Finding(
            "locked memory", "warning", f"{seen}, and there is InfiniBand here",
            "ulimit -l unlimited (Slurm: PropagateResourceLimitsExcept=MEMLOCK), else NCCL fails to register memory.",
        )  # fmt: skip
    else:
        yield Finding("locked memory", "ok", seen + ("" if has_cards else "; no InfiniBand here, which would need it"))


def render_limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"

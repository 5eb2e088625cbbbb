"""Cores, threads and memory that this process really gets: under Slurm or in a container fewer than there are."""

import os
from collections.abc import Iterator
from contextlib import suppress

from pref_dist.data.workers import count_cores
from pref_dist.doctor.finding import Finding, Question
from pref_dist.files import render_bytes
from pref_dist.runtime.host_memory import CGROUPS, find_cgroup_file, read_limit, read_memory

SMALLEST_FREE_BYTES = 1 << 30


def check_cores(question: Question) -> Iterator[Finding]:
    """Compare the machine's cores with those that this process may use, by affinity and by quota."""
    total, allowed, quota = os.cpu_count() or 1, count_cores(), read_quota()
    seen = f"{allowed} of the machine's {total} cores are allowed" + ("" if quota is None else f", quota {quota:g}")
    if quota is not None and quota < allowed:
        yield Finding(
            "CPU cores", "warning", f"{seen}: threads on all of them would be held back",
            f"Give the container or job {allowed} cores, or export OMP_NUM_THREADS={max(1, int(quota))}.",
        )  # fmt: skip
    else:
        yield Finding("CPU cores", "ok", seen)


def check_threads(question: Question) -> Iterator[Finding]:
    """Compare OMP_NUM_THREADS times the ranks of this machine with the cores."""
    cores, ranks = count_usable_cores(), count_local_ranks(question)
    text = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores // ranks)
    seen = f"OMP_NUM_THREADS={text or 'not set'}, {ranks} rank(s) here, {cores} cores"
    threads = text.split(",")[0]
    if text and not (threads.isdigit() and int(threads) > 0):
        yield Finding("threads", "warning", f"{seen}: no number", f"export OMP_NUM_THREADS={share}.")
    elif text and int(threads) * ranks > max(cores, ranks):
        yield Finding(
            "threads", "warning", f"{seen}: more threads than cores, which then wait for each other",
            f"export OMP_NUM_THREADS={share}.",
        )  # fmt: skip
    elif not text and ranks > 1:
        yield Finding("threads", "ok", f"{seen}; the launchers set {share}")
    else:
        yield Finding("threads", "ok", seen)


def check_memory(question: Question) -> Iterator[Finding]:
    """Say how much of the host's memory is free, and what the cgroup leaves of it."""
    total, free = read_memory()
    limit = read_limit()
    seen = f"{render_bytes(free)} of {render_bytes(total)} free"
    if limit is not None:
        free = min(free, limit[0] - limit[1])
        seen += f"; this job or container may take {render_bytes(limit[0])}, has {render_bytes(max(0, free))} left"
    if free < SMALLEST_FREE_BYTES:
        yield Finding("memory", "warning", seen, "Ask for more memory (sbatch --mem), or end what holds it.")
    else:
        yield Finding("memory", "ok", seen)


def count_usable_cores() -> int:
    quota = read_quota()
    return count_cores() if quota is None else max(1, min(count_cores(), int(quota)))


def count_local_ranks(question: Question) -> int:
    """Return the ranks of this machine: as launched, else as asked for, else 1."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "")
    if launched.isdigit() and int(launched) > 0:
        return int(launched)
    asked = question.config.parallel.world_size if question.config is not None else "auto"
    return 1 if asked == "auto" else asked


def read_quota() -> float | None:
    """Return the cores of CPU time that the cgroup allows (cpu.max, or v1's cfs quota); None: no limit."""
    with suppress(OSError, ValueError):
        quota, period = find_cgroup_file("cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (CGROUPS / "cpu/cpu.cfs_quota_us").read_text(encoding="utf-8")
        period = (CGROUPS / "cpu/cpu.cfs_period_us").read_text(encoding="utf-8")
        return None if int(quota) <= 0 else int(quota) / int(period)
    return None

"""`doctor --ranks`: who sees whom, over which links, at what pace, on which folders; every rank calls it."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median

from pref_dist.config.schema import RunConfig
from pref_dist.doctor.checks import OF_EACH_MACHINE, WITH_RUN_CONFIG
from pref_dist.doctor.children import run_groups
from pref_dist.doctor.disk_probe import find_existing
from pref_dist.doctor.finding import Finding, Question, State
from pref_dist.doctor.versions import collect_versions
from pref_dist.errors import ParallelError
from pref_dist.files import render_bytes
from pref_dist.run_dir import RunDir
from pref_dist.runtime.heartbeat import Heart
from pref_dist.runtime.links import measure_clocks, measure_paces, time_all_reduce
from pref_dist.runtime.parallel import Parallel, start_parallel

CPU_SIZES = (4, 1 << 16, 1 << 20, 1 << 26)
GPU_SIZES = (4, 1 << 16, 1 << 20, 1 << 26, 1 << 28)
SECONDS_A_SIZE = 0.3
SECONDS_A_ROUND = 0.2
SLOW_SHARE = 0.8  # of the middle rank's pace
CLOCK_SECONDS = 2.0
SEE_SECONDS = 5.0  # a file server may show a new file late
MACHINE_SECONDS = 18.0
POLL_SECONDS = 0.05
MEETING = ".doctor"
LEFT_OVER_SECONDS = 3600.0
# What it means if not all ranks see the same folder, and what to do.
SIGHTS: dict[str, tuple[State, str]] = {
    "cache": (
        "warning",
        "Each machine then tokenises for itself; point data.cache_dir or PREF_DIST_CACHE_DIR at a shared disk.",
    ),
    "run": ("error", "Put run.dir on a disk that all machines share, at one path."),
}


def examine_ranks(
    question: Question, config: RunConfig, show: Callable[[Sequence[Finding]], None]
) -> Sequence[Finding]:
    """Connect the ranks as a training does, look at what lies between them, and return it, the same on every rank.

    Rank 0 shows it before any rank leaves: the launcher would end rank 0 as soon as another has failed.
    Raises ParallelError if they are not those that were asked for, or one does not come in
    parallel.timeout_seconds; it names the rank where the folder of the signs of life is one that all see.
    """
    parallel = start_parallel(config.parallel)
    own = examine_own_machine(parallel, question)
    folders = meet_in_folders(parallel, question, config, own)
    signs = RunDir(folders["cache"] or Path(tempfile.gettempdir()) / f"{MEETING}-{os.getppid()}")
    timeout_seconds = config.parallel.timeout_seconds
    with Heart(signs, parallel.rank, parallel.world_size, parallel.whereabouts, timeout_seconds) as heart:
        heart.start()
        findings = list(look_around(parallel, own, folders, heart))
        if parallel.is_main:
            show(findings)
        parallel.gather(None)
    # Not after an error: the other ranks look there for whom to blame.
    if parallel.is_main:
        for folder in (signs.root, *filter(None, folders.values())):
            shutil.rmtree(folder, ignore_errors=True)
    parallel.stop()
    return findings


def examine_own_machine(parallel: Parallel, question: Question) -> list[Finding]:
    """Return what the first rank of each machine finds there, where nothing that hangs stops it; collective."""
    groups = (*OF_EACH_MACHINE, *(WITH_RUN_CONFIG if question.run_yaml is not None else ()))
    if parallel.topology.local_rank != 0:
        groups = ()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(run_groups, groups, question, MACHINE_SECONDS)
        # Again and again: in one collective the others might wait for longer than parallel.timeout_seconds.
        while parallel.sum(not found.done())[0]:
            time.sleep(POLL_SECONDS)
        return found.result()


def look_around(
    parallel: Parallel, own: list[Finding], folders: dict[str, Path | None], heart: Heart
) -> Iterator[Finding]:
    """Yield all findings, the same ones on every rank; collective."""
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("the machines' own checks", lambda: join_machines(parallel, own)),
        ("who sees whom", lambda: list_ranks(parallel)),
        ("the versions", lambda: compare_versions(parallel)),
        ("the clocks", lambda: compare_clocks(parallel)),
        ("the folders", lambda: compare_folders(parallel, folders)),
        ("the links", lambda: measure_links(parallel)),
        ("the paces", lambda: compare_paces(parallel)),
    )
    with heart.watching():
        for place, look in checks:
            parallel.whereabouts.at(place)
            try:
                yield from look()
            except ParallelError:
                raise
            except Exception as error:  # gloo and NCCL raise many kinds when a rank is lost; who it was is said instead
                explained = heart.explain(error)
                if explained is error:
                    raise
                raise explained from error


def meet_in_folders(
    parallel: Parallel, question: Question, config: RunConfig, own: list[Finding]
) -> dict[str, Path | None]:
    """Make empty folders for this examination beside the caches and the runs, and return them.

    None stands for one that a machine cannot use: nobody is to hang in it.
    """
    from pref_dist.data.cache_folder import default_cache_dir

    places = {"cache": default_cache_dir(config)}
    if question.run_yaml is not None:
        places["run"] = Path(config.run.dir)
    errors = {finding.name for findings in parallel.gather(own) for finding in findings if finding.state == "error"}
    usable = {name: place for name, place in places.items() if f"{name} folder" not in errors}
    token = f"{MEETING}-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    made = {name: str(find_existing(place) / f"{token}-{name}") for name, place in usable.items()}
    folders: dict[str, Path | None] = dict.fromkeys(places)
    folders |= {name: Path(folder) for name, folder in parallel.broadcast(made).items()}
    for folder in filter(None, folders.values()):
        with suppress(OSError):  # what is wrong with it is said when a file is looked for there
            if parallel.is_main:
                remove_left_overs(folder.parent)
                folder.mkdir()
    return folders


def remove_left_overs(place: Path) -> None:
    """Remove the folders of examinations that failed, and so left their signs for all ranks to read."""
    for folder in place.glob(f"{MEETING}-*"):
        if time.time() - folder.stat().st_mtime > LEFT_OVER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def join_machines(parallel: Parallel, own: list[Finding]) -> Iterator[Finding]:
    """Yield what each machine has found for itself; where there are several, what is not ok, with its name."""
    everyone = [(host, found) for host, found in parallel.gather((socket.gethostname(), own)) if found]
    if len({host for host, _ in everyone}) == 1:
        for _, found in everyone:
            yield from found
        return
    for host, found in everyone:
        others = [one for one in found if one.state != "ok"]
        for one in others:
            yield Finding(f"{one.name} on {host}", one.state, one.seen, one.remedy)
        yield Finding(f"checks on {host}", "ok", f"{len(found) - len(others)} of {len(found)} are ok")


def list_ranks(parallel: Parallel) -> Iterator[Finding]:
    """Yield one finding a rank, and an error where two of them hold one GPU."""
    everyone = parallel.gather((socket.gethostname(), *describe_device(parallel), os.getpid()))
    users: dict[tuple[str, str], list[int]] = {}
    for rank, (host, device, identity, pid) in enumerate(everyone):
        yield Finding(f"rank {rank}", "ok", f"{host}, {device}, pid {pid}")
        if identity:
            users.setdefault((host, identity), []).append(rank)
    hosts = {host for host, *_ in everyone}
    seen = f"{parallel.world_size} rank(s) on {len(hosts)} machine(s) see each other, {parallel.backend}"
    if parallel.world_size == 1:
        yield Finding(
            "ranks", "warning", f"{seen}: there is nobody to talk to",
            "Start it under a launcher: bash launch/node.sh ddp 2 doctor --ranks.",
        )  # fmt: skip
    else:
        yield Finding("ranks", "ok", seen)
    for (host, _), ranks in users.items():
        if len(ranks) > 1:
            yield Finding(
                "shared GPU", "error", f"ranks {', '.join(map(str, ranks))} hold the same GPU of {host}",
                "Start one rank a GPU, and let each see all of its machine's (CUDA_VISIBLE_DEVICES).",
            )  # fmt: skip


def describe_device(parallel: Parallel) -> tuple[str, str]:
    """Return (what this rank computes on, what tells it from others; "" for a CPU)."""
    if parallel.device.type != "cuda":
        from pref_dist.data.workers import count_cores

        return f"cpu with {count_cores()} core(s), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}", ""
    import torch

    properties = torch.cuda.get_device_properties(parallel.device)
    free, total = torch.cuda.mem_get_info(parallel.device)
    identity = str(getattr(properties, "uuid", "")) or str(parallel.device.index)
    return f"{parallel.device} {properties.name}, {render_bytes(free)} of {render_bytes(total)} free", identity


def compare_versions(parallel: Parallel) -> Iterator[Finding]:
    """Compare the versions that decide what a run computes."""
    everyone = parallel.gather(collect_versions())
    different = {
        name: [versions[name] for versions in everyone]
        for name in everyone[0]
        if len({versions[name] for versions in everyone}) > 1
    }
    for name, versions in different.items():
        seen = ", ".join(f"{version} on rank {rank}" for rank, version in enumerate(versions))
        yield Finding("same versions", "error", f"{name}: {seen}", "Install the same environment on all machines.")
    if not different:
        yield Finding("same versions", "ok", f"Python, pref-dist and {len(everyone[0]) - 2} packages on all ranks")


def compare_clocks(parallel: Parallel) -> Iterator[Finding]:
    """Compare the clocks of the day."""
    offsets, width = measure_clocks(parallel)
    rank = max(range(len(offsets)), key=lambda number: abs(offsets[number]))
    seen = f"rank {rank}'s is {offsets[rank]:+.3f} s from rank 0's (known to {width:.3f} s)"
    if abs(offsets[rank]) - width > CLOCK_SECONDS:
        remedy = "Start chrony or ntpd there: logs of several machines cannot be put in order."
        yield Finding("clocks", "warning", seen, remedy)
    else:
        yield Finding("clocks", "ok", seen)


def compare_folders(parallel: Parallel, folders: dict[str, Path | None]) -> Iterator[Finding]:
    """See whether a file that rank 0 writes is there for all; in the cache folder, and in that of the run."""
    for name, folder in folders.items():
        if folder is not None:
            yield judge_sight(parallel, f"same {name} folder", folder, *SIGHTS[name])


def judge_sight(parallel: Parallel, name: str, folder: Path, state: State, remedy: str) -> Finding:
    """Let rank 0 write a file there and the others look for it; collective."""
    path, text = folder / "seen_by_all", folder.name
    failure = ""
    if parallel.is_main:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            failure = f"rank 0 cannot write in {folder.parent}: {error.strerror}"
    failure = parallel.broadcast(failure)
    if failure:
        return Finding(name, "error", failure, remedy)
    waits = parallel.gather(wait_for(parallel, path, text))
    blind = [f"{rank}" for rank, wait in enumerate(waits) if wait is None]
    if blind:
        seen = f"{folder.parent}: rank {', '.join(blind)} did not see a file of rank 0 within {SEE_SECONDS:.0f} s"
        return Finding(name, state, seen, remedy)
    latest = max(wait for wait in waits if wait is not None)
    return Finding(name, "ok", f"{folder.parent}: all ranks see a file of rank 0, the last after {latest:.2f} s")


def wait_for(parallel: Parallel, path: Path, text: str) -> float | None:
    """Return after how many seconds a file with that text is here; None if it does not come."""
    start = time.monotonic()
    while time.monotonic() - start < SEE_SECONDS:
        parallel.whereabouts.go_on()
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                return time.monotonic() - start
        time.sleep(0.05)
    return None


def measure_links(parallel: Parallel) -> Iterator[Finding]:
    """Time all-reduces from 4 bytes up; the first is the latency."""
    if parallel.world_size == 1:
        return
    sizes = GPU_SIZES if parallel.device.type == "cuda" else CPU_SIZES
    through = "NCCL" if parallel.device.type == "cuda" else "gloo"
    for num_bytes in sizes:
        measured = time_all_reduce(parallel, num_bytes, SECONDS_A_SIZE)
        speed = f", {measured.bus_bytes_per_second / 1e9:.2f} GB/s a link" if num_bytes > sizes[0] else " (latency)"
        seen = f"{measured.seconds * 1e3:.3f} ms{speed}, {through}"
        yield Finding(f"all-reduce {render_bytes(num_bytes)}", "ok", seen)


def compare_paces(parallel: Parallel) -> Iterator[Finding]:
    """Name the slowest rank; a warning if all others would wait for it."""
    paces = measure_paces(parallel, SECONDS_A_ROUND)
    hosts = parallel.gather(socket.gethostname())
    slowest = min(range(len(paces)), key=lambda rank: paces[rank].flops_per_second)
    middle = median(pace.flops_per_second for pace in paces)
    share = paces[slowest].flops_per_second / middle
    all_paces = ", ".join(f"rank {rank} {pace.flops_per_second / 1e9:,.1f}" for rank, pace in enumerate(paces))
    seen = (
        f"rank {slowest} ({hosts[slowest]}) computes at {share:.0%} of the middle one and comes "
        f"{paces[slowest].late_seconds:.3f} s after the first (GFLOP/s: {all_paces})"
    )
    if share < SLOW_SHARE:
        remedy = f"See what else runs on {hosts[slowest]}, its cores' binding and its GPU's clock: all wait for it."
        yield Finding("slowest rank", "warning", seen, remedy)
    else:
        yield Finding("slowest rank", "ok", seen)

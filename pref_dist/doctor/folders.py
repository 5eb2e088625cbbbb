"""The folders that a training writes into: caches, temporary files, shared memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pref_dist.doctor.cores import count_local_ranks
from pref_dist.doctor.disk_probe import Probe, find_existing, find_file_system, is_network, probe_folder
from pref_dist.doctor.finding import Finding, Question, State
from pref_dist.files import DISK_FULL, render_bytes

SMALL_ROOM_BYTES = 1 << 30
SLOW_SECONDS = 2.0  # for 1 MB
SHARED_MEMORY = Path("/dev/shm")
# DeepSpeed's shared-memory collectives on a CPU take 66 MiB a rank there, NCCL less.
SHARED_BYTES_PER_RANK = 68 << 20


def check_cache_folder(question: Question) -> Iterator[Finding]:
    """Try the folder of the token caches."""
    from pref_dist.data.cache_folder import default_cache_dir, find_cache_dir

    folder = find_cache_dir(None) if question.config is None else default_cache_dir(question.config)
    yield judge_folder("cache folder", folder, "Set data.cache_dir or PREF_DIST_CACHE_DIR to a folder with room.")


def check_temporary_folder(question: Question) -> Iterator[Finding]:
    """Try the folder of temporary files, which compilers and launchers need."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:  # none of the usual ones can be written
        yield Finding("temporary folder", "error", str(error), "Set TMPDIR to a folder that can be written.")
        return
    yield judge_folder("temporary folder", folder, "Make room there, or set TMPDIR to a folder that has some.")


def check_shared_memory(question: Question) -> Iterator[Finding]:
    """See whether the ranks of this machine have room in /dev/shm."""
    ranks = count_local_ranks(question)
    needed = SHARED_BYTES_PER_RANK * ranks
    name, remedy = "/dev/shm", "Start the container with --shm-size=1g (docker) or --ipc=host; remove what fills it."
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError as error:
        yield Finding(name, "warning", f"cannot be used: {error.strerror}", remedy)
        return
    seen = f"{render_bytes(usage.free)} of {render_bytes(usage.total)} free"
    if usage.free < needed:
        state: State = "error" if question.asked_backend.startswith("zero") else "warning"
        yield Finding(name, state, f"{seen}; {ranks} rank(s) may need {render_bytes(needed)}", remedy)
    else:
        yield Finding(name, "ok", seen)


def judge_folder(name: str, folder: Path, remedy: str, needed_bytes: int = 0, wanted_bytes: int = 0) -> Finding:
    """Say of a folder that will be written whether it can be, by trying; its room, kind and speed.

    needed_bytes: less is an error. wanted_bytes: less is a warning.
    """
    place = find_existing(folder)
    kind = find_file_system(place)
    text = str(folder) if place == folder.absolute() else f"{folder} (not there yet; tried in {place})"
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        return Finding(name, "error", f"{text} on {kind} cannot be written by uid {os.geteuid()}", remedy)
    probe, free = probe_folder(place), shutil.disk_usage(place).free
    seen = f"{text} on {kind}{' (network)' if is_network(kind) else ''}, {render_bytes(free)} free"
    if probe.failure:
        return explain_failure(name, probe, seen, remedy)
    seen += f", 1 MB written, synced and renamed in {probe.seconds:.3f} s"
    if free < needed_bytes:
        return Finding(name, "error", f"{seen}; {render_bytes(needed_bytes)} are needed", remedy)
    if probe.lock:
        return Finding(
            name, "warning", f"{seen}; {probe.lock}",
            "Choose a file system with locks (Lustre: mount with flock), else several processes may build one cache.",
        )  # fmt: skip
    if free < max(wanted_bytes, SMALL_ROOM_BYTES):
        wanted = f"; {render_bytes(wanted_bytes)} may be needed" if wanted_bytes > free else ""
        return Finding(name, "warning", f"{seen}{wanted}", remedy)
    if probe.seconds > SLOW_SECONDS:
        return Finding(name, "warning", f"{seen}, which is slow", remedy)
    return Finding(name, "ok", seen)


def explain_failure(name: str, probe: Probe, seen: str, remedy: str) -> Finding:
    if probe.errno in DISK_FULL:
        return Finding(name, "error", f"{seen}: the disk is full ({probe.failure})", f"Make room there. {remedy}")
    return Finding(name, "error", f"{seen}: a file cannot be written, kept and read there ({probe.failure})", remedy)

"""How much memory a piece of work takes on this rank, its highest point included."""

import ctypes
import resource
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from pref_dist.runtime.host_memory import read_free
from pref_dist.runtime.memory import release

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"  # see proc_pid_clear_refs(5)
SAMPLE_SECONDS = 0.002
KIBIBYTE = 1024
# What was counted before a count began anew: bytes of this process.
HIGHEST = {"host": 0, "cuda": 0}


def measure_growth(device: torch.device, work: Callable[[], object]) -> int:
    """Return how many bytes more the device's memory holds at the highest point of `work` than before it.

    On a CPU it is the process's memory, of which the allocator may have kept some from before; that is given back
    first.
    """
    trim()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        HIGHEST["cuda"] = highest_bytes(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = read_resident()
    if reset_peak():
        work()
        return read_status("VmHWM") - before
    with Sampler() as sampler:
        work()
    return sampler.highest - before


def held_bytes(device: torch.device) -> int:
    """Return what this process holds: of the GPU's memory, or of the host's, without files that are mapped into it."""
    release()
    trim()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):  # kernels before 4.5 do not say it
        return read_status("RssAnon")
    return read_resident()


def free_bytes(device: torch.device, num_local_ranks: int) -> int:
    """Return what this rank can still take; ranks of one machine without GPUs share what is free there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return read_free() // num_local_ranks


def trim() -> None:
    """Return to the system what was freed on the host, as far as the allocator does that."""
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> bool:
    """Let the kernel count the process's highest memory anew; False where it does not."""
    try:
        seen = read_status("VmHWM")
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return False
    HIGHEST["host"] = max(HIGHEST["host"], seen)
    return True


def highest_bytes(device: torch.device) -> int:
    """Return the most that this process has held of the device's memory, also before a measurement counted it anew."""
    if device.type == "cuda":
        return max(HIGHEST["cuda"], torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(HIGHEST["host"], peak if sys.platform == "darwin" else KIBIBYTE * peak)


def read_status(name: str) -> int:
    """Return a number of bytes that the kernel keeps of this process."""
    for line in STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError(f"{STATUS} has no {name}")


def read_resident() -> int:
    if STATUS.exists():
        return read_status("VmRSS")
    import psutil  # Accelerate needs it, too

    return int(psutil.Process().memory_info().rss)


class Sampler:
    """Looks at the process's memory again and again; for systems that do not count its highest point anew."""

    def __init__(self) -> None:
        self.highest = read_resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.highest = max(self.highest, read_resident())

"""What a fault does to the process that it strikes."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import torch

from tests.faults.fault import Fault
from tests.ranks.disks import fill


def strike(fault: Fault, step: int) -> None:
    """Do it, now. Returns where the process lives on; raises where it ran out of memory."""
    leave_mark(fault, step)
    if fault.strike == "signal":
        os.kill(os.getpid(), signal.Signals[fault.value])
    elif fault.strike == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.strike == "out_of_memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (put in by the fault harness).")
    elif fault.strike == "no_memory_on_host":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
    elif fault.strike == "fill_disk":
        fill(Path(fault.folder))
    elif fault.strike == "limit_files":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.value), hard))


def poison(fault: Fault, step: int, logits: Any) -> Any:
    """Return a micro-batch's logits with those of its first row NaN."""
    leave_mark(fault, step)
    factor = torch.ones_like(logits)
    factor[0] = float("nan")
    return logits * factor


def leave_mark(fault: Fault, step: int) -> None:
    """Tell the harness; before it happens, because there may be nobody to tell it afterwards."""
    descriptor = os.open(fault.mark, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f'{{"step": {step}}}\n'.encode())
    os.close(descriptor)

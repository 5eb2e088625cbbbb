"""The ranks' first meeting: within a time limit, or an error that names the address."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pref_dist.errors import ParallelError
from pref_dist.runtime.preempt import tell_launcher, tell_launcher_why

SPARE_SECONDS = 5.0  # for torch to notice by itself, which says more


@contextmanager
def meeting(environ: Mapping[str, str], timeout_seconds: float) -> Iterator[None]:
    """Raise ParallelError if the work in it cannot connect the ranks; end the process if it waits for too long.

    torch waits without a limit for the answer of whoever accepts a rank's connection. Where that is another
    program, which holds the port, nothing but the end of the process helps.
    """
    address = f"{environ.get('MASTER_ADDR', '?')}:{environ.get('MASTER_PORT', '?')}"
    rank = int(environ.get("RANK", "0"))
    timer = threading.Timer(timeout_seconds + SPARE_SECONDS, give_up, (address, rank, timeout_seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    except RuntimeError as error:  # torch's own kinds are RuntimeErrors, and gloo's nothing else
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParallelError(f"{describe(address)} {reason}\n{REMEDY}") from error
    finally:
        timer.cancel()


REMEDY = (
    "Does another program hold that port (MASTER_PORT)? Are all ranks started, and can they reach rank 0's machine "
    "under that address (MASTER_ADDR)?"
)


def describe(address: str) -> str:
    return f"The ranks could not connect through {address}, rank 0's address:"


def give_up(address: str, rank: int, timeout_seconds: float) -> None:
    """End this process from beside the thread that waits."""
    text = f"{describe(address)} nobody answered within parallel.timeout_seconds={timeout_seconds:g}.\n{REMEDY}"
    prefix = f"[rank {rank}] " if rank else ""
    sys.stderr.write(f"{prefix}ParallelError: {text}\n")
    sys.stderr.flush()
    tell_launcher_why(rank, f"ParallelError: {text}")
    tell_launcher(rank, ParallelError.exit_code)
    os._exit(ParallelError.exit_code)

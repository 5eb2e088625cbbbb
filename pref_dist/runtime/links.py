"""How fast the ranks talk and compute, measured: what `pref-dist doctor --ranks` shows."""

import statistics
import time
from dataclasses import dataclass

import torch
import torch.distributed

from pref_dist.errors import ParallelError
from pref_dist.runtime.parallel import Parallel

WARM_UPS = 1
MOST_REPEATS = 50
CLOCK_ROUNDS = 7
PRODUCT_SIZES = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class AllReduce:
    """seconds: median of one all-reduce of so many bytes, by the slowest rank."""

    num_bytes: int
    seconds: float
    world_size: int

    @property
    def bus_bytes_per_second(self) -> float:
        """Bytes that each link carries a second, comparable with its hardware speed: a ring all-reduce moves every
        byte 2 (n - 1) / n times (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
        """
        return self.num_bytes / self.seconds * 2 * (self.world_size - 1) / self.world_size


@dataclass(frozen=True)
class Pace:
    """How one rank computes while all do, and how much later than the first it comes to the end of equal work."""

    flops_per_second: float
    late_seconds: float


def time_all_reduce(parallel: Parallel, num_bytes: int, seconds: float) -> AllReduce:
    """Time sums of fp32 over all ranks for about `seconds`, at least once; collective.

    Raises ParallelError on every rank if a sum is wrong.
    """
    values = torch.full((max(1, num_bytes // 4),), float(parallel.rank + 1), device=parallel.device)
    first = reduce_once(parallel, values)
    wanted = parallel.world_size * (parallel.world_size + 1) / 2
    wrong = parallel.sum(float((values != wanted).any()))[0]
    if wrong:
        raise ParallelError(
            f"The sum of {num_bytes:,} bytes over all ranks is wrong on {wrong:.0f} of {parallel.world_size} ranks: "
            "a link or a device damages data."
        )
    # All ranks must repeat equally often.
    repeats = parallel.broadcast(min(MOST_REPEATS, max(1, int(seconds / max(first, 1e-6)))))
    values.zero_()
    measured = statistics.median(reduce_once(parallel, values) for _ in range(repeats))
    return AllReduce(num_bytes, max(parallel.gather(measured)), parallel.world_size)


def reduce_once(parallel: Parallel, values: torch.Tensor) -> float:
    parallel.whereabouts.go_on()
    wait_for_device(parallel)
    start = time.perf_counter()
    torch.distributed.all_reduce(values)
    wait_for_device(parallel)
    return time.perf_counter() - start


def measure_paces(parallel: Parallel, seconds: float, rounds: int = 3) -> list[Pace]:
    """Let all ranks compute at once, `rounds` times about `seconds`; return each rank's pace; collective."""
    size = PRODUCT_SIZES[parallel.device.type]
    dtype = torch.float16 if parallel.device.type == "cuda" else torch.float32
    left = torch.ones(size, size, device=parallel.device, dtype=dtype)
    multiply(parallel, left, WARM_UPS)
    products = parallel.broadcast(max(1, int(seconds / multiply(parallel, left, WARM_UPS))))
    spent, waited = [], []
    for _ in range(rounds):
        parallel.gather(None)
        spent.append(multiply(parallel, left, products))
        start = time.perf_counter()
        parallel.gather(None)
        waited.append(time.perf_counter() - start)
    flops = products * 2.0 * size**3
    everyone = parallel.gather((flops / statistics.median(spent), statistics.median(waited)))
    longest_wait = max(wait for _, wait in everyone)
    return [Pace(speed, longest_wait - wait) for speed, wait in everyone]


def multiply(parallel: Parallel, left: torch.Tensor, times: int) -> float:
    """Return the seconds of so many products of a square matrix with itself."""
    parallel.whereabouts.go_on()
    wait_for_device(parallel)
    start = time.perf_counter()
    for _ in range(times):
        _ = left @ left
    wait_for_device(parallel)
    return time.perf_counter() - start


def measure_clocks(parallel: Parallel) -> tuple[list[float], float]:
    """Return how far each rank's clock of the day is before rank 0's, and by how much that may be wrong, in seconds.

    All ranks read their clocks between two meetings, so they do so within the time between these. Collective.
    """
    best: tuple[list[float], float] | None = None
    for _ in range(CLOCK_ROUNDS):
        parallel.gather(None)
        start, now = time.perf_counter(), time.time()
        clocks = parallel.gather(now)
        width = parallel.broadcast(time.perf_counter() - start)
        if best is None or width < best[1]:
            best = [clock - clocks[0] for clock in clocks], width
    assert best is not None
    return best


def wait_for_device(parallel: Parallel) -> None:
    if parallel.device.type == "cuda":
        torch.cuda.synchronize(parallel.device)

"""When the measured work began and ended in this process, and the memory that it needed until then."""

import time
from typing import Any

import torch

from pref_dist.bench.matrix_work import synchronise
from pref_dist.runtime.memory_meter import highest_bytes


class Clock:
    """Starts and stops once. Memory is read as it stops: what comes after (an evaluation, a file) does not count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._end = 0.0
        self.peak_bytes = 0
        self.peak_cuda_bytes: int | None = None

    def start(self, seconds_ago: float = 0.0) -> None:
        if not seconds_ago:
            synchronise(self._device)
        self._start = time.perf_counter() - seconds_ago

    def stop(self) -> None:
        synchronise(self._device)
        self._end = time.perf_counter()
        self.peak_bytes = highest_bytes(torch.device("cpu"))
        if self._device.type == "cuda":
            self.peak_cuda_bytes = highest_bytes(self._device)

    @property
    def seconds(self) -> float:
        assert self._end > self._start > 0.0, "the clock was started and stopped"
        return self._end - self._start

    def figures(self) -> dict[str, Any]:
        """Return what a Measurement says of time, memory and machine."""
        return {
            "seconds": self.seconds, "peak_bytes": self.peak_bytes, "peak_cuda_bytes": self.peak_cuda_bytes,
            "device": self._device.type, "threads": torch.get_num_threads(),
        }  # fmt: skip

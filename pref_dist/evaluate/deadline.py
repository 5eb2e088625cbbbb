"""A limit on a prediction's time: what must be done is done, and more of the second order only while time is left."""

import math
import time

from pref_dist.runtime.parallel import Parallel

# What is expected to take longer than it did before, and what is left for writing the result.
CAUTION = 1.15
RESERVE_SECONDS, RESERVE_SECONDS_A_ROW = 2.0, 3e-5


class Deadline:
    """`minutes` from `started` (time.monotonic) on, less what it takes to write the result. Rank 0's clock counts."""

    def __init__(self, minutes: float, started: float) -> None:
        self.minutes, self._end, self._num_rows = minutes, started + 60.0 * minutes, 0

    def expect_rows(self, num_rows: int) -> None:
        """So many rows are to be written at the end."""
        self._num_rows = num_rows

    def seconds_left(self) -> float:
        return self._end - time.monotonic() - RESERVE_SECONDS - RESERVE_SECONDS_A_ROW * self._num_rows

    def seconds_over(self) -> float:
        """How long ago it was; 0 before."""
        return max(0.0, time.monotonic() - self._end)


class Pace:
    """How fast one model works, and what it may still begin before a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._seconds_a_round = 0.0

    def note(self, num_batches: int, seconds: float, parallel: Parallel) -> None:
        """Learn from a pass how long a round takes, in which each rank runs a batch; the slowest one counts."""
        if num_batches:
            self._seconds_a_round = max(self._seconds_a_round, seconds / math.ceil(num_batches / parallel.world_size))

    def allows(self, num_batches: int, parallel: Parallel, more_seconds: float = 0.0) -> bool:
        """Whether so many more batches, and `more_seconds` of something else, would end in time; collective.

        Where no pass has been measured yet, any time that is left is enough.
        """
        seconds = math.ceil(num_batches / parallel.world_size) * self._seconds_a_round + more_seconds
        return parallel.broadcast(self.deadline.seconds_left() > CAUTION * seconds)

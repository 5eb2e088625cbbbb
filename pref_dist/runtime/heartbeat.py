"""Signs of life: each rank says once a second where it stands, and ends when it stands there for too long.

A collective can wait for a rank that is stopped, killed, in an endless loop, or on a machine that is gone. The ranks
that wait must not wait for ever, and must say whom they have waited for.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType

from pref_dist.errors import ParallelError
from pref_dist.run_dir import RunDir
from pref_dist.runtime.failure import end_process
from pref_dist.runtime.lost_ranks import (
    SILENT_SECONDS,
    Sign,
    find_culprit,
    find_missing_ranks,
    find_ranks_behind,
    is_of_a_collective,
    read_signs,
    write_sign,
)

BEAT_SECONDS = 1.0
POLL_SECONDS = 0.25
# A collective's own error comes before the end by the watch, which comes before that by the backstop.
WATCH_SECONDS = 0.5
BACKSTOP_SECONDS = 4.0
STACK_LINES = 8
AGAIN = "Start the same command again to go on from the last checkpoint."


def limit_of_collectives(device_type: str, timeout_seconds: int) -> timedelta:
    """Return how long a collective may wait. NCCL's limit ends the process without a word, so the watch comes first."""
    return timedelta(seconds=timeout_seconds + (BACKSTOP_SECONDS if device_type == "cuda" else 0))


class Whereabouts:
    """Where this rank's main thread stands. All ranks call `at` equally often: `moves` tells who is behind."""

    def __init__(self) -> None:
        self.step, self.place, self.moves = 0, "the start", 0

    def at(self, place: str, step: int | None = None) -> None:
        """The main thread comes to a place in its work; `step`: the steps done, where that has changed."""
        self.step = self.step if step is None else step
        self.place = place
        self.go_on()

    def go_on(self) -> None:
        """The main thread is not stuck where it was, although the place has the same name."""
        self.moves += 1


class Heart:
    """The thread of one rank of several that gives its signs of life; it beats from `start` to the end of `with`."""

    def __init__(
        self, run_dir: RunDir, rank: int, world_size: int, whereabouts: Whereabouts, timeout_seconds: float
    ) -> None:
        self._run_dir, self._rank, self._world_size = run_dir, rank, world_size
        self._whereabouts, self._timeout_seconds = whereabouts, timeout_seconds
        self._host, self._seconds_there, self._watches = socket.gethostname(), 0.0, False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat, once the run folder is this start's own."""
        if self._world_size == 1:
            return
        self._beat()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Heart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(BEAT_SECONDS)
            faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """End the process if the main thread stands at one place for longer than the timeout.

        Only for work in which each place is short or waits for other ranks. An error ends the watch, too.
        """
        self._watches = True
        try:
            yield
        finally:
            self._watches = False

    def explain(self, error: BaseException) -> BaseException:
        """Return a ParallelError that names the rank to blame if this is the error of a collective; else the error.

        It may take some seconds to see who gives no more signs. No collective is tried.
        """
        if self._thread is None or not is_of_a_collective(error):
            return error
        text = str(error).strip().split("\n")[0].split(". ")[0]
        return ParallelError(f"{self._find_reason()}. {AGAIN}\nWhat this rank saw of it: {text[:300]}")

    def _live(self) -> None:
        moves, since = -1, 0.0
        while not self._ended.wait(BEAT_SECONDS):
            if moves != self._whereabouts.moves:
                moves, since = self._whereabouts.moves, time.monotonic()
            self._seconds_there = time.monotonic() - since
            self._beat()
            self._watch()

    def _beat(self) -> None:
        # A full disk must not end the run: the signs are only needed when it fails.
        with suppress(OSError):
            self._run_dir.heartbeats.mkdir(parents=True, exist_ok=True)
            write_sign(self._run_dir.heartbeats, self._sign())

    def _sign(self) -> Sign:
        place = self._whereabouts
        return Sign(
            self._rank, self._host, os.getpid(), place.step, place.place, place.moves, round(self._seconds_there, 1)
        )

    def _watch(self) -> None:
        if not self._watches:
            faulthandler.cancel_dump_traceback_later()
            return
        if self._seconds_there > self._timeout_seconds + WATCH_SECONDS:
            self._end()
        # If code in C never gave this thread a turn again, this would still end the process, with exit code 1.
        faulthandler.dump_traceback_later(self._timeout_seconds + BACKSTOP_SECONDS, exit=True)

    def _end(self) -> None:
        moves = self._whereabouts.moves
        text = f"{self._find_reason()} (parallel.timeout_seconds={self._timeout_seconds:g}). {AGAIN}"
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        text += f"\nThis rank stands at:\n{''.join(traceback.format_stack(frame)[-STACK_LINES:])}"
        if not self._watches or moves != self._whereabouts.moves:  # it has got an error, or gone on, meanwhile
            return
        end_process(self._run_dir, self._rank, self._whereabouts.step, ParallelError(text))

    def _find_reason(self) -> str:
        """Say who is to blame. Waits for as long as a rank that was killed during this wait may still seem to live."""
        place = self._whereabouts
        deadline = time.monotonic() + max(0.0, SILENT_SECONDS + BEAT_SECONDS - self._seconds_there)
        while True:
            self._beat()
            signs = self._read_signs()
            reason = find_culprit(self._run_dir, self._rank, signs, place.step)
            if reason or time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        reason = reason or find_missing_ranks(signs, self._world_size) or find_ranks_behind(signs)
        return reason[:1].upper() + reason[1:] or (
            f"A collective failed or took too long, though all ranks give signs of life and have come equally far; "
            f"rank {self._rank}'s last step was {place.step}, in {place.place}"
        )

    def _read_signs(self) -> list[Sign]:
        try:
            return read_signs(self._run_dir.heartbeats, self._world_size, self._rank)
        except OSError:
            return []

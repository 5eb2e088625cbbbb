"""The end of the time that a scheduler gives a job: a run must have saved before it."""

import os
import time
from collections.abc import Callable, Mapping

END_TIME_VARIABLE = "PREF_DIST_END_TIME"  # in seconds since 1970; slurm/job.sh sets it, and so may any other script
MARGIN_SECONDS = 30.0  # to leave, and for clocks of machines that differ


class Deadline:
    """When to stop so that the save is done in time. Ask it once at every step border.

    expected_save_seconds: asked for anew each time. Between two borders lie a step and what else was due (an
    evaluation, a save): as long as it took at most so far, it may take again; the first step, which compiles and warms
    up, counts only until there are others. Before a save at the end one that is written behind the training's back
    may have to be completed.
    """

    def __init__(
        self, environ: Mapping[str, str], expected_save_seconds: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        text = environ.get(END_TIME_VARIABLE, "")
        self._end_time = float(text) if text.isdecimal() else None
        self._expected_save_seconds, self._clock = expected_save_seconds, clock
        self._last_border, self._num_borders = clock(), 0
        self._longest_seconds = 0.0

    def reason(self) -> str:
        """Return why to stop now, or an empty string."""
        now = self._clock()
        self._note_pause(now - self._last_border)
        self._last_border = now
        if self._end_time is None or now + self.lead_seconds < self._end_time:
            return ""
        return (
            f"the job's time ends in {self._end_time - now:.0f} s, and a step and a save may take "
            f"{self.lead_seconds:.0f} s ({END_TIME_VARIABLE})"
        )

    def _note_pause(self, seconds: float) -> None:
        self._num_borders += 1
        # Asked for the first time before any step, for the second time after the first.
        is_second_step = self._num_borders == 3
        self._longest_seconds = seconds if is_second_step else max(self._longest_seconds, seconds)

    @property
    def lead_seconds(self) -> float:
        """How long before the end a run must begin to stop."""
        return self._longest_seconds + 2 * self._expected_save_seconds() + MARGIN_SECONDS


def read_deadline(expected_save_seconds: Callable[[], float]) -> Deadline:
    """Return the deadline that this process's environment names, or one that never comes."""
    return Deadline(os.environ, expected_save_seconds)

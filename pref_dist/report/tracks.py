"""The small bars in the cells of a table: a value and its interval on a scale that all rows share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Interval = Sequence[float] | None  # [low, high]
ROOM = 0.04  # of the width, left free at both ends


@dataclass(frozen=True)
class Track:
    """Where things stand, in per cent of the width: the value, its interval (None: not known), and a line of reference.

    Whatever lies outside the scale stands at its end.
    """

    dot: float
    span: tuple[float, float] | None  # left, width
    line: float | None


@dataclass(frozen=True)
class TrackScale:
    low: float
    high: float
    line: float | None = None

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(100.0 * (ROOM + (1.0 - 2.0 * ROOM) * min(1.0, max(0.0, share))), 2)

    def track(self, value: float | None, interval: Interval = None) -> Track | None:
        """Return the bar of one row, None without a value."""
        if value is None:
            return None
        span = None
        if interval is not None:
            left, right = self.place(interval[0]), self.place(interval[1])
            span = (left, round(right - left, 2))
        return Track(self.place(value), span, None if self.line is None else self.place(self.line))


def span_scale(values: Iterable[float | None], intervals: Iterable[Interval], line: float | None = None) -> TrackScale:
    """Return the scale that holds all values, intervals and the line."""
    ends = [end for interval in intervals if interval is not None for end in interval]
    known = [value for value in (*values, *ends, line) if value is not None]
    return TrackScale(min(known, default=0.0), max(known, default=1.0), line)

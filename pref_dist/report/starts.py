"""When and where a run was trained, in words: its starts, as starts.json holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pref_dist.report.templates import render_duration

Record = dict[str, Any]
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Start:
    """One start as a line of a table; `ended` and `how` say so where nobody recorded the end."""

    started: str
    from_step: int
    ended: str
    how: str
    host: str
    ranks: str
    device: str


def list_starts(starts: Sequence[Record]) -> list[Start]:
    return [
        Start(
            started=render_time(start["started"]),
            from_step=start["from_step"],
            ended=NOT_RECORDED if start["ended"] is None else render_time(start["ended"]),
            how="going on, failed or killed" if start["state"] is None else render_end(start),
            host=start["host"],
            ranks=render_ranks(start),
            device=start["device"],
        )
        for start in starts
    ]


def render_end(start: Record) -> str:
    reason = f": {start['reason']}" if start["reason"] else ""
    return f"{start['state']} at step {start['step']:,}{reason}"


def render_ranks(start: Record) -> str:
    """Return the back-end and its ranks, as in `ddp, 16 ranks, 8 of them there`."""
    ranks, here = start["ranks"], start["ranks_on_host"]
    there = "" if here == ranks else f", {here:,} of them there"
    return f"{start['backend']}, {ranks:,} rank{'' if ranks == 1 else 's'}{there}"


def describe_training(starts: Sequence[Record]) -> str:
    """Return in a sentence when, how often and where the run was started; empty where that is not recorded."""
    if not starts:
        return ""
    last = starts[-1]
    when = f"Training started {render_time(starts[0]['started'])}"
    if len(starts) > 1:
        when += f" and again, the last of {len(starts):,} times, {render_time(last['started'])}"
    return f"{when}, on {last['host']} ({render_ranks(last)}, {last['device']}). Wall time: {render_wall_time(starts)}."


def render_wall_time(starts: Sequence[Record]) -> str:
    """Return how long the starts took whose end is recorded, from their first to their last moment."""
    seconds = [measure_seconds(start) for start in starts if start["ended"] is not None]
    if not seconds:
        return NOT_RECORDED
    open_ends = len(starts) - len(seconds)
    without = f" in {len(seconds):,} of {len(starts):,} starts, whose end is recorded" if open_ends else ""
    return f"{render_duration(sum(seconds))}{without}"


def measure_seconds(start: Record) -> float:
    # A clock that was set back meanwhile must not make the others' time shorter.
    return max(0.0, (read_time(start["ended"]) - read_time(start["started"])).total_seconds())


def render_time(text: str) -> str:
    return f"{read_time(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def read_time(text: str) -> datetime:
    return datetime.fromisoformat(text)

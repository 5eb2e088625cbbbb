"""Repeats of several pipelines, taking turns, so that a slow minute of the machine hits all of them."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pref_dist.bench.measurement import Column, Measurement
from pref_dist.errors import BenchError

Say = Callable[[str], None]


def measure_in_turns(
    columns: Sequence[Column], repeats: int, measure: Callable[[Column, Path], dict[str, Any]], folder: Path, say: Say
) -> None:
    """Fill the columns: every pipeline once, then every one again, `repeats` times.

    measure(column, its folder, which is removed afterwards) raises BenchError if a process gives no answer; then the
    column keeps the reason and is not tried again.
    """
    started = time.monotonic()
    for repeat in range(repeats):
        for column in columns:
            if column.failure or column.is_absent:
                continue
            place = folder / "measurement"
            place.mkdir()
            try:
                column.measurements.append(Measurement(**measure(column, place)))
                say(f"  {column.label}: {speed_of(column)}")
            except BenchError as error:
                column.failure = str(error)
                say(f"  {column.label}: FAILED")
            finally:
                shutil.rmtree(place, ignore_errors=True)
        say_left(repeat, repeats, time.monotonic() - started, say)


def speed_of(column: Column) -> str:
    last = column.measurements[-1]
    return f"{last.rows_per_second:.2f} rows/s, {last.tokens_per_second:,.0f} tokens/s"


def say_left(repeat: int, repeats: int, seconds: float, say: Say) -> None:
    left = seconds / (repeat + 1) * (repeats - repeat - 1)
    rest = f", about {left:.0f} s left" if left else ""
    say(f"round {repeat + 1} of {repeats} done after {seconds:.0f} s{rest}")


def raise_failures(columns: Sequence[Column]) -> None:
    """Raise BenchError, naming every column without an answer, so that a hole in the table is no success."""
    failed = [column for column in columns if column.failure]
    if failed:
        reasons = "\n\n".join(f"{column.label}: {column.failure}" for column in failed)
        raise BenchError(f"{len(failed)} of {len(columns)} pipelines could not be measured.\n{reasons}")

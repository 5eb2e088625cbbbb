"""What a run says: lines for people from rank 0, and metrics.jsonl for programs."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pref_dist.files import sync, without_controls, write_text


class Speaker:
    """Writes plain lines for people, from rank 0 only."""

    def __init__(self, is_main: bool, stream: TextIO) -> None:
        self._is_main, self._stream = is_main, stream

    def say(self, text: str) -> None:
        if self._is_main:
            # A full disk under the log must not end a run on rank 0 alone; what the run needs there says so itself.
            with suppress(OSError):
                self._stream.write(f"{without_controls(text)}\n")
                self._stream.flush()


class MetricsLog:
    """`metrics.jsonl`: a line a step and a line an evaluation, in the order of steps, each step once."""

    def __init__(self, path: Path, is_main: bool) -> None:
        self._path, self._is_main = path, is_main
        self._failure: OSError | None = None
        self._listener: Callable[[dict[str, Any]], None] = lambda record: None

    def tell(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Let `listener`, which must not raise, hear of every line from now on, on rank 0."""
        self._listener = listener

    def append(self, record: dict[str, Any]) -> None:
        """Add one line; numbers that are not finite become null, because JSON has none.

        An error of the disk waits for `sync`: rank 0 alone meets it, and all ranks must end by it.
        """
        if not self._is_main or self._failure is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8", opener=open_no_link) as file:
                file.write(json.dumps({key: finite_or_none(value) for key, value in record.items()}) + "\n")
        except OSError as error:
            self._failure = error
        self._listener(record)

    @property
    def has_failed(self) -> bool:
        """Whether a line could not be added; none is, after that."""
        return self._failure is not None

    def sync(self) -> None:
        """Make the lines so far durable. Raises OSError, also for a line that could not be added."""
        if self._failure is not None:
            raise self._failure
        if self._is_main and self._path.exists():
            sync(self._path)

    def cut_back(self, step: int) -> None:
        """Drop every line after `step`, and a last line that a crash cut short."""
        if not self._is_main or not self._path.exists():
            return
        kept = [line for line in self._path.read_text(encoding="utf-8").split("\n") if stands_before(line, step)]
        write_text(self._path, "".join(f"{line}\n" for line in kept))


def open_no_link(path: str, flags: int) -> int:
    """Open a file, but not what a link that somebody has put there points to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0.0 else value


def stands_before(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class Stopwatch:
    """Seconds since it was made or last restarted."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def restart(self) -> None:
        self._start = time.monotonic()

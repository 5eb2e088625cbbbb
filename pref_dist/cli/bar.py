"""One line at the lower end of a terminal that shows how far the work is, and what is written above it meanwhile."""

import os
import sys
import threading
import time
from typing import Any, TextIO

DUMB_TERMINALS = ("", "dumb", "unknown")
LEAST_SECONDS_BETWEEN = 0.1
ERASE = "\r\x1b[K"  # to the beginning of the line, and nothing is on it
LEAST_COLUMNS = 20
LEAST_BAR = 6


def can_show_bar() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in DUMB_TERMINALS


class Bar:
    """The line itself, on `stream`. Colours follow NO_COLOR and the terminal.

    is_alone: nobody else draws on this terminal; of several ranks only the first draws, and the others make room.
    """

    def __init__(self, stream: TextIO, is_alone: bool = True) -> None:
        self._stream, self._is_alone = stream, is_alone
        self._is_shown, self._is_within_line = False, False
        self._drawn_at = float("-inf")
        self._lock = threading.RLock()

    def show(self, what: str, done: float, total: float, text: str) -> None:
        """Draw `what`, the bar and `text`, unless that was done just now; the last one (done == total) always."""
        now = time.monotonic()
        if now - self._drawn_at < LEAST_SECONDS_BETWEEN and done < total:
            return
        self._drawn_at = now
        line = render_line(self._stream, what, done, total, text)
        with self._lock:
            self._stream.write(f"\r{line}\x1b[K")
            self._stream.flush()
            self._is_shown = True

    def hide(self) -> None:
        """Take it away; the next `show` draws it again."""
        with self._lock:
            if self._is_shown or not (self._is_alone or self._is_within_line):
                self._stream.write(ERASE)
                self._stream.flush()
            self._is_shown, self._drawn_at = False, float("-inf")

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write to a stream of the same terminal; the bar is drawn again below by its next `show`."""
        with self._lock:
            self.hide()
            count = stream.write(text)
            stream.flush()
            self._is_within_line = not text.endswith("\n")
            return count


class AboveBar:
    """Takes the place of sys.stdout or sys.stderr while there is a bar on the same terminal."""

    def __init__(self, stream: TextIO, bar: Bar) -> None:
        self._stream, self._bar = stream, bar

    def write(self, text: str) -> int:
        return self._bar.write_above(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._stream, name)


def render_line(stream: TextIO, what: str, done: float, total: float, text: str) -> str:
    """Return one line as wide as the terminal at most, with the terminal's colours."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table
    from rich.text import Text

    width = max(LEAST_COLUMNS, find_width(stream) - 1)  # in the last column some terminals begin a new line
    if len(what) + len(text) + LEAST_BAR > width:
        return f"{what} {text}"[:width]
    console = Console(file=stream, force_terminal=True, width=width, height=1, highlight=False, markup=False)
    grid = Table.grid(
        Column(no_wrap=True), Column(), Column(no_wrap=True, overflow="ellipsis"), padding=(0, 1, 0, 0), expand=True
    )
    grid.add_row(Text(what), ProgressBar(total=max(total, 1e-9), completed=done), Text(text))
    with console.capture() as captured:
        console.print(grid, end="", no_wrap=True, crop=True)
    return captured.get().split("\n")[0].rstrip()


def find_width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80

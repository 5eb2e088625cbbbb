"""What a person sees while a token cache is built: a bar on a terminal, a line now and then in a log."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 10.0


class TerminalWatch:
    """A `cache_build.BuildWatch` that writes to standard error. Only the process that builds has anything to say."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.last_line = 0.0

    def __enter__(self) -> "TerminalWatch":
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away, also where the build has failed; it would write over what is said then."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def wait(self, source: Path) -> None:
        click.echo(f"cache      another process is tokenising {source}; waiting for it", err=True)

    def advance(self, source: Path, share_read: float, num_rows: int, num_tokens: int, seconds: float) -> None:
        speed = f"{num_rows:,} rows, {num_tokens / max(seconds, 1e-9):,.0f} tokens/s"
        if sys.stderr.isatty():
            self.move_bar(source, share_read, speed)
        elif share_read == 1.0:
            click.echo(f"cache      tokenised {source}: {speed} in {seconds:.1f} s", err=True)
            self.last_line = 0.0
        elif seconds - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = seconds
            click.echo(f"cache      tokenising {source}: {share_read:.0%}, {speed}", err=True)

    def move_bar(self, source: Path, share_read: float, speed: str) -> None:
        if self.bar is None:
            self.bar = build_bar()
            self.task = self.bar.add_task(f"tokenising {source.name}", total=1.0, speed=speed)
            self.bar.start()
        assert self.task is not None
        self.bar.update(self.task, completed=share_read, speed=speed)
        if share_read == 1.0:
            self.bar.stop()
            self.bar = None


def build_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*columns, TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), console=Console(stderr=True))

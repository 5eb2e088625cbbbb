"""What a person sees during long work: one bar on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import click

from pref_dist.cli.bar import AboveBar, Bar, can_show_bar

SECONDS_BETWEEN_LINES = 10.0
STEPS_BETWEEN_LINES = 10
STEPS_AVERAGED = 20


class Terminal:
    """Shows a verb's long work, whichever it is at: building a token cache, training, evaluating.

    A `cache_build.BuildWatch`, too; of a cache only the process that builds it has anything to say. On a terminal
    lines that anybody writes meanwhile come above the bar. has_bar false: never a bar, for a debugger's prompt.
    as_json: standard output is for the result alone.
    """

    def __init__(self, as_json: bool = False, has_bar: bool = True) -> None:
        self._bar: Bar | None = None
        if has_bar and can_show_bar():
            self._bar = Bar(sys.stderr, is_alone=os.environ.get("RANK", "0") == "0")
        # Where standard output is a file or a pipe, somebody keeps the lines.
        self._says_steps = not as_json and (self._bar is None or not sys.stdout.isatty())
        self._streams = (sys.stdout, sys.stderr)
        self._pace, self._log_loss = Pace(), ""
        self._last_line = 0.0

    def __enter__(self) -> "Terminal":
        if self._bar is not None:
            if sys.stdout.isatty():
                sys.stdout = cast(Any, AboveBar(sys.stdout, self._bar))
            sys.stderr = cast(Any, AboveBar(sys.stderr, self._bar))
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away, also where the work has failed; it would write over what is said then."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.hide()
            sys.stdout, sys.stderr = self._streams

    def wait(self, source: Path) -> None:
        click.echo(f"cache      another process is tokenising {source}; waiting for it", err=True)

    def advance(self, source: Path, share_read: float, num_rows: int, num_tokens: int, seconds: float) -> None:
        """A token cache is being built, see `BuildWatch`."""
        speed = f"{num_rows:,} rows, {num_tokens / max(seconds, 1e-9):,.0f} tokens/s"
        if self._bar is not None and share_read < 1.0:
            left = seconds * (1.0 - share_read) / share_read if share_read else None
            self._show(f"tokenising {source.name}", share_read, 1.0, f"{share_read:.0%} {speed} {render_left(left)}")
        elif share_read == 1.0:
            self.hide()
            click.echo(f"cache      tokenised {source}: {speed} in {seconds:.1f} s", err=True)
            self._last_line = 0.0
        elif seconds - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = seconds
            click.echo(f"cache      tokenising {source}: {share_read:.0%}, {speed}", err=True)

    def show_step(self, record: dict[str, Any]) -> None:
        """A step of a training is done. record: its line of metrics.jsonl, and num_steps of the run; rank 0 only."""
        step, num_steps = record["step"], record["num_steps"]
        self._pace.note(record)
        if self._says_steps:
            if step % STEPS_BETWEEN_LINES == 0 or step == 1:
                # As with Speaker: a full disk under the log must not end a run on rank 0 alone.
                with suppress(OSError):
                    click.echo(render_step(record))
        else:
            text = f"loss {record['loss']:.4f}{self._log_loss} {self._pace.render()}"
            self._show(f"{step:,}/{num_steps:,}", step, num_steps, text)

    def show_scores(self, scores: dict[str, Any]) -> None:
        """A training has evaluated; rank 0 only."""
        self._log_loss = f" valid {scores['log_loss']:.4f}"

    def show_batches(self, done: int, total: int) -> None:
        """So many of this rank's batches have been evaluated or predicted; rank 0 only."""
        if done >= total:
            self.hide()
            self._pace.batches_since, self._last_line = None, 0.0
            return
        if self._pace.batches_since is None:
            self.hide()
            self._pace.batches_since, self._last_line = time.monotonic(), 0.0
        seconds = time.monotonic() - self._pace.batches_since
        left = seconds * (total - done) / done if done else None
        text = f"{done:,}/{total:,} batches {render_left(left)}"
        self._show("evaluating", done, total, text)
        if self._bar is None and seconds - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = seconds
            with suppress(OSError):
                click.echo(f"evaluating {text}", err=True)

    def hide(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.hide()

    def _show(self, what: str, done: float, total: float, text: str) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.show(what, done, total, text)


@dataclass
class Pace:
    """How fast a training is, from its latest steps, and when it will be done, from all that this start has taken."""

    began: float = field(default_factory=time.monotonic)
    num_steps: int = 0
    seconds_left: float | None = None
    latest: "deque[tuple[int, int, float]]" = field(default_factory=lambda: deque(maxlen=STEPS_AVERAGED))
    batches_since: float | None = None

    def note(self, record: dict[str, Any]) -> None:
        if not self.num_steps:  # what came before the first step does not come again
            self.began = time.monotonic() - record["seconds"]
        self.num_steps += 1
        self.latest.append((record["rows"], record["tokens"], record["seconds"]))
        # With evaluations and saves: they take their time in the rest of the run, too.
        seconds_a_step = (time.monotonic() - self.began) / self.num_steps
        self.seconds_left = seconds_a_step * (record["num_steps"] - record["step"])

    def render(self) -> str:
        rows, tokens, seconds = (sum(values) for values in zip(*self.latest, strict=True))
        seconds = max(seconds, 1e-9)
        return f"{rows / seconds:,.1f} rows/s {tokens / seconds:,.0f} tokens/s {render_left(self.seconds_left)}"


def render_left(seconds: float | None) -> str:
    """Return how long it will take as h:mm:ss."""
    if seconds is None:
        return "-:--:-- left"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left"


def render_step(record: dict[str, Any]) -> str:
    return (
        f"step {record['step']:>6}  loss {record['loss']:.4f}  grad norm {record['grad_norm']:.3f}  "
        f"rate {record['learning_rate']:.2e}  {record['rows'] / record['seconds']:.1f} rows/s"
    )

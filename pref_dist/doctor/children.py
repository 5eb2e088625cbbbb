"""Runs groups of checks, each in a process of its own, and waits for none longer than its time."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from pref_dist.doctor.checks import GROUPS, WITH_RUN_CONFIG
from pref_dist.doctor.finding import Check, Finding, Question, State

TOTAL_SECONDS = 17.0  # of all checks together
# A check that is at work, on a machine that has no time for it, gets more: it does not hang.
BUSY_SHARE = 3.0
LOOK_SECONDS = 1.0
STDERR_CHARACTERS = 500


@dataclass
class Child:
    """The process of one group: which check it is at, since when, and what it has found."""

    group: str
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    started: float
    current: int = -1
    findings: list[Finding] = field(default_factory=list)
    is_done: bool = False
    ticks: int = 0
    extended_until: float = 0.0

    @property
    def checks(self) -> tuple[Check, ...]:
        return GROUPS[self.group]

    def deadline(self, end: float) -> float:
        check = self.checks[max(0, self.current)]
        return max(self.extended_until, min(end, self.started + check.seconds))

    def is_computing(self) -> bool:
        """Whether it runs, or has since the last call, and so does not wait for a disk, a network or a device."""
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()
            former, self.ticks = self.ticks, sum(map(int, fields[11:15]))  # its time and that of its children
            return fields[0] == "R" or self.ticks > former
        return False

    def hear(self, message: dict[str, Any]) -> None:
        """Take in what the child says: a check begins, a finding, or the end."""
        if "begin" in message:
            self.current += 1
            self.started = time.monotonic()
        elif "finding" in message:
            self.findings.append(Finding(**message["finding"]))
        else:
            self.is_done = True


def run_groups(groups: Sequence[str], question: Question, total_seconds: float = TOTAL_SECONDS) -> list[Finding]:
    """Return the findings of the groups' checks, in the order of `groups`, after `total_seconds` at most.

    Only what computes, because the machine is busy with other things, may take BUSY_SHARE times as long. A check
    that takes longer than its own time, or whose process ends under it, is a finding, too.
    """
    end = time.monotonic() + total_seconds
    busy_end = time.monotonic() + total_seconds * BUSY_SHARE
    lines: queue.SimpleQueue[tuple[Child, bytes]] = queue.SimpleQueue()
    children = [start_child(group, question, lines) for group in groups]
    while waiting := [child for child in children if not child.is_done]:
        next_deadline = min(child.deadline(end) for child in waiting)
        with suppress(queue.Empty):
            child, line = lines.get(timeout=max(0.0, next_deadline - time.monotonic()))
            if not child.is_done:
                take_line(child, line)
        for child in waiting:
            if not child.is_done and time.monotonic() >= child.deadline(end):
                look_after(child, busy_end)
    for child in children:
        child.stderr.close()
    return [finding for child in children for finding in child.findings]


def start_child(group: str, question: Question, lines: "queue.SimpleQueue[tuple[Child, bytes]]") -> Child:
    stderr = open_scratch_file()  # not a pipe, which nobody reads
    process = subprocess.Popen(
        [sys.executable, "-m", "pref_dist.doctor", group],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(asdict(question)).encode())
    child = Child(group, process, stderr, time.monotonic())
    threading.Thread(target=pass_on, args=(child, lines), daemon=True).start()
    return child


def open_scratch_file() -> IO[bytes]:
    """Return a file in memory where there are such: the disk of temporary files may be what is wrong."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("doctor"), "w+b")
    return tempfile.TemporaryFile()


def pass_on(child: Child, lines: "queue.SimpleQueue[tuple[Child, bytes]]") -> None:
    assert child.process.stdout is not None
    with child.process.stdout as stdout:
        for line in stdout:
            lines.put((child, line))
    lines.put((child, b""))


def take_line(child: Child, line: bytes) -> None:
    if line:
        child.hear(json.loads(line))
        if child.is_done:
            child.process.wait()
        return
    code = child.process.wait()  # its output has ended, and it before the last check had
    why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = os.pread(child.stderr.fileno(), 1 << 16, 0).decode(errors="replace").strip()[-STDERR_CHARACTERS:]
    seen = f"the process of this check ended by {why}" + (f": {said}" if said else "")
    add_unfinished(child, "error", seen, "A library crashes here: import it by hand, or install it anew.")


def look_after(child: Child, busy_end: float) -> None:
    """End a child that is late, unless it is at work and has time for that."""
    now, is_busy = time.monotonic(), child.is_computing()
    if is_busy and now < busy_end:
        child.extended_until = now + LOOK_SECONDS
    else:
        give_up(child, is_busy)


def give_up(child: Child, is_busy: bool) -> None:
    """End a child whose time is over. One that the kernel holds in a hung disk is left behind."""
    with suppress(OSError):
        os.killpg(child.process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(timeout=0.5)
    check = child.checks[max(0, child.current)]
    seconds = time.monotonic() - child.started
    if is_busy:
        seen = f"no answer within {seconds:.0f} s, although it computes"
        add_unfinished(child, "warning", seen, "The machine is overloaded (uptime): run it again, with --seconds 60.")
    else:
        add_unfinished(child, check.hang_state, f"no answer within {seconds:.0f} s", check.hang_remedy)


def add_unfinished(child: Child, state: State, seen: str, remedy: str) -> None:
    """Add a finding of the check that did not end, and say which were not made because of it."""
    place = max(0, child.current)
    left_out = [check.name for check in child.checks[place + 1 :]]
    if left_out:
        seen += f"; so not looked at: {', '.join(left_out)}"
    child.findings.append(Finding(child.checks[place].name, state, seen, remedy))
    child.is_done = True


def iterate_groups(has_run_config: bool) -> Iterator[str]:
    """Yield the groups to run; those of a run config only if there is one."""
    yield from (group for group in GROUPS if has_run_config or group not in WITH_RUN_CONFIG)

"""A launcher that a test has started: where it stands, its processes, its output, how it ends."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tests.ranks.launch_ranks import RENDEZVOUS, rank_env


def clean_env(**changes: str) -> dict[str, str]:
    """This environment without traces of other launchers; the scripts must find the package themselves."""
    dropped = (*RENDEZVOUS, "PYTHONPATH")
    own = {key: value for key, value in rank_env(0, 1, 0).items() if key not in dropped}
    return own | {"PREF_DIST_PYTHON": sys.executable, "PYTHONFAULTHANDLER": "1"} | changes


class Launched:
    """A launcher that runs, its output in a file."""

    def __init__(self, command: Sequence[object], output: Path, cwd: Path, env: dict[str, str]) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = psutil.Popen(
                # Tests that were started in the background inherit an ignored Ctrl-C, which no shell can trap.
                ["env", "--default-signal=INT", *(str(part) for part in command)],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.seen: dict[int, psutil.Process] = {}

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen |= {child.pid: child for child in self.process.children(recursive=True)}
        return list(self.seen.values())

    def find(self, *words: str, rank: int | None = None) -> psutil.Process:
        """The descendant whose command line has these words, and that is this rank if one is given."""
        for child in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                found_rank = child.environ().get("RANK")
                if set(words) <= set(child.cmdline()) and (rank is None or found_rank == str(rank)):
                    return child
        raise AssertionError(f"no process {words} of rank {rank}:\n{self.text()}")

    def wait_for_step(self, run_dir: Path, step: int) -> None:
        log = run_dir / "metrics.jsonl"
        self.wait_until(lambda: log.exists() and log.read_text(encoding="utf-8").count('"loss"') >= step)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not happened():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)
        self.descendants()

    def end(self, timeout: float = 120) -> int:
        """The exit code; fails if the launcher goes on for too long or leaves a process behind."""
        try:
            code = self.process.wait(timeout)
        except psutil.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.explain()}") from None
        _, alive = psutil.wait_procs(self.seen.values(), timeout=5)
        assert not alive, f"left behind: {alive}\n{self.text()}"
        return code

    def explain(self) -> str:
        """What still runs, and where: every Python process says its stacks when it is aborted (PYTHONFAULTHANDLER)."""
        lines = []
        for process in (self.process, *self.descendants()):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                command = " ".join(process.cmdline())
                lines.append(f"{process.pid} of {process.ppid()}, {process.status()}: {command[:300]}")
                if "python" in command:
                    process.send_signal(signal.SIGABRT)
        time.sleep(1)
        return "\n".join((*lines, self.text()))

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        for process in (*self.descendants(), self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # Not left to the garbage collector, whose warning would fail some later test.
        with contextlib.suppress(psutil.TimeoutExpired):
            self.process.wait(timeout=10)

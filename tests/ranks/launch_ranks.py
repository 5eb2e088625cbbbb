"""Start the ranks of one job as real processes, and be sure that none outlives its test.

    results = run_ranks(SCRIPT, world_size=2, args=["--out", str(tmp_path)])
    check_ranks_succeeded(results)

A test that has to send signals uses `start_ranks` and `RunningRanks` itself.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from tests.ranks.nursery import DEEPSPEED_MODULES, LATE_VARIABLES, MODULES, ForkedProcess, Nursery

REPO_ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.05
FIXED_ENV = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
RENDEZVOUS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NOT_INHERITED = ("ACCELERATE_", "DS_ACCELERATOR", "FSDP_", "SLURM_", "TORCHELASTIC_", "PYTEST_")


@dataclass(frozen=True)
class RankResult:
    """How one rank ended; exit_code is -signal for a killed one, as in subprocess."""

    rank: int
    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool


@dataclass
class _Rank:
    process: subprocess.Popen[bytes] | ForkedProcess
    stdout: IO[bytes]
    stderr: IO[bytes]


@dataclass
class RunningRanks:
    """The processes of one job. As a context manager it kills what is left at the end."""

    ranks: list[_Rank] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self.ranks]

    def send_signal(self, number: signal.Signals, rank: int | None = None) -> None:
        """Signal one rank, or all of them. Only the rank's own process, not its children."""
        for index, member in enumerate(self.ranks):
            if rank in (None, index) and member.process.poll() is None:
                member.process.send_signal(number)

    def read_stdout(self, rank: int) -> str:
        """What a rank has written so far."""
        return _read_all(self.ranks[rank].stdout)

    def wait(self, timeout: float, grace_seconds: float = 20.0) -> list[RankResult]:
        """Wait until all have ended; kill the rest at `timeout`, or `grace_seconds` after the first failure.

        The grace is there because the partners of a failed rank may sit in a collective for minutes.
        """
        deadline = time.monotonic() + timeout
        first_failure: float | None = None
        while any(rank.process.poll() is None for rank in self.ranks):
            now = time.monotonic()
            if first_failure is None and any(rank.process.poll() not in (None, 0) for rank in self.ranks):
                first_failure = now
            if now > deadline or (first_failure is not None and now > first_failure + grace_seconds):
                break
            time.sleep(POLL_SECONDS)
        late = [rank.process.poll() is None for rank in self.ranks]
        self.kill()
        return [_result_of(index, rank, late[index]) for index, rank in enumerate(self.ranks)]

    def kill(self) -> None:
        """Kill every rank that still runs, with all that it has started (torchrun gives each rank a session)."""
        for rank in self.ranks:
            if rank.process.poll() is None:
                for child in psutil.Process(rank.process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                rank.process.kill()
            rank.process.wait()

    def __enter__(self) -> "RunningRanks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for rank in self.ranks:
            rank.stdout.close()
            rank.stderr.close()


def start_ranks(
    script: Path | str, world_size: int, args: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> RunningRanks:
    """Start `world_size` processes that find each other through RANK, WORLD_SIZE and MASTER_ADDR/PORT.

    script: a Path or a str ending in .py is a file; any other str is a module (`python -m`).
    env: added to this process's environment, over FIXED_ENV.
    """
    is_file = isinstance(script, Path) or script.endswith(".py")
    command = [*([str(script)] if is_file else ["-m", str(script)]), *args]
    port = find_free_port()
    running = RunningRanks()
    try:
        for rank in range(world_size):
            running.ranks.append(_start_rank(command, rank_env(rank, world_size, port), env or {}))
    except BaseException:
        running.kill()
        raise
    return running


def run_ranks(
    script: Path | str,
    world_size: int,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> list[RankResult]:
    """Start the ranks, wait for all of them, and return what became of each, in rank order."""
    with start_ranks(script, world_size, args, env) as running:
        return running.wait(timeout)


def run_launcher(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 120.0) -> RankResult:
    """Run a program that starts the ranks itself, such as `accelerate launch`, and return what became of it."""
    own = {key: value for key, value in rank_env(0, 1, 0).items() if key not in RENDEZVOUS}
    with RunningRanks([_start_one(list(command), own | dict(env or {}))]) as running:
        return running.wait(timeout)[0]


def check_ranks_succeeded(results: Sequence[RankResult]) -> None:
    """Fail with the end of every rank's output unless all ended with exit code 0."""
    if any(result.exit_code != 0 for result in results):
        raise AssertionError("\n".join(_render_result(result) for result in results))


def find_free_port() -> int:
    """Ask the system for a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_env(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment of one rank: this one, without traces of other launchers, made reproducible."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    # ninja stands beside the interpreter; DeepSpeed looks for it on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    python_path = os.pathsep.join(filter(None, [str(REPO_ROOT), os.environ.get("PYTHONPATH")]))
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PATH": path,
        "PYTHONPATH": python_path,
    }
    return inherited | FIXED_ENV | own


def _start_rank(command: list[str], own: dict[str, str], changes: Mapping[str, str]) -> _Rank:
    """Fork a rank from a nursery; start it anew where its environment matters to what a nursery has imported."""
    env = own | dict(changes) | {"PWD": str(REPO_ROOT)}
    if not all(name.startswith(LATE_VARIABLES) for name in changes) or "PREF_DIST_TESTS_START_ANEW" in os.environ:
        return _start_one([sys.executable, *command], env)
    stdout, stderr = _open_outputs()
    nursery = _find_nursery(uses_deepspeed="ACCELERATE_USE_DEEPSPEED" in changes)
    return _Rank(nursery.start(command, env, stdout.fileno(), stderr.fileno()), stdout, stderr)


@cache
def _find_nursery(uses_deepspeed: bool) -> Nursery:
    env = {key: value for key, value in rank_env(0, 1, 0).items() if key not in RENDEZVOUS}
    if uses_deepspeed:
        return Nursery(env | {"DS_ACCELERATOR": "cpu"}, DEEPSPEED_MODULES)
    return Nursery(env, MODULES)


def _open_outputs() -> tuple[IO[bytes], IO[bytes]]:
    # Files, not pipes: a rank that nobody reads from must never block on a full pipe. RunningRanks closes them.
    return tempfile.TemporaryFile(), tempfile.TemporaryFile()


def _start_one(command: list[str], env: dict[str, str]) -> _Rank:
    stdout, stderr = _open_outputs()
    process = subprocess.Popen(
        command,
        env=env,
        cwd=REPO_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    return _Rank(process, stdout, stderr)


def _result_of(index: int, rank: _Rank, timed_out: bool) -> RankResult:
    assert rank.process.returncode is not None
    return RankResult(index, rank.process.returncode, _read_all(rank.stdout), _read_all(rank.stderr), timed_out)


def _read_all(stream: IO[bytes]) -> str:
    """Read from the start without moving the offset, which the child's writes share."""
    return os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode(errors="replace")


def _render_result(result: RankResult, num_lines: int = 40) -> str:
    tail = "\n".join((result.stdout + "\n" + result.stderr).splitlines()[-num_lines:])
    ended = "was killed because it went on too long" if result.timed_out else f"ended with exit code {result.exit_code}"
    return f"rank {result.rank} {ended}:\n{tail}"

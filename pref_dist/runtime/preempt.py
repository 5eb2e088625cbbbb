"""Asking a run to stop: signals and stop files only set a flag; ranks agree at the step border."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pref_dist.runtime.deadline import Deadline

STDERR = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ON_INTERRUPT = "Ctrl-C: the run is saved after the step that it is at, and ends. Ctrl-C again leaves at once."
ON_SECOND_INTERRUPT = "Ctrl-C again: leaving at once. The same command goes on from the last checkpoint."
LAUNCH_DIR_VARIABLE = "PREF_DIST_LAUNCH_DIR"  # set by launch/*.sh: a folder that holds `stop` and `exit_codes/`


class StopRequest:
    """Whether this process was asked to stop, and by what.

    Use as a context manager around the work; the former signal handlers come back afterwards. `within` is a
    request that lasts longer, over several runs: it keeps the signals, and stopping it stops what is in it. is_main:
    whether this process is the one that tells a person what Ctrl-C does.
    """

    def __init__(self, stop_files: tuple[Path, ...], within: "StopRequest | None" = None, is_main: bool = True) -> None:
        self._stop_files, self._within, self._is_main = stop_files, within, is_main
        self._reason = ""
        self._interrupted = False
        self._deadline: Deadline | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOP_SIGNALS if self._within is None else ():
            self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself gave

    def _remember(self, number: int, _: FrameType | None) -> None:
        # Ctrl-C once saves and leaves; twice leaves at once.
        if number == signal.SIGINT:
            if self._interrupted:
                self._tell(ON_SECOND_INTERRUPT)
                raise KeyboardInterrupt
            self._interrupted = True
            self._tell(ON_INTERRUPT)
        self._reason = "Ctrl-C" if number == signal.SIGINT else f"signal {signal.Signals(number).name}"

    def _tell(self, text: str) -> None:
        """Say it at once. Not through sys.stderr, which the signal may have interrupted in the middle of a line."""
        if self._is_main:
            erase = "\r\x1b[K" if os.isatty(STDERR) else ""  # of a bar, and the terminal's ^C
            with suppress(OSError):
                os.write(STDERR, f"{erase}{text}\n".encode())

    def heed(self, deadline: Deadline) -> None:
        """Stop before that, too."""
        self._deadline = deadline

    def reason(self) -> str:
        """Return why to stop, or an empty string. Reads the file system, so ask once a step."""
        for path in self._stop_files:
            if not self._reason and path.exists():
                self._reason = read_reason(path) or f"stop file {path}"
        if self._deadline is not None and not self._reason:
            self._reason = self._deadline.reason()
            if self._reason:
                tell_launcher_of_deadline()
        return self._reason or (self._within.reason() if self._within is not None else "")


def read_reason(stop_file: Path) -> str:
    """Return the first line of a stop file, in which launch/*.sh say who asked; empty if there is none."""
    with suppress(OSError):
        lines = stop_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "".join(filter(str.isprintable, lines[0]))[:80] if lines else ""
    return ""


def stop_files(run_stop_file: Path, is_main: bool = True) -> tuple[Path, ...]:
    """Return the files whose appearance asks a run to stop: its own, and the launcher's where there is one.

    Rank 0 alone watches the run's own: on another machine a file server may still show one that rank 0 has removed.
    """
    launch_dir = os.environ.get(LAUNCH_DIR_VARIABLE)
    return (*((run_stop_file,) if is_main else ()), *((Path(launch_dir) / "stop",) if launch_dir else ()))


def remove_left_over(stop_file: Path, probe: Path) -> None:
    """Remove a stop file from before this start; one that was put there while the start was loading counts.

    Compared are times of one clock, that of the run folder's file system, of which `probe`, a file in the same
    folder, tells the present time. How long ago the start was does not depend on any clock of the day.
    """
    probe.touch()
    start = probe.stat().st_mtime - seconds_since_start()
    try:
        if stop_file.stat().st_mtime < start:
            stop_file.unlink()
    except FileNotFoundError:
        return


def seconds_since_start() -> float:
    """How long ago this process was started, or torchrun, which starts it some seconds after the user's command."""
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    return max(seconds_alive(pid) for pid in (os.getpid(), *((os.getppid(),) if under_torchrun else ())))


def seconds_alive(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():  # not Linux
        import psutil  # Accelerate needs it, too

        return time.time() - psutil.Process(pid).create_time()
    # Fields are counted after the name, which may hold blanks: the 22nd of all is the start, in ticks since boot.
    ticks = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def tell_launcher_of_deadline() -> None:
    """Let the launcher know that it was not the user who asked for the end: slurm/job.sh starts the run again."""
    launch_dir = os.environ.get(LAUNCH_DIR_VARIABLE)
    if launch_dir:
        (Path(launch_dir) / "stop").touch()


def tell_launcher(rank: int, exit_code: int) -> None:
    """Leave this rank's exit code for launch/*.sh, because torchrun turns every failure into 1."""
    leave_word("exit_codes", rank, str(exit_code))


def tell_launcher_why(rank: int, text: str) -> None:
    """Leave what this rank says of its failure, for launch/*.sh to say it last, below torchrun's own forty lines."""
    leave_word("errors", rank, text)


def leave_word(folder_name: str, rank: int, text: str) -> None:
    launch_dir = os.environ.get(LAUNCH_DIR_VARIABLE)
    if launch_dir:
        folder = Path(launch_dir) / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank_{rank}").write_text(f"{text}\n", encoding="utf-8")

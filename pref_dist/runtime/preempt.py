"""Asking a run to stop: signals and stop files only set a flag; ranks agree at the step border."""

import os
import signal
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LAUNCH_DIR_VARIABLE = "PREF_DIST_LAUNCH_DIR"  # set by launch/*.sh: a folder that holds `stop` and `exit_codes/`


class StopRequest:
    """Whether this process was asked to stop, and by what.

    Use as a context manager around the work; the former signal handlers come back afterwards.
    """

    def __init__(self, stop_files: tuple[Path, ...]) -> None:
        self._stop_files = stop_files
        self._reason = ""
        self._interrupted = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOP_SIGNALS:
            self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself gave

    def _remember(self, number: int, _: FrameType | None) -> None:
        # Ctrl-C once saves and leaves; twice leaves at once.
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self._reason = f"signal {signal.Signals(number).name}"

    def reason(self) -> str:
        """Return why to stop, or an empty string. Reads the file system, so ask once a step."""
        for path in self._stop_files:
            if not self._reason and path.exists():
                self._reason = f"stop file {path}"
        return self._reason


def stop_files(run_stop_file: Path) -> tuple[Path, ...]:
    """Return the files whose appearance asks a run to stop: its own, and the launcher's where there is one."""
    launch_dir = os.environ.get(LAUNCH_DIR_VARIABLE)
    return (run_stop_file, *((Path(launch_dir) / "stop",) if launch_dir else ()))


def tell_launcher(rank: int, exit_code: int) -> None:
    """Leave this rank's exit code for launch/*.sh, because torchrun turns every failure into 1."""
    launch_dir = os.environ.get(LAUNCH_DIR_VARIABLE)
    if launch_dir:
        folder = Path(launch_dir) / "exit_codes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank_{rank}").write_text(f"{exit_code}\n", encoding="utf-8")

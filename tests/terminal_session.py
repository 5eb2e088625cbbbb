"""A command in a terminal of its own, a real pty, as a person has it: what stands on the screen, and keys to press."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTROL_C = "\x03"
ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class TerminalSession:
    """Starts `command` as the leader of a session whose terminal is the pty; use it as a context manager.

    output: where standard output goes instead of the terminal.
    """

    def __init__(
        self,
        command: Sequence[object],
        env: Mapping[str, str],
        cwd: Path,
        columns: int = 110,
        output: Path | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._read = bytearray()

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            # Tests that were started in the background inherit an ignored Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)

        stdout = slave if output is None else os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={"TERM": "xterm-256color", **env}, cwd=cwd, stdin=slave, stdout=stdout, stderr=slave,
            start_new_session=True, preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(slave)
        if output is not None:
            os.close(stdout)
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def __enter__(self) -> "TerminalSession":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._thread.join(5)
        os.close(self._master)

    def _collect(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # nobody has the other end any more
                return
            if not piece:
                return
            self._read += piece

    @property
    def raw(self) -> str:
        return self._read.decode(errors="replace")

    @property
    def screen(self) -> list[str]:
        return render_screen(self.raw)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until `text` has been written, colours and all that is not text taken out."""
        deadline = time.monotonic() + seconds
        while text not in ESCAPE.sub("", self.raw):
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s:\n{self.raw}"
            assert self.process.poll() is None or self._thread.is_alive(), f"ended without {text!r}:\n{self.raw}"
            time.sleep(0.02)

    def end(self, seconds: float = 120) -> int:
        """Return the exit code, once all that was written has been read."""
        code = self.process.wait(seconds)
        self._thread.join(5)
        return code


def render_screen(raw: str) -> list[str]:
    """Return the lines that a person sees: a small part of a VT100, enough for one line that is drawn anew."""
    lines, column, place = [""], 0, 0
    while place < len(raw):
        escape = ESCAPE.match(raw, place)
        if escape:
            if escape[2] == "K":
                lines[-1] = lines[-1][:column]
            place = escape.end()
            continue
        character = raw[place]
        place += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        elif character >= " ":
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]

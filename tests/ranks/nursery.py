"""Where the ranks of tests come from: a process that has imported what every rank needs, and forks.

A rank spends 4 s on imports and .1 s on a tiny run. Its process is as real as one that was started anew: it has its own
memory, session, environment and files. What it doesn't have is a start of its own, which tests/launch is there for.
"""

import atexit
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

MODULES = (
    "pref_dist.train.run",
    "pref_dist.evaluate.run",
    "pref_dist.predict",
    "pref_dist.cli.program",
    "pref_dist.runtime.fsdp",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto.modeling_auto",
    "transformers.integrations",
)
# DeepSpeed reads DS_ACCELERATOR when it is imported, so ranks that use it come from a nursery of their own.
DEEPSPEED_MODULES = (*MODULES, "pref_dist.runtime.zero")
# Variables that are read when they are needed, not at some import. With others a rank is started anew.
LATE_VARIABLES = ("ACCELERATE_", "FSDP_", "PREF_DIST_", "MASTER_", "SLURM_", "TMPDIR")
MESSAGE_BYTES = 1 << 18
POLL_SECONDS = 0.02


class ForkedProcess:
    """The part of subprocess.Popen that tests use, for a process that a nursery has forked."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"wait": self.pid})["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The test's side: one process that forks, as long as the tests run."""

    def __init__(self, env: Mapping[str, str], modules: Sequence[str]) -> None:
        self._number = 0
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-m", "tests.ranks.nursery", str(other.fileno()), *modules]
            self._process = subprocess.Popen(
                command, env=dict(env), pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        atexit.register(self.close)

    def start(self, command: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int) -> ForkedProcess:
        """Fork a process that runs `command`: ("-m", MODULE, ...) or (FILE, ...)."""
        answer = self.ask({"command": list(command), "env": dict(env), "cwd": env["PWD"]}, [stdout, stderr])
        return ForkedProcess(self, answer["pid"])

    def ask(self, request: Mapping[str, Any], files: Sequence[int] = ()) -> Any:
        self._number += 1
        message = json.dumps({**request, "number": self._number}).encode()
        socket.send_fds(self._socket, [message], list(files))
        while True:
            received = self._socket.recv(MESSAGE_BYTES)
            if not received:
                raise RuntimeError(f"The nursery of ranks has ended with exit code {self._process.wait()}.")
            answer = json.loads(received)
            # Another one is for a request whose asker was interrupted (Ctrl-C, a test's time limit).
            if answer["number"] == self._number:
                return answer

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def serve(requests: socket.socket) -> None:
    """Fork and tell about those that were forked, until nobody asks any more."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 2)
        if not message:
            return
        request = json.loads(message)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                requests.close()
                become(request, files)
            for file in files:
                os.close(file)
            answer = {"pid": pid}
        requests.send(json.dumps({**answer, "number": request["number"]}).encode())


def become(request: Mapping[str, Any], files: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, from its first line to its exit code."""
    os.setsid()
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb", 0), write_through=True) for number in (1, 2))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os._exit(run(request["command"]))


def run(command: Sequence[str]) -> int:
    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for name in sys.argv[2:]:
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))

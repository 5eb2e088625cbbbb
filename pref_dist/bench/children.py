"""Starts measurements, each in a fresh process, so that none finds memory, caches or threads of another."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from pref_dist.errors import BenchError

STDERR_CHARACTERS = 1500
SECONDS_BETWEEN_LOOKS = 0.02
# What a launcher has set is not about one measurement's process.
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def run_child(part: str, question: Any, watch_memory: bool = False) -> dict[str, Any]:
    """Return what the part measured; with `watch_memory` also tree_bytes, the largest memory of it and its children.

    Raises BenchError with the end of what the process said, and a remedy, if it gave no answer. It leaves no
    temporary file, however it ended. Their folder has a short name: in it lie sockets, whose paths have at most 107
    characters.
    """
    with tempfile.TemporaryFile() as stderr, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        process = subprocess.Popen(
            [sys.executable, "-m", "pref_dist.bench", part],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
            env=child_environment() | {"TMPDIR": temporary},
        )  # fmt: skip
        peak = TreeMemory(process.pid) if watch_memory else None
        try:
            output, _ = process.communicate(json.dumps(asdict(question)).encode())
        finally:  # Ctrl-C, SIGTERM and SIGHUP must not leave it behind
            end_group(process)
        if process.returncode != 0 or not output.strip():
            raise BenchError(explain(part, process.returncode, read_end(stderr)))
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found if peak is None else found | {"tree_bytes": peak.bytes}


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started, datasets.map's processes for one."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def child_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    # One device: with several in sight Trainer would use them all, and our single process one.
    kept.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return kept | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def read_end(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read().decode(errors="replace").strip()[-STDERR_CHARACTERS:]


def explain(part: str, code: int, said: str) -> str:
    """Return what became of a child without an answer: how it ended, what it said last, and the remedy."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        remedy = "Most likely the machine had no memory left: lower --rows-per-step or --max-tokens."
    elif "ModuleNotFoundError" in said or "ImportError" in said:
        remedy = "Install what it names, or leave that pipeline out with --peers."
    elif "out of memory" in said or "allocate memory" in said:
        remedy = "Lower --rows-per-step or --max-tokens."
    else:
        remedy = "Mend what it names, or leave that pipeline out with --peers."
    return f"The measuring process '{part}' ended with {how}, and said last:\n{said or '(nothing)'}\n{remedy}"


class TreeMemory:
    """The largest resident memory of a process and all below it, pages that they share counted for each."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        threading.Thread(target=self._watch, args=(pid,), daemon=True).start()

    def _watch(self, pid: int) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                tree = [parent, *parent.children(recursive=True)]
                self.bytes = max(self.bytes, sum(read_rss(process) for process in tree))
                time.sleep(SECONDS_BETWEEN_LOOKS)


def read_rss(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0

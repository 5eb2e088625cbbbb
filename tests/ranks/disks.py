"""Real limits for tests of full disks: a small file system, or a limit on a running process's file size."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

BLOCK = b"\0" * (1 << 16)


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path | None]:
    """Mount a tmpfs of that size on `folder`; yields None where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all that is free on a file system; returns the file to delete."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for block in (BLOCK, b"\0"):
            try:
                while file.write(block):
                    pass
            except OSError:
                continue
    return path


def limit_file_size(pid: int, num_bytes: int) -> None:
    """Let no file of a running process, nor of its children, grow beyond that: further writes fail with EFBIG."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (num_bytes, hard))

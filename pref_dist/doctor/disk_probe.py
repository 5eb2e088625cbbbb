"""What a folder's file system really does: writes, keeps, renames and locks; and what kind it is."""

import fcntl
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROBE_BYTES = 1 << 20
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_SYSTEMS = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "glusterfs", "9p", "fuse", "afs", "pvfs")


@dataclass(frozen=True)
class Probe:
    """What became of a file that was written, synced and renamed. failure: "" or the error, with where it happened.

    lock: "" if a second lock of a locked file is refused, as it must be; else what happened.
    """

    seconds: float
    failure: str = ""
    errno: int | None = None
    lock: str = ""


def find_existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest of its parents that is there."""
    folder = folder.expanduser().absolute()
    # Not Path.exists, which raises where a folder above may not be looked into.
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def probe_folder(folder: Path) -> Probe:
    """Write 1 MB into an existing folder, sync, rename, read, lock, and remove it. Leaves nothing there."""
    name = f".doctor-{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
    first, second = folder / f"{name}.tmp", folder / name
    start = time.perf_counter()
    try:
        write_and_rename(first, second)
        seconds = time.perf_counter() - start
        lock = try_lock(second)
    except OSError as error:
        return Probe(time.perf_counter() - start, error.strerror or str(error), error.errno)
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return Probe(seconds, lock=lock)


def write_and_rename(first: Path, second: Path) -> None:
    """Do what a checkpoint does to a file. Raises OSError, also where what was read is not what was written."""
    content = os.urandom(4096) * (PROBE_BYTES // 4096)
    with open(first, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(first, second)
    if second.read_bytes() != content:
        raise OSError("what was read is not what had been written")


def try_lock(path: Path) -> str:
    """Return "" if a lock keeps others out, else why not: one builder of a cache entry relies on it."""
    with open(path, "rb") as owner, open(path, "rb") as other:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"flock fails: {error.strerror}"
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError as error:
            return f"flock fails: {error.strerror}"
    return "two locks on one file are granted at once"


def find_file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on, such as ext4 or nfs4; "unknown" if not told."""
    best, kind = "", "unknown"
    real = os.path.realpath(folder)
    with suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            fields, _, rest = line.partition(" - ")
            place = fields.split(" ")[4].encode().decode("unicode_escape")
            is_above = real == place or real.startswith(place.rstrip("/") + "/")
            if is_above and len(place) >= len(best):
                best, kind = place, rest.split(" ")[0]
    return kind


def is_network(kind: str) -> bool:
    return kind.startswith(NETWORK_SYSTEMS)

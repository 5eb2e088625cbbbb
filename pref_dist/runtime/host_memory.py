"""How much memory the host has for this process: a container or a job may have less than the machine."""

from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def read_memory() -> tuple[int, int]:
    """Return (total, available) bytes of the host."""
    import psutil  # Accelerate needs it, too

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def read_limit() -> tuple[int, int] | None:
    """Return (limit, bytes in use) of this process's cgroup; None: it has no limit below the host's memory.

    Of the groups around it, too, such as a Slurm job's around its step's: of the one with the least room. Files that
    are kept in memory until somebody needs the room count as free.
    """
    found = [limit for folder in list_cgroups() if (limit := read_group(folder)) is not None]
    return min(found, key=lambda limit: limit[0] - limit[1], default=None)


def list_cgroups() -> list[Path]:
    """Return this process's cgroup and those around it (v2), or the one of a v1 memory controller."""
    own = find_cgroup_file("memory.max").parent
    around = [own, *(folder for folder in own.parents if folder.is_relative_to(CGROUPS))]
    return [*around, CGROUPS / "memory"]


def read_group(folder: Path) -> tuple[int, int] | None:
    limit = read_number(folder, "memory.max", "memory.limit_in_bytes")
    if limit is None or limit >= read_memory()[0]:
        return None
    used = read_number(folder, "memory.current", "memory.usage_in_bytes") or 0
    with suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        counts = dict(line.split(maxsplit=1) for line in lines)
        used -= int(counts.get("inactive_file", 0))
    return limit, max(0, used)


def read_free() -> int:
    """Return the bytes that processes here can still take."""
    _, free = read_memory()
    limit = read_limit()
    return free if limit is None else max(0, min(free, limit[0] - limit[1]))


def read_number(folder: Path, name: str, older_name: str) -> int | None:
    for path in (folder / name, folder / older_name):
        with suppress(OSError, ValueError):
            return int(path.read_text(encoding="utf-8"))
    return None


def find_cgroup_file(name: str) -> Path:
    """Return a file of this process's own cgroup (v2), or of the root one, which a container sees as its own."""
    with suppress(OSError, IndexError):
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()[-1].split("::", 1)[1]
        path = CGROUPS / own.lstrip("/") / name
        if path.exists():
            return path
    return CGROUPS / name

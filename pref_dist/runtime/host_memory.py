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
    """Return (limit, bytes in use) of this process's cgroup; None: it has no limit below the host's memory."""
    limit = read_cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    used = read_cgroup_number("memory.current", "memory/memory.usage_in_bytes")
    return None if limit is None or limit >= read_memory()[0] else (limit, used or 0)


def read_free() -> int:
    """Return the bytes that processes here can still take."""
    _, free = read_memory()
    limit = read_limit()
    return free if limit is None else max(0, min(free, limit[0] - limit[1]))


def read_cgroup_number(name: str, older_name: str) -> int | None:
    for path in (find_cgroup_file(name), CGROUPS / older_name):
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

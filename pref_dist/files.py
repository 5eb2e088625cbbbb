"""Files that are whole or not there, and their digests."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pref_dist.errors import CheckpointError

StrPath = str | os.PathLike[str]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, a quota, a limit on the size of a file


def as_paths(places: StrPath | Iterable[StrPath]) -> list[Path]:
    """Return one place or several as a list of paths; a text is one place, not its letters."""
    return [Path(places)] if isinstance(places, (str, os.PathLike)) else [Path(place) for place in places]


def as_path(place: StrPath | None) -> Path | None:
    """Return a place as a path; None stays None."""
    return None if place is None else Path(place)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that readers see the old content or the new, even after power loss or on a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove the files in a folder that `write_bytes` had not named yet when its process was killed."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As write_bytes, of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, render_json(value))


def render_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Raises CheckpointError that names the file if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's content, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Return what a manifest keeps of a file: {bytes, sha256}."""
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def sync(path: Path) -> None:
    """Ask the disk to keep a file, or a folder's list of names, through a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def render_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

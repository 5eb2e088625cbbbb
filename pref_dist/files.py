"""Files that are whole or not there, and their digests."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pref_dist.errors import CheckpointError

StrPath = str | os.PathLike[str]

# C0 but for tab and line feed, DEL, C1.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, a quota, a limit on the size of a file


def as_paths(places: StrPath | Iterable[StrPath]) -> list[Path]:
    """Return one place or several as a list of paths; a text is one place, not its letters."""
    return [Path(places)] if isinstance(places, (str, os.PathLike)) else [Path(place) for place in places]


def as_path(place: StrPath | None) -> Path | None:
    """Return a place as a path; None stays None."""
    return None if place is None else Path(place)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that readers see the old content or the new, even after power loss or on a full disk."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` when the work is done; an error leaves `path` as it was.

    A link that stands there, or where the unfinished file is to be, is replaced and never followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file's content, as write_bytes."""
    write_bytes(target, source.read_bytes())


def remove_folder(folder: Path) -> None:
    """Delete a folder with all that is in it; of a link to a folder the link alone. What cannot be deleted stays."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def leaves_folder(name: str) -> bool:
    """Whether a file's name, as data has it, is more than a name in one folder."""
    return name != os.path.basename(name) or name in ("", ".", "..")


def without_controls(text: str) -> str:
    """Return a text for a terminal: what would steer it is shown as \\x1b and so on; lines and tabs stay."""
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


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

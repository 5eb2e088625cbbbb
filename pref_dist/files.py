"""Files that are whole or not there, and their digests."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pref_dist.errors import CheckpointError


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, even after power loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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

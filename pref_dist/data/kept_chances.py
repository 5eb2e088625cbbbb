"""Probabilities that took long to compute, kept beside the token caches: CACHE_DIR/baselines/KEY.safetensors.

As with tokens, the key is a hash of all that decides the numbers, and of nothing else. A file tells whether it is as
it was written; one that is not is computed again, never believed.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pref_dist.data.cache_entry import digest_json
from pref_dist.errors import DataError
from pref_dist.files import write_bytes

Chances = dict[str, NDArray[np.float64]]

FOLDER = "baselines"
SUFFIX = ".safetensors"


class Kept(NamedTuple):
    """What a file holds. chances: name -> (n, 3) float64. built_from: the source's name, for people."""

    key_parts: dict[str, Any]
    chances: Chances
    built_from: str


def path_of_kept(cache_dir: Path, key: str) -> Path:
    return cache_dir / FOLDER / f"{key}{SUFFIX}"


def list_kept(cache_dir: Path) -> list[Path]:
    return sorted((cache_dir / FOLDER).glob(f"[0-9a-f]*{SUFFIX}"))


def list_unfinished(cache_dir: Path) -> list[Path]:
    """Return the files that a killed writer had not named yet; or one that is at work, which bears the loss."""
    return sorted((cache_dir / FOLDER).glob(f".*{SUFFIX}.*.tmp"))


def write_kept(cache_dir: Path, kept: Kept) -> None:
    """Write a file, whole or not at all; of two writers of one key both succeed. Raises OSError."""
    notes = {"key_parts": json.dumps(kept.key_parts, sort_keys=True), "built_from": kept.built_from}
    content = save(kept.chances, metadata=notes | {"sha256": digest_kept(kept)})
    write_bytes(path_of_kept(cache_dir, digest_json(kept.key_parts)), content)


def read_kept(path: Path) -> Kept:
    """Return what a file holds. Raises DataError if it is missing, or not as it was written."""
    try:
        with safe_open(path, framework="numpy") as file:
            notes = file.metadata()
            chances = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        kept = Kept(json.loads(notes["key_parts"]), chances, notes["built_from"])
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise DataError(explain_damage(path, f"cannot be read ({error})")) from error
    if digest_kept(kept) != notes["sha256"]:
        raise DataError(explain_damage(path, "is not as it was written (its sha256 differs)"))
    if digest_json(kept.key_parts) != path.name.removesuffix(SUFFIX):
        raise DataError(explain_damage(path, "belongs under another name"))
    return kept


def digest_kept(kept: Kept) -> str:
    """Return the sha256 of everything in a file, the order of its parts aside."""
    return hashlib.sha256(b"".join(iterate_content(kept))).hexdigest()


def iterate_content(kept: Kept) -> Iterator[bytes]:
    yield digest_json([kept.key_parts, kept.built_from]).encode()
    for name, chances in sorted(kept.chances.items()):
        yield f"\n{name} {chances.dtype} {chances.shape}\n".encode()
        yield np.ascontiguousarray(chances).tobytes()


def explain_damage(path: Path, what: str) -> str:
    return f"The kept baselines are damaged: {path} {what}. They are fitted again when they are needed."

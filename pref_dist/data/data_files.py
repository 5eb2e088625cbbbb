"""Which files a path names, and what kind each of them is."""

import glob
import os
from pathlib import Path
from typing import Literal

from pref_dist.errors import DataError

FileKind = Literal["csv", "jsonl", "json", "parquet"]

KINDS: dict[str, FileKind] = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
COMPRESSIONS = (".gz", ".zst")
NOT_READ = (
    ".tsv",
    ".bz2",
    ".xz",
    ".zip",
    ".7z",
    ".tar",
    ".tgz",
    ".arrow",
    ".feather",
    ".orc",
    ".avro",
    ".xls",
    ".xlsx",
)
HIDDEN = (".", "_")
SETTINGS = "data.train, data.sources, data.valid, data.test or --data"


def find_files(path: Path) -> list[Path]:
    """Return the files that `path` names: itself, those in a folder (and below), or those a pattern matches.

    In the order of their names. Of a folder hidden files and those that hold no data (README.md) do not count.
    Raises DataError if there is none, or one that looks like data and cannot be read.
    """
    if path.is_dir():
        found = list_folder(path)
        if not found:
            known = ", ".join([*KINDS, *(f"*{suffix}" for suffix in COMPRESSIONS)])
            raise DataError(f"The folder {path} holds no data file ({known}). Name a file, or another folder.")
        return found
    if not path.exists() and glob.has_magic(str(path)):
        matched = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [file for match in matched for file in (list_folder(match) if match.is_dir() else [match])]
        if not found:
            raise DataError(f"No file matches {path}. Check the pattern ({SETTINGS}).")
        return list(dict.fromkeys(found))
    return [path]


def list_folder(folder: Path) -> list[Path]:
    """Return the data files below a folder, links followed, in the order of their names. Raises DataError."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # a link back to where the walk has been
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        files = [Path(place) / name for name in names if not name.startswith(HIDDEN)]
        unreadable = [file for file in files if file.suffix.lower() in NOT_READ]
        if unreadable:
            raise DataError(
                f"{folder} holds {unreadable[0]}, which cannot be read ({', '.join(KINDS)}, also .gz and .zst, can). "
                "Convert it, move it away, or name the files to read by a pattern."
            )
        found += [file for file in files if bare_suffix(file) in KINDS]
    return sorted(found)


def bare_suffix(path: Path) -> str:
    """Return the suffix without that of a compression."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def kind_of(path: Path) -> FileKind:
    """Return the kind of a file by its name; a name that says nothing is taken for CSV."""
    return KINDS.get(bare_suffix(path), "csv")


def describe_kind(path: Path) -> str:
    name = {"csv": "CSV file", "jsonl": "file of JSON lines", "json": "JSON file", "parquet": "Parquet file"}[
        kind_of(path)
    ]
    compression = path.suffix.lower()
    return f"{name} compressed as {compression}" if compression in COMPRESSIONS else name

"""Looking after a cache folder: what is in it, whether it is whole, and what can go."""

import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pref_dist.data.cache_entry import MANIFEST, check_entry, read_manifest
from pref_dist.data.cache_lock import TEMPORARY, lock_path
from pref_dist.data.kept_chances import SUFFIX, list_kept, list_unfinished, path_of_kept, read_kept
from pref_dist.errors import DataError

SECONDS_A_DAY = 86_400.0
KEY_LENGTH = 64  # hex digits of a sha256


@dataclass(frozen=True)
class EntrySummary:
    """One entry. damage: why it cannot be used, "" if it can; all that is known of a damaged one is its size.

    kind: tokens of a source, or the probabilities of baselines, whose rows are the scored ones.
    """

    key: str
    num_bytes: int
    age_days: float
    damage: str = ""
    num_rows: int = 0
    num_tokens: int = 0
    built_from: str = ""  # the source's name at that time; the same content elsewhere finds the entry too
    settings: str = ""  # how rows became tokens
    kind: Literal["tokens", "baselines"] = "tokens"

    def path_in(self, cache_dir: Path) -> Path:
        """Return the folder of tokens, or the file of baselines."""
        return cache_dir / self.key if self.kind == "tokens" else path_of_kept(cache_dir, self.key)


def list_entries(cache_dir: Path) -> list[EntrySummary]:
    """Return all entries of a cache folder, the newest first, by their manifests alone.

    Raises DataError if there is no such folder.
    """
    if not cache_dir.is_dir():
        raise DataError(
            f"There is no cache folder {cache_dir}. Set data.cache_dir, PREF_DIST_CACHE_DIR or --cache-dir."
        )
    entries = [summarise_entry(folder) for folder in cache_dir.iterdir() if is_entry(folder)]
    entries += [summarise_kept(file) for file in list_kept(cache_dir)]
    # One that was removed meanwhile is not a damaged one.
    there = [entry for entry in entries if not entry.damage or entry.path_in(cache_dir).exists()]
    return sorted(there, key=lambda entry: (entry.age_days, entry.key))


def is_entry(folder: Path) -> bool:
    return folder.is_dir() and len(folder.name) == KEY_LENGTH and set(folder.name) <= set("0123456789abcdef")


def summarise_entry(folder: Path) -> EntrySummary:
    num_bytes, age_days = measure_size(folder), measure_age(folder)
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return EntrySummary(folder.name, num_bytes, age_days, damage=str(error))
    return EntrySummary(
        folder.name,
        num_bytes,
        age_days,
        num_rows=manifest["num_rows"],
        num_tokens=manifest["num_tokens"],
        built_from=manifest.get("built_from", ""),
        settings=describe_settings(manifest["key_parts"]),
    )


def summarise_kept(file: Path) -> EntrySummary:
    """Read a file of baselines, whole: a row has 72 bytes there."""
    key, num_bytes, age_days = file.name.removesuffix(SUFFIX), measure_size(file), measure_age(file)
    try:
        kept = read_kept(file)
    except DataError as error:
        return EntrySummary(key, num_bytes, age_days, damage=str(error), kind="baselines")
    num_rows = max(map(len, kept.chances.values()), default=0)
    return EntrySummary(
        key, num_bytes, age_days, num_rows=num_rows, built_from=kept.built_from, settings="baselines", kind="baselines"
    )


def describe_settings(parts: dict[str, Any]) -> str:
    names = ("template", "clean", "truncation", "max_tokens")
    return ", ".join(str(parts[name]) for name in names if parts.get(name, "none") != "none")


def measure_size(place: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    num_bytes = 0
    for file in place.rglob("*") if place.is_dir() else [place]:
        with suppress(FileNotFoundError):
            num_bytes += file.stat().st_size if file.is_file() else 0
    return num_bytes


def measure_age(place: Path) -> float:
    """Days since the entry was built."""
    for path in (place / MANIFEST, place):
        with suppress(FileNotFoundError, NotADirectoryError):
            return (time.time() - path.stat().st_mtime) / SECONDS_A_DAY
    return 0.0


def verify_entries(cache_dir: Path, key_prefix: str = "") -> list[EntrySummary]:
    """Read every byte of the entries whose key begins so, and return them with what is damaged.

    Raises DataError if there is no such entry.
    """
    entries = [entry for entry in list_entries(cache_dir) if entry.key.startswith(key_prefix)]
    if key_prefix and not entries:
        raise DataError(f"{cache_dir} holds no entry whose key begins with {key_prefix}. See `pref-dist cache list`.")
    return [verify_entry(cache_dir, entry) for entry in entries]


def verify_entry(cache_dir: Path, entry: EntrySummary) -> EntrySummary:
    if entry.kind == "baselines":
        return entry  # it was read whole to be listed
    try:
        check_entry(cache_dir / entry.key)
    except DataError as error:
        return EntrySummary(entry.key, entry.num_bytes, entry.age_days, damage=str(error))
    return entry


@dataclass(frozen=True)
class CleanRequest:
    """What to remove besides the left-overs of killed builders, which always go.

    everything: all entries; damaged: those that `verify_entries` finds; older_than_days: by when they were built.
    """

    everything: bool = False
    damaged: bool = False
    older_than_days: float | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Removed:
    """name: of an entry, or of a left-over folder or file. in_use: it stayed, since a process is building it."""

    name: str
    num_bytes: int
    in_use: bool = False


def clean(cache_dir: Path, request: CleanRequest) -> list[Removed]:
    """Remove what the request names, each under its lock; return it. An entry that is read stays readable.

    Lock files stay, they are empty: to remove one would let two processes hold "the" lock.
    """
    entries = verify_entries(cache_dir) if request.damaged else list_entries(cache_dir)
    going = [entry for entry in entries if should_go(entry, request)]
    folders = [entry.path_in(cache_dir) for entry in going if entry.kind == "tokens"]
    leftovers = [folder for folder in cache_dir.glob(f"*{TEMPORARY}*") if folder.is_dir()]
    files = [(entry.key, entry.path_in(cache_dir)) for entry in going if entry.kind == "baselines"]
    files += [(file.name, file) for file in list_unfinished(cache_dir)]
    return [
        *(remove(cache_dir, folder, request.dry_run) for folder in [*folders, *sorted(leftovers)]),
        *(remove_file(name, file, request.dry_run) for name, file in files),
    ]


def should_go(entry: EntrySummary, request: CleanRequest) -> bool:
    is_old = request.older_than_days is not None and entry.age_days > request.older_than_days
    return request.everything or is_old or (request.damaged and bool(entry.damage))


def remove(cache_dir: Path, folder: Path, dry_run: bool) -> Removed:
    """Rename the folder, then delete it: at no moment is there half an entry under its own name."""
    num_bytes = measure_size(folder)
    key = folder.name.split(TEMPORARY)[0]
    try:
        with FileLock(lock_path(cache_dir, key), timeout=0):
            if not dry_run:
                doomed = cache_dir / f"{key}{TEMPORARY}{uuid.uuid4().hex}"
                folder.rename(doomed)
                shutil.rmtree(doomed)
    except FileNotFoundError:
        return Removed(folder.name, num_bytes)  # somebody else was quicker
    except Timeout:
        return Removed(folder.name, num_bytes, in_use=True)
    except OSError as error:
        raise explain_refusal(folder, error) from error
    return Removed(folder.name, num_bytes)


def remove_file(name: str, file: Path, dry_run: bool) -> Removed:
    """A file goes at once, and needs no lock: its writer renames it into place, and its readers hold all of it."""
    num_bytes = measure_size(file)
    try:
        if not dry_run:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise explain_refusal(file, error) from error
    return Removed(name, num_bytes)


def explain_refusal(place: Path, error: OSError) -> DataError:
    return DataError(f"{place} cannot be removed: {error.strerror}. Check who owns {place.parent}.")

"""The token cache: each data set is tokenised once, and found again by what it contains.

    CACHE_DIR/KEY/  manifest.json  rows-00000.arrow ...  set_aside.jsonl  truncation.json

KEY is a hash of all that decides the tokens, and of nothing else: a renamed file, another mtime or
another number of workers finds the same entry.
"""

import json
import os
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pref_dist.config.schema import DataSection, RunConfig
from pref_dist.data.cache_build import MANIFEST, SET_ASIDE, TRUNCATION, build_entry, digest_json
from pref_dist.data.cache_lock import hold_lock
from pref_dist.data.encode import TokenizerSpec
from pref_dist.data.shards import map_batches, read_triples
from pref_dist.data.workers import count_workers
from pref_dist.errors import DataError
from pref_dist.files import describe_file, digest_file

# Raise it with every change of the tokens or the layout: old entries are then never found again.
SCHEMA_VERSION = 1


def default_cache_dir(config: RunConfig) -> Path:
    """Return `data.cache_dir`, else $PREF_DIST_CACHE_DIR, else ~/.cache/pref_dist."""
    named = config.data.cache_dir or os.environ.get("PREF_DIST_CACHE_DIR") or "~/.cache/pref_dist"
    return Path(named).expanduser()


def open_tokens(source: Path, data: DataSection, tokenizer: TokenizerSpec, cache_dir: Path) -> "TokenTable":
    """Return the tokens of a source file, building its cache entry if there is none.

    Of `data` it takes how a row becomes tokens (bad_rows, template, truncation, max_tokens) and
    num_workers. Any number of processes may call this at once: one builds, the others wait.
    Raises DataError for a source that cannot be used, a damaged entry, or a cache folder that
    cannot be written where an entry must be built.
    """
    key_parts = describe_key(source, data, tokenizer)
    folder = cache_dir / digest_json(key_parts)
    started = time.perf_counter()
    was_built = not folder.exists() and build_once(folder, source, data, tokenizer, key_parts)
    return TokenTable(folder, source, time.perf_counter() - started if was_built else None)


def build_once(
    folder: Path, source: Path, data: DataSection, tokenizer: TokenizerSpec, key_parts: dict[str, Any]
) -> bool:
    """Build an entry unless another process does; return whether this one did."""
    with hold_lock(folder):
        if folder.exists():
            return False
        num_workers = count_workers(data.num_workers, source.stat().st_size)
        build_entry(folder, source, tokenizer, key_parts, num_workers)
        return True


def describe_key(source: Path, data: DataSection, tokenizer: TokenizerSpec) -> dict[str, Any]:
    """Return all that decides the content of an entry. Raises DataError if the source cannot be read."""
    try:
        source_sha256 = digest_file(source)
    except OSError as error:
        raise DataError(
            f"{source} cannot be read: {error.strerror}. Check the path (data.train, data.valid or --data)."
        ) from error
    return {
        "schema_version": SCHEMA_VERSION,
        "source_sha256": source_sha256,
        "tokenizer": tokenizer.digest,
        "bad_rows": data.bad_rows,
        "template": data.template,
        "truncation": data.truncation,
        "max_tokens": data.max_tokens,
    }


class TokenTable:
    """A data set as tokens, read-only and mapped into memory: N rows, in the order of the file.

    Positions 0..N-1 name its rows; `row_numbers` says which data row of the file each one is.
    """

    def __init__(self, folder: Path, source: Path, build_seconds: float | None = None) -> None:
        """Open the entry `folder`. Raises DataError if a file in it is missing or has another size."""
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        self.folder = folder
        self.source = source
        self.digest = folder.name
        self.build_seconds = build_seconds  # None: it was there, or another process built it
        self.is_labelled: bool = manifest["is_labelled"]
        self.findings: dict[str, int] = manifest["findings"]  # kind -> rows, kept ones included
        self.num_rows_in_file: int = manifest["num_rows_in_file"]
        self.num_tokens: int = manifest["num_tokens"]
        self._batches = map_batches(folder / name for name in manifest["shards"])
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._offsets = [batch.column("input_ids").offsets.to_numpy() for batch in self._batches]
        self._tokens = [batch.column("input_ids").values.to_numpy() for batch in self._batches]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def was_built(self) -> bool:
        return self.build_seconds is not None

    def input_ids(self, row: int) -> npt.NDArray[np.int32]:
        """Return the tokens of one row, a view of the file. Raises IndexError outside 0..N-1."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table with {len(self)} rows")
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        start, end = self._offsets[batch][row - self._starts[batch] :][:2]
        tokens: npt.NDArray[np.int32] = self._tokens[batch][start:end]
        return tokens

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(N,) tokens of each row."""
        return join([np.diff(offsets).astype(np.int32) for offsets in self._offsets])

    @cached_property
    def ids(self) -> Any:
        """(N,) ids as in the file, a pyarrow.ChunkedArray of strings."""
        return pa.chunked_array([batch.column("id") for batch in self._batches])

    @cached_property
    def row_numbers(self) -> npt.NDArray[np.int64]:
        """(N,) 1-based numbers of the data rows in the file."""
        return join([batch.column("row").to_numpy() for batch in self._batches])

    @cached_property
    def groups(self) -> npt.NDArray[np.uint64]:
        """(N,) hashes of the normalised prompts, see `folds.group_of`."""
        return join([batch.column("group").to_numpy() for batch in self._batches])

    @cached_property
    def targets(self) -> npt.NDArray[np.float64]:
        """(N, 3) probabilities of A, B, tie; NaN where the file is unlabelled."""
        return self._triples("target")

    @cached_property
    def segment_ends(self) -> npt.NDArray[np.int32]:
        """(N, 3) exclusive ends of prompt, A and B in `input_ids`, which they tile.

        A segment is its header, its text and the [SEP] that closes it; [CLS] belongs to the prompt.
        """
        return self._triples("segment_ends")

    @cached_property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """(N, 3) tokens of the text of prompt, A and B (headers and special tokens not) before truncation."""
        return self._triples("full_lengths")

    @cached_property
    def kept_lengths(self) -> npt.NDArray[np.int32]:
        """(N, 3) as `full_lengths`, after truncation."""
        return self._triples("kept_lengths")

    @cached_property
    def set_aside(self) -> list[dict[str, Any]]:
        """{file, row, id, kind, detail} of each row of the file that is not in the table."""
        text = (self.folder / SET_ASIDE).read_text(encoding="utf-8")
        # The entry does not know the file's name: the same content may stand in several files.
        return [{"file": str(self.source), **json.loads(line)} for line in text.splitlines()]

    @cached_property
    def truncation(self) -> dict[str, Any]:
        """The truncation audit of the whole file, see `truncate.audit_truncation`."""
        audit: dict[str, Any] = json.loads((self.folder / TRUNCATION).read_text(encoding="utf-8"))
        return audit

    def _triples(self, name: str) -> npt.NDArray[Any]:
        return join([read_triples(batch, name) for batch in self._batches])


def join(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate, without a copy where there is one part; the result is read-only."""
    joined = parts[0].view() if len(parts) == 1 else np.concatenate(parts)
    joined.flags.writeable = False
    return joined


def check_cache(folder: Path) -> dict[str, Any]:
    """Read a whole cache entry and compare every digest; return its manifest.

    Raises DataError that names the first file that is missing or not as it was written.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    if digest_json(manifest["key_parts"]) != folder.name:
        raise DataError(explain_damage(folder, MANIFEST, "belongs to another entry"))
    for name, written in manifest["files"].items():
        if describe_file(folder / name) != written:
            raise DataError(explain_damage(folder, name, "is not as it was written (its sha256 differs)"))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = manifest.pop("manifest_sha256")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise DataError(explain_damage(folder, MANIFEST, f"cannot be read ({error})")) from error
    if digest_json(manifest) != expected:
        raise DataError(explain_damage(folder, MANIFEST, "is not as it was written (its sha256 differs)"))
    return manifest


def check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    for name, written in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(explain_damage(folder, name, "is missing"))
        if path.stat().st_size != written["bytes"]:
            what = f"has {path.stat().st_size:,} bytes instead of {written['bytes']:,}"
            raise DataError(explain_damage(folder, name, what))


def explain_damage(folder: Path, name: str, what: str) -> str:
    return f"The token cache is damaged: {folder / name} {what}. Delete the folder {folder}; it will be built again."

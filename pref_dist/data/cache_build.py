"""Builds one entry of the token cache: by one process, whole or not at all.

The entry is written to a temporary folder beside its place and renamed. A lock that the kernel
releases with its owner keeps it to one builder; the others wait, and find the entry.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pref_dist.data.cache_entry import MANIFEST, SET_ASIDE, TRUNCATION, digest_json
from pref_dist.data.cache_lock import TEMPORARY, remove_leftovers
from pref_dist.data.encode import EncodedRows, RowEncoder
from pref_dist.data.ingest import SourceRequest, open_source
from pref_dist.data.shards import map_batches, read_vectors, write_shards
from pref_dist.data.truncation_audit import audit_truncation
from pref_dist.data.validate import RowChecker
from pref_dist.data.workers import encode_chunks, iterate_chunks
from pref_dist.errors import DataError
from pref_dist.files import describe_file, digest_file, sync, write_json, write_text
from pref_dist.findings import Policies


class BuildWatch(Protocol):
    """Who wants to know how a build goes."""

    def wait(self, source: Path) -> None:
        """Called once when another process is building the same entry."""

    def advance(self, source: Path, share_read: float, num_rows: int, num_tokens: int, seconds: float) -> None:
        """Called after each chunk with what was read and encoded so far; `share_read` is 1 at the end."""


@dataclass(frozen=True)
class BuildJob:
    """What to build. `key_parts` is all that the entry's content depends on, see `cache.describe_key`."""

    request: SourceRequest
    policies: Policies
    encoder: RowEncoder
    key_parts: dict[str, Any]
    num_workers: int
    watch: BuildWatch | None = None


def build_entry(folder: Path, job: BuildJob) -> None:
    """Write the cache entry `folder` from a source; nothing is there if this raises or is killed.

    The caller holds the lock. Raises DataError for a source that cannot be used, or that changes
    while it is read.
    """
    remove_leftovers(folder.parent, folder.name)
    temporary = folder.with_name(f"{folder.name}{TEMPORARY}{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        write_entry(temporary, job)
        sync(temporary)
        os.rename(temporary, folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_entry(folder: Path, job: BuildJob) -> None:
    checker = RowChecker(open_source(job.request), job.policies)
    chunks = encode_chunks(iterate_chunks(checker.iterate_rows()), job.encoder, job.num_workers)
    shards = write_shards(folder, report_progress(chunks, checker, job.watch))
    files = [file.path for file in checker.source.files]
    if [digest_file(file) for file in files] != [sha256 for *_, sha256 in job.key_parts["files"]]:
        raise DataError(f"{job.request.path} changed while it was read. Start again when nobody writes to it.")
    set_aside = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in checker.set_aside)
    write_text(folder / SET_ASIDE, set_aside)
    batches = map_batches(folder / name for name in shards)
    full, kept = read_all(batches, "full_lengths"), read_all(batches, "kept_lengths")
    write_json(folder / TRUNCATION, audit_truncation(full, kept, job.encoder.extra, job.encoder.max_tokens))
    manifest = {
        "key_parts": job.key_parts,
        "built_from": str(job.request.path),
        **describe_rows(checker),
        "num_tokens": sum(len(batch.column("input_ids").values) for batch in batches),
        "shards": shards,
        "files": {name: describe_file(folder / name) for name in (*shards, SET_ASIDE, TRUNCATION)},
    }
    write_json(folder / MANIFEST, {**manifest, "manifest_sha256": digest_json(manifest)})


def report_progress(
    chunks: Iterable[EncodedRows], checker: RowChecker, watch: BuildWatch | None
) -> Iterator[EncodedRows]:
    """Hand the chunks on and tell `watch` of each."""
    path, started = checker.source.path, time.perf_counter()
    num_bytes = sum(file.path.stat().st_size for file in checker.source.files)
    num_rows = num_tokens = 0
    for chunk in chunks:
        num_rows, num_tokens = num_rows + len(chunk.ids), num_tokens + len(chunk.input_ids)
        if watch is not None:
            # A Parquet file's footer is read twice.
            share = min(checker.meter.num_bytes / num_bytes, 0.999)
            watch.advance(path, share, num_rows, num_tokens, time.perf_counter() - started)
        yield chunk
    if watch is not None:
        watch.advance(path, 1.0, num_rows, num_tokens, time.perf_counter() - started)


def describe_rows(checker: RowChecker) -> dict[str, Any]:
    return {
        "format": checker.source.format,
        "is_labelled": checker.source.is_labelled,
        "has_soft_labels": bool(checker.source.layout.labels.soft_columns),
        "unused_columns": checker.source.files[0].unused_columns,
        "num_rows": checker.num_good,
        "num_rows_in_file": checker.num_rows,
        "rows_of_file": checker.rows_of_file,
        "findings": dict(sorted(checker.findings.items())),
        "first_rows": dict(sorted(checker.first_rows.items())),
    }


def read_all(batches: Sequence[Any], name: str) -> npt.NDArray[Any]:
    return np.concatenate([read_vectors(batch, name) for batch in batches])

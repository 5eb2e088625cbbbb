"""Builds one entry of the token cache: by one process, whole or not at all.

The entry is written to a temporary folder beside its place and renamed. A lock that the kernel
releases with its owner keeps it to one builder; the others wait, and find the entry.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pref_dist.data.cache_lock import TEMPORARY, remove_leftovers
from pref_dist.data.encode import RowEncoder, TokenizerSpec
from pref_dist.data.ingest import open_source
from pref_dist.data.shards import map_batches, read_triples, write_shards
from pref_dist.data.truncate import audit_truncation
from pref_dist.data.validate import RowChecker
from pref_dist.data.workers import encode_chunks, iterate_chunks
from pref_dist.errors import DataError
from pref_dist.files import describe_file, digest_file, sync, write_json, write_text

MANIFEST = "manifest.json"
SET_ASIDE = "set_aside.jsonl"
TRUNCATION = "truncation.json"


def build_entry(
    folder: Path, source: Path, tokenizer: TokenizerSpec, key_parts: dict[str, Any], num_workers: int
) -> None:
    """Write the cache entry `folder` from a source file; nothing is there if this raises or is killed.

    The caller holds the lock. Raises DataError for a source that cannot be used, or that changes
    while it is read.
    """
    remove_leftovers(folder.parent, folder.name)
    temporary = folder.with_name(f"{folder.name}{TEMPORARY}{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        write_entry(temporary, source, tokenizer, key_parts, num_workers)
        if digest_file(source) != key_parts["source_sha256"]:
            raise DataError(f"{source} changed while it was read. Start again when nobody writes to it.")
        sync(temporary)
        os.rename(temporary, folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_entry(
    folder: Path, source: Path, tokenizer: TokenizerSpec, key_parts: dict[str, Any], num_workers: int
) -> None:
    checker = RowChecker(open_source(source), key_parts["bad_rows"])
    encoder = RowEncoder(tokenizer, key_parts["max_tokens"])
    chunks = encode_chunks(iterate_chunks(checker.iterate_rows()), encoder, num_workers)
    shards = write_shards(folder, chunks)
    set_aside = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in checker.set_aside)
    write_text(folder / SET_ASIDE, set_aside)
    batches = map_batches(folder / name for name in shards)
    full, kept = read_all(batches, "full_lengths"), read_all(batches, "kept_lengths")
    write_json(folder / TRUNCATION, audit_truncation(full, kept, encoder.extra, encoder.max_tokens))
    manifest = {
        "key_parts": key_parts,
        **describe_rows(checker),
        "num_tokens": sum(len(batch.column("input_ids").values) for batch in batches),
        "shards": shards,
        "files": {name: describe_file(folder / name) for name in (*shards, SET_ASIDE, TRUNCATION)},
    }
    write_json(folder / MANIFEST, {**manifest, "manifest_sha256": digest_json(manifest)})


def describe_rows(checker: RowChecker) -> dict[str, Any]:
    return {
        "is_labelled": checker.source.is_labelled,
        "text_format": checker.source.text_format,
        "num_rows": checker.num_good,
        "num_rows_in_file": checker.num_rows,
        "findings": dict(sorted(checker.findings.items())),
    }


def read_all(batches: Sequence[Any], name: str) -> npt.NDArray[Any]:
    return np.concatenate([read_triples(batch, name) for batch in batches])


def digest_json(value: Any) -> str:
    """Return the sha256 of a value's JSON, which does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

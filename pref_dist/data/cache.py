"""The token cache: each data set is tokenised once, and found again by what it contains.

An entry's key is a hash of all that decides the tokens, and of nothing else: a renamed file, another
mtime or another number of workers finds the same entry.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pref_dist.config.schema import DataSection
from pref_dist.data.cache_build import BuildJob, BuildWatch, build_entry
from pref_dist.data.cache_entry import LAYOUT_KEY, check_entry, digest_json
from pref_dist.data.cache_folder import default_cache_dir as default_cache_dir
from pref_dist.data.cache_folder import find_cache_dir as find_cache_dir
from pref_dist.data.cache_lock import hold_lock
from pref_dist.data.data_files import COMPRESSIONS, SETTINGS, find_files, kind_of
from pref_dist.data.encode import RowEncoder, TokenizerSpec
from pref_dist.data.ingest import DEFAULT_ORDER_SEED, SourceRequest, holds_pairs
from pref_dist.data.table import TokenTable
from pref_dist.data.workers import count_workers
from pref_dist.errors import DataError
from pref_dist.files import digest_file
from pref_dist.findings import Policies

# Raise it with every change of the tokens: old entries are then never found again, and old runs do not go on.
SCHEMA_VERSION = 4
# Raise it with every change of what else an entry holds: entries are built anew, and runs go on with them.
LAYOUT_VERSION = 2


def open_tokens(
    source: Path,
    data: DataSection,
    tokenizer: TokenizerSpec,
    cache_dir: Path,
    *,
    format: str | None = None,
    order_seed: int = DEFAULT_ORDER_SEED,
    with_labels: bool = True,
    watch: BuildWatch | None = None,
) -> TokenTable:
    """Return the tokens of a source (a file, a folder, a pattern), building its cache entry if there is none.

    Of `data` it takes how a row becomes tokens (format, bad_rows, checks, template, clean, truncation,
    max_tokens) and num_workers; `format` goes before `data.format`. `order_seed` decides which response
    of a chosen/rejected pair is shown first; without `with_labels` label columns are passed over.
    Any number of processes may call this at once: one builds, the others wait; `watch` hears of it.
    Raises DataError for a source that cannot be used, a damaged entry, or a cache folder that
    cannot be written where an entry must be built.
    """
    request = SourceRequest(source, format or data.format, order_seed, with_labels)
    key_parts = describe_key(request, data, tokenizer)
    folder = cache_dir / digest_json(key_parts)
    started = time.perf_counter()
    while True:
        was_built = not folder.exists() and build_once(folder, request, data, tokenizer, key_parts, watch)
        try:
            if not was_built:
                check_entry(folder)  # every digest: tokens that have changed on disk would be trained on in silence
            return TokenTable(folder, request, time.perf_counter() - started if was_built else None)
        except (DataError, OSError):
            if folder.exists():
                raise
            # `cache clean` took it away between the two lines.


def build_once(
    folder: Path,
    request: SourceRequest,
    data: DataSection,
    tokenizer: TokenizerSpec,
    key_parts: dict[str, Any],
    watch: BuildWatch | None,
) -> bool:
    """Build an entry unless another process does; return whether this one did."""
    with hold_lock(folder, lambda: watch.wait(request.path) if watch else None):
        if folder.exists():
            return False
        encoder = RowEncoder(tokenizer, data.max_tokens, data.template, data.truncation, data.clean)
        num_workers = count_workers(data.num_workers, sum(file.stat().st_size for file in find_files(request.path)))
        policies = Policies(data.bad_rows, data.checks)
        build_entry(folder, BuildJob(request, policies, encoder, key_parts, num_workers, watch))
        return True


def describe_key(request: SourceRequest, data: DataSection, tokenizer: TokenizerSpec) -> dict[str, Any]:
    """Return all that decides the content of an entry. Raises DataError if the source cannot be read."""
    key_parts = {
        "schema_version": SCHEMA_VERSION,
        LAYOUT_KEY: LAYOUT_VERSION,
        "files": digest_files(find_files(request.path)),
        "format": request.format,
        "policies": Policies(data.bad_rows, data.checks).of_rows(),
        "tokenizer": tokenizer.digest,
        "template": data.template,
        "clean": data.clean,
        "truncation": data.truncation,
        "max_tokens": data.max_tokens,
    }
    if not request.with_labels:
        return key_parts | {"with_labels": False}
    return key_parts | ({"order_seed": request.order_seed} if holds_pairs(request) else {})


def digest_files(files: Iterable[Path]) -> list[list[str]]:
    """Return [kind, compression, sha256] of each file: its content, and how its name says to read it."""
    found = []
    for file in files:
        compression = file.suffix.lower() if file.suffix.lower() in COMPRESSIONS else ""
        try:
            found.append([kind_of(file), compression, digest_file(file)])
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}. Check the path ({SETTINGS}).") from error
    return found

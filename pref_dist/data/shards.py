"""The files of a token cache: Arrow IPC shards, written as a stream, read by mapping them into memory.

Uncompressed, so that a mapped file is the table: opening costs nothing but the page faults.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pref_dist.data.encode import EncodedRows
from pref_dist.data.surface import NUM_TEXTS, SURFACE_FEATURES
from pref_dist.labels import NUM_CLASSES

# A record batch is what the writer holds in memory; a shard is one file.
TOKENS_PER_BATCH = 2**21
ROWS_PER_BATCH = 2**13
TOKENS_PER_SHARD = 2**27
ROWS_PER_SHARD = 2**16


def build_schema(num_segments: int) -> Any:
    """Return the pyarrow.Schema of rows with so many segments (over all their sequences)."""
    columns = {
        "row": pa.int64(),
        "id": pa.large_string(),
        "group": pa.uint64(),
        "pair": pa.uint64(),
        "is_mirrored": pa.uint8(),  # 0 or 1; Arrow packs bools into bits, which numpy cannot map
        "target": pa.list_(pa.float64(), NUM_CLASSES),
        "soft_target": pa.list_(pa.float64(), NUM_CLASSES),
        "input_ids": pa.large_list(pa.int32()),
        "segment_ends": pa.list_(pa.int32(), num_segments),
        "full_lengths": pa.list_(pa.int32(), num_segments),
        "kept_lengths": pa.list_(pa.int32(), num_segments),
        "surface": pa.list_(pa.float32(), NUM_TEXTS * len(SURFACE_FEATURES)),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def write_shards(folder: Path, chunks: Iterable[EncodedRows]) -> list[str]:
    """Write all chunks to `rows-00000.arrow` and so on; return the file names.

    Holds one record batch in memory. Files are on disk (fsync) when this returns. What they
    contain depends on the chunks alone.
    """
    names: list[str] = []
    batches = iterate_batches(chunks)
    batch = next(batches, None)
    while batch is not None:
        names.append(f"rows-{len(names):05d}.arrow")
        with open(folder / names[-1], "wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                num_rows = num_tokens = 0
                while batch is not None and num_rows < ROWS_PER_SHARD and num_tokens < TOKENS_PER_SHARD:
                    writer.write_batch(batch)
                    num_rows += batch.num_rows
                    num_tokens += len(batch.column("input_ids").values)
                    batch = next(batches, None)
            file.flush()
            os.fsync(file.fileno())
    return names


def iterate_batches(chunks: Iterable[EncodedRows]) -> Iterator[Any]:
    """Join chunks to record batches of some megabytes."""
    waiting: list[EncodedRows] = []
    num_rows = num_tokens = 0
    for chunk in chunks:
        waiting.append(chunk)
        num_rows += len(chunk.ids)
        num_tokens += len(chunk.input_ids)
        if num_rows >= ROWS_PER_BATCH or num_tokens >= TOKENS_PER_BATCH:
            yield build_batch(waiting)
            waiting, num_rows, num_tokens = [], 0, 0
    if waiting:
        yield build_batch(waiting)


def build_batch(chunks: Sequence[EncodedRows]) -> Any:
    """Return the pyarrow.RecordBatch of some chunks."""

    def flat(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(chunk, name) for chunk in chunks]).ravel()

    num_segments = chunks[0].segment_ends.shape[1]
    offsets = np.concatenate([[0], np.cumsum(flat("lengths"))])
    columns = [
        pa.array(flat("rows")),
        pa.array([row_id for chunk in chunks for row_id in chunk.ids], pa.large_string()),
        pa.array(flat("groups")),
        pa.array(flat("pairs")),
        pa.array(flat("is_mirrored").astype(np.uint8)),
        pa.FixedSizeListArray.from_arrays(flat("targets"), NUM_CLASSES),
        pa.FixedSizeListArray.from_arrays(flat("soft_targets"), NUM_CLASSES),
        pa.LargeListArray.from_arrays(offsets, flat("input_ids")),
        *(
            pa.FixedSizeListArray.from_arrays(flat(name), num_segments)
            for name in ("segment_ends", "full_lengths", "kept_lengths")
        ),
        pa.FixedSizeListArray.from_arrays(flat("surface"), NUM_TEXTS * len(SURFACE_FEATURES)),
    ]
    return pa.record_batch(columns, schema=build_schema(num_segments))


def map_batches(paths: Iterable[Path]) -> list[Any]:
    """Return the record batches of the shards, mapped into memory, none of it read."""
    batches = []
    for path in paths:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        batches += [reader.get_batch(index) for index in range(reader.num_record_batches)]
    return batches


def read_vectors(batch: Any, name: str) -> npt.NDArray[Any]:
    """Return a column of equally many numbers a row as a read-only array (rows, numbers), without a copy."""
    column = batch.column(name)
    values: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(-1, column.type.list_size)

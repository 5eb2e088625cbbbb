"""A data set as tokens: read-only, mapped into memory; one source, or several joined to one."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pref_dist.data.cache_entry import SET_ASIDE, TRUNCATION, check_sizes, digest_tokens, read_manifest
from pref_dist.data.data_files import find_files
from pref_dist.data.ingest import SourceRequest
from pref_dist.data.shards import map_batches, read_vectors
from pref_dist.data.validate import find_place, name_file


class TokenTable:
    """The tokens of N rows, in the order of their source; see `JoinedTable` for several sources.

    Positions 0..N-1 name the rows; `row_numbers` says which data row of the source each one is.
    `truncation` is the audit of the whole source (see truncation_audit), `set_aside_rows` {row, id, kind,
    detail} of each of its rows that is not here, where `row` counts over all files.
    """

    def __init__(self, folder: Path, request: SourceRequest, build_seconds: float | None = None) -> None:
        """Open the cache entry `folder`. Raises DataError if a file in it is missing or has another size."""
        self.manifest = read_manifest(folder)
        check_sizes(folder, self.manifest)
        self.folder = folder
        self.request = request  # what was opened; the entry itself does not know its source's name
        self.digest = digest_tokens(self.manifest)
        self.build_seconds = build_seconds  # None: it was there, or another process built it
        self.is_labelled: bool = self.manifest["is_labelled"]
        self.has_soft_labels: bool = self.manifest["has_soft_labels"]
        self.findings: dict[str, int] = self.manifest["findings"]  # kind -> rows, kept ones included
        self.num_rows_in_file: int = self.manifest["num_rows_in_file"]
        self.num_tokens: int = self.manifest["num_tokens"]
        # Read and mapped now: an entry that is cleaned while it is in use stays readable.
        self.set_aside_rows = read_set_aside(folder)
        self.truncation: dict[str, Any] = json.loads((folder / TRUNCATION).read_text(encoding="utf-8"))
        self._map(map_batches(folder / name for name in self.manifest["shards"]))

    def _map(self, batches: list[Any]) -> None:
        self._batches = batches
        self._starts: list[int] = list(accumulate((batch.num_rows for batch in batches), initial=0))
        self._offsets = [batch.column("input_ids").offsets.to_numpy() for batch in batches]
        self._tokens = [batch.column("input_ids").values.to_numpy() for batch in batches]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def parts(self) -> list[tuple[int, "TokenTable"]]:
        """(position of its first row, table) of each source."""
        return [(0, self)]

    @property
    def source(self) -> Path:
        return self.request.path

    @property
    def was_built(self) -> bool:
        return self.build_seconds is not None

    def input_ids(self, row: int) -> npt.NDArray[np.int32]:
        """Return the tokens of one row, a view of the file. Raises IndexError outside 0..N-1."""
        if not 0 <= row < self._starts[-1]:
            raise IndexError(f"row {row} of a table with {len(self)} rows")
        batch = bisect_right(self._starts, row) - 1
        place, offsets = row - self._starts[batch], self._offsets[batch]
        tokens: npt.NDArray[np.int32] = self._tokens[batch][offsets[place] : offsets[place + 1]]
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
        """(N,) 1-based numbers of the data rows in their source, over all its files."""
        return self._numbers("row")

    @cached_property
    def groups(self) -> npt.NDArray[np.uint64]:
        """(N,) hashes of the normalised prompts, see `folds.group_of`."""
        return self._numbers("group")

    @cached_property
    def pairs(self) -> npt.NDArray[np.uint64]:
        """(N,) hashes of prompt and both responses, in either order, see `pairs.pair_of`."""
        return self._numbers("pair")

    @cached_property
    def is_mirrored(self) -> npt.NDArray[np.bool_]:
        """(N,) whether A and B stand in the other order than `pairs` hashes them in."""
        return join([part.astype(np.bool_) for part in self._columns("is_mirrored")])

    @cached_property
    def targets(self) -> npt.NDArray[np.float64]:
        """(N, 3) probabilities of A, B, tie to score against; NaN where the source is unlabelled."""
        return self._vectors("target")

    @cached_property
    def training_targets(self) -> npt.NDArray[np.float64]:
        """(N, 3) probabilities of A, B, tie to learn: the soft labels where there are any, else `targets`."""
        if not self.has_soft_labels:
            return self.targets  # no copy of what may be a hundred million rows
        soft = self._vectors("soft_target")
        return join([np.where(np.isnan(soft), self.targets, soft)])

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        """(N,) weight of each row in the loss."""
        return np.broadcast_to(np.float64(1.0), len(self))

    @cached_property
    def segment_ends(self) -> npt.NDArray[np.int32]:
        """(N, S) exclusive ends of the segments (prompt, A and B) in `input_ids`, which they tile.

        A segment is its header, its text and the [SEP] that closes it; [CLS] belongs to the prompt.
        """
        return self._vectors("segment_ends")

    @cached_property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """(N, S) tokens of each segment's text (headers and special tokens not) before truncation."""
        return self._vectors("full_lengths")

    @cached_property
    def surface(self) -> npt.NDArray[np.float32]:
        """(N, 3 * F) surface of prompt, A and B before truncation, see `surface.measure_surface`."""
        return self._vectors("surface")

    @cached_property
    def kept_lengths(self) -> npt.NDArray[np.int32]:
        """(N, S) as `full_lengths`, after truncation."""
        return self._vectors("kept_lengths")

    @cached_property
    def set_aside(self) -> list[dict[str, Any]]:
        """{file, row, id, kind, detail} of the rows of the source that are not here; `row` counts within the file."""
        return [name_file(record, self._file_names, self.manifest["rows_of_file"]) for record in self.set_aside_rows]

    @cached_property
    def _file_names(self) -> list[str]:
        return [str(file) for file in find_files(self.request.path)]

    def list_findings(self) -> list[tuple[str, int, list[dict[str, Any]]]]:
        """Return (kind, rows, {file, row} of the first ones) of what was found in single rows, kept ones included."""
        first = self.manifest["first_rows"]
        return [(kind, count, [self.find_place(row) for row in first[kind]]) for kind, count in self.findings.items()]

    def find_place(self, row: int) -> dict[str, Any]:
        """Return {file, row within it} of a row by its number over all files."""
        file, number = find_place(row, self.manifest["rows_of_file"])
        return {"file": self._file_names[file], "row": number}

    def describe(self, position: int) -> dict[str, Any]:
        """Return {file, row, id} of a row, as people find it in its file."""
        return {**self.find_place(int(self.row_numbers[position])), "id": self.ids[position].as_py()}

    def name_row(self, position: int) -> str:
        """Return what an error calls a row."""
        place = self.describe(position)
        return f"row {place['row']} of {place['file']} with id {place['id']}"

    def _columns(self, name: str) -> list[npt.NDArray[Any]]:
        return [batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches]

    def _numbers(self, name: str) -> npt.NDArray[Any]:
        return join(self._columns(name))

    def _vectors(self, name: str) -> npt.NDArray[Any]:
        return join([read_vectors(batch, name) for batch in self._batches])


class JoinedTable(TokenTable):
    """Several sources one after another, each with a weight for its rows."""

    def __init__(self, tables: Sequence[TokenTable], weights: Sequence[float]) -> None:
        """`weights` are those of the tables' rows in the loss. All tables are of one template and tokenizer."""
        self._tables = list(tables)
        self.source_weights = list(weights)
        content = json.dumps([[table.digest for table in tables], self.source_weights])
        self.digest = hashlib.sha256(content.encode("utf-8")).hexdigest()
        self.is_labelled = all(table.is_labelled for table in tables)
        self.has_soft_labels = any(table.has_soft_labels for table in tables)
        self._map([batch for table in tables for batch in table._batches])

    @property
    def parts(self) -> list[tuple[int, TokenTable]]:
        starts = np.cumsum([0, *map(len, self._tables)])
        return [(int(start), table) for start, table in zip(starts, self._tables, strict=False)]

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        return join([np.repeat(self.source_weights, [len(table) for table in self._tables])])

    @cached_property
    def ids(self) -> Any:
        """(N,) ids; one that several sources have gets the number of its source in front, as in 2:1000."""
        columns = [table.ids for table in self._tables]
        joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
        counts = pc.value_counts(joined)
        shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        return pa.chunked_array(
            [chunk for number, column in enumerate(columns, 1) for chunk in name_shared(number, column, shared).chunks]
        )

    @cached_property
    def set_aside(self) -> list[dict[str, Any]]:
        return [record for table in self._tables for record in table.set_aside]

    def describe(self, position: int) -> dict[str, Any]:
        start, table = self.part_of(position)
        return table.describe(position - start)

    def part_of(self, position: int) -> tuple[int, TokenTable]:
        return next((start, table) for start, table in reversed(self.parts) if start <= position)


def name_shared(number: int, ids: Any, shared: Any) -> Any:
    """Return the ids (a pyarrow.ChunkedArray), those in `shared` with the number of their source in front."""
    prefix, colon = (pa.scalar(text, pa.large_string()) for text in (str(number), ":"))
    return pc.if_else(pc.is_in(ids, shared), pc.binary_join_element_wise(prefix, ids, colon), ids)


def read_set_aside(folder: Path) -> list[dict[str, Any]]:
    text = (folder / SET_ASIDE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def join(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate, without a copy where there is one part; the result is read-only."""
    joined = parts[0].view() if len(parts) == 1 else np.concatenate(parts)
    joined.flags.writeable = False
    return joined

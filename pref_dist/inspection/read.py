"""Reads a data set once, as a stream, and keeps of every usable row its numbers: no texts but the preview."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pref_dist.data.encode import TokenizerSpec
from pref_dist.data.folds import group_of
from pref_dist.data.ingest import Source, SourceRequest, open_source
from pref_dist.data.pairs import pair_of
from pref_dist.data.records import iterate_records
from pref_dist.data.rows import Row
from pref_dist.data.validate import RowChecker, name_file
from pref_dist.findings import Policies
from pref_dist.inspection.repeats import Hashes
from pref_dist.inspection.statistics import Bools, Floats, Ints

ROWS_PER_BATCH = 256  # that are tokenised together
NO_TARGET = (float("nan"),) * 3
NO_MODEL = -1


@dataclass(frozen=True)
class RowNumbers:
    """What is kept of R usable rows; S is prompt, A, B, each the sum over its turns."""

    characters: Ints  # (R, S)
    tokens: Ints | None  # (R, S), None without a tokenizer
    turns: Ints  # (R,)
    empty_turns: Ints  # (R, S) turns without text, null or empty
    targets: Floats  # (R, 3), NaN where a row has no label
    models: Ints  # (R, 2) places in `model_names`, NO_MODEL where unknown
    model_names: list[str]
    pairs: Hashes  # (R,) see repeats.py
    is_mirrored: Bools  # (R,)
    is_identical: Bools  # (R,) A is B
    prompts: Hashes  # (R,) groups of prompts


@dataclass(frozen=True)
class DataSet:
    """A file, what its checks found, the numbers of its usable rows, and the first of them whole."""

    path: Path
    format: str
    is_labelled: bool
    num_rows: int  # in the file
    findings: dict[str, int]  # {kind: rows}
    first_rows: dict[str, list[int]]  # {kind: the first of them}
    set_aside: list[dict[str, Any]]  # {file, row, id, kind, detail}
    unused_columns: list[str]
    missing: dict[str, int]  # {column: rows in the file whose cell is null or blank}
    numbers: RowNumbers
    preview: list[Row]


def read_data_set(
    path: Path, format: str, tokenizer: TokenizerSpec | None = None, num_preview_rows: int = 0, with_labels: bool = True
) -> DataSet:
    """Read and check all rows of a source. Raises DataError for one that cannot be read or has no usable row.

    Without `with_labels` label columns are passed over, so that no row is set aside for what they hold.
    """
    checker = open_rows(path, format, with_labels)
    collector, preview = Collector(tokenizer), list[Row]()
    rows = checker.iterate_rows()
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        collector.add(batch)
        preview += batch[: max(0, num_preview_rows - len(preview))]
    files = [str(file.path) for file in checker.source.files]
    return DataSet(
        path=path,
        format=checker.source.format,
        is_labelled=checker.source.is_labelled,
        num_rows=checker.num_rows,
        findings=dict(checker.findings),
        first_rows=dict(checker.first_rows),
        set_aside=[name_file(record, files, checker.rows_of_file) for record in checker.set_aside],
        unused_columns=sorted({name for file in checker.source.files for name in file.unused_columns}),
        missing=count_missing(checker.source),
        numbers=collector.build(),
        preview=preview,
    )


def open_rows(path: Path, format: str, with_labels: bool) -> RowChecker:
    """Return the checks as training applies them by default."""
    return RowChecker(open_source(SourceRequest(path, format, with_labels=with_labels)), Policies())


def count_missing(source: Source) -> dict[str, int]:
    """Return {column: rows whose cell is null or blank}, of all rows, those that were set aside included."""
    missing = Counter(dict.fromkeys((name for file in source.files for name in file.columns), 0))
    for file in source.files:
        for record in iterate_records(file.path):
            missing.update(name for name in file.columns if is_missing(record.cells.get(name)))
    return dict(missing)


def is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


class Collector:
    """Takes rows one by one and keeps their numbers in flat arrays."""

    def __init__(self, tokenizer: TokenizerSpec | None) -> None:
        self.backend = None if tokenizer is None else open_backend(tokenizer)
        self.characters, self.tokens, self.empty_turns = array("q"), array("q"), array("q")
        self.turns, self.models = array("q"), array("q")
        self.targets = array("d")
        self.pairs, self.prompts = array("Q"), array("Q")
        self.is_mirrored, self.is_identical = array("b"), array("b")
        self.place_of_model: dict[str, int] = {}

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            self.add_row(row)
        if self.backend is not None:
            self.tokens.extend(count_tokens(self.backend, rows))

    def add_row(self, row: Row) -> None:
        columns = list(zip(*row.turns, strict=True))
        self.characters.extend(sum(map(len, column)) for column in columns)
        self.empty_turns.extend(sum(1 for text in column if not text.strip()) for column in columns)
        self.turns.append(len(row.turns))
        self.targets.extend(row.target or NO_TARGET)
        self.models.extend(self.find_models(row.models))
        pair, is_mirrored = pair_of(row.turns)
        self.pairs.append(pair)
        self.is_mirrored.append(is_mirrored)
        self.is_identical.append(columns[1] == columns[2])
        self.prompts.append(group_of(columns[0]))

    def find_models(self, names: tuple[str, str] | None) -> tuple[int, int]:
        if names is None or not all(name.strip() for name in names):
            return NO_MODEL, NO_MODEL
        first, second = (self.place_of_model.setdefault(name, len(self.place_of_model)) for name in names)
        return first, second

    def build(self) -> RowNumbers:
        return RowNumbers(
            characters=as_array(self.characters, np.int64, 3),
            tokens=None if self.backend is None else as_array(self.tokens, np.int64, 3),
            turns=as_array(self.turns, np.int64),
            empty_turns=as_array(self.empty_turns, np.int64, 3),
            targets=as_array(self.targets, np.float64, 3),
            models=as_array(self.models, np.int64, 2),
            model_names=list(self.place_of_model),
            pairs=as_array(self.pairs, np.uint64),
            is_mirrored=as_array(self.is_mirrored, np.int8).astype(np.bool_),
            is_identical=as_array(self.is_identical, np.int8).astype(np.bool_),
            prompts=as_array(self.prompts, np.uint64),
        )


def open_backend(tokenizer: TokenizerSpec) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer.json)
    backend.encode_special_tokens = True  # as training reads texts: "[SEP]" in a response is text
    return backend


def as_array(values: "array[Any]", dtype: type, num_columns: int | None = None) -> Any:
    flat: Any = np.frombuffer(values, dtype=dtype) if values else np.empty(0, dtype=dtype)
    return flat if num_columns is None else flat.reshape(-1, num_columns)


def count_tokens(backend: Tokenizer, rows: list[Row]) -> Iterator[int]:
    """Yield the tokens of prompt, A and B of each row: of the text alone, without headers and special tokens."""
    texts = ["\n\n".join(column) for row in rows for column in zip(*row.turns, strict=True)]
    return (len(encoding.ids) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False))

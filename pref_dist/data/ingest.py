"""From a source (a file, a folder, a pattern) to raw rows: numbered, told apart, none lost."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pref_dist.data.data_files import find_files
from pref_dist.data.formats import RawRow, build_raw_row
from pref_dist.data.layouts import Layout, are_pairs, find_layout, known_columns, list_unused
from pref_dist.data.records import NUM_RECORDS_LOOKED_AT, Meter, iterate_records, read_columns
from pref_dist.errors import DataError

DEFAULT_ORDER_SEED = 42


@dataclass(frozen=True)
class SourceRequest:
    """What to read, and how.

    `path` is a file, a folder or a pattern. `format` is one of `formats.Format` or "auto"; whether texts
    are lists of turns or plain strings is then decided by the majority of the first cells. `order_seed`
    decides which response of a chosen/rejected pair is shown first. Without `with_labels` label columns
    are passed over.
    """

    path: Path
    format: str = "auto"
    order_seed: int = DEFAULT_ORDER_SEED
    with_labels: bool = True


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, and what its columns are."""

    path: Path
    columns: tuple[str, ...]
    layout: Layout

    @property
    def unused_columns(self) -> dict[str, str | None]:
        """Columns that are not read, each with the known name that it may have been meant for."""
        return list_unused(self.layout, self.columns)


@dataclass(frozen=True)
class Source:
    """The files that a path names, in the order of their names; all of one format, all labelled or none."""

    path: Path
    files: tuple[SourceFile, ...]

    @property
    def layout(self) -> Layout:
        return self.files[0].layout

    @property
    def format(self) -> str:
        return self.layout.format

    @property
    def is_labelled(self) -> bool:
        return self.layout.is_labelled


def open_source(request: SourceRequest) -> Source:
    """Look at the columns and first rows of every file of a source.

    Raises DataError for a file that cannot be read, has no data rows, lacks a column, or differs
    from the first one.
    """
    files = [open_file(file, request) for file in find_files(request.path)]
    for file in files[1:]:
        check_alike(files[0], file)
    return Source(request.path, tuple(files))


def open_file(path: Path, request: SourceRequest) -> SourceFile:
    columns = read_columns(path)
    first = list(islice(iterate_records(path), NUM_RECORDS_LOOKED_AT))
    layout = find_layout(path, columns, request.format, first, request.order_seed, request.with_labels)
    if not first:
        raise DataError(f"{path} has a header but no data rows. Add rows, or name another file.")
    return SourceFile(path, columns, layout)


def holds_pairs(request: SourceRequest) -> bool:
    """Return whether the source holds chosen/rejected pairs, whose order is drawn."""
    if request.format != "auto":
        return request.format == "pairs"
    return are_pairs(read_columns(find_files(request.path)[0]))


def check_alike(first: SourceFile, other: SourceFile) -> None:
    for name, found, expected in (
        ("format", other.layout.format, first.layout.format),
        ("label columns", other.layout.labels.columns, first.layout.labels.columns),
        ("id column", other.layout.id_column, first.layout.id_column),
    ):
        if found != expected:
            raise DataError(
                f"{other.path} and {first.path} are read as one source, but differ in their {name}: "
                f"{found or 'none'} and {expected or 'none'}. Name them apart in data.sources, or name data.format."
            )


def iterate_raw_rows(source: Source, meter: Meter | None = None) -> Iterator[tuple[int, RawRow]]:
    """Yield (index of the file, row) for every data row of the source, in order, numbered from 1 over all files.

    Reads as a stream: memory is bounded by the largest row. `meter` counts the bytes read. Raises
    DataError naming the place where a file is damaged: rows after it cannot be counted.
    """
    number = 0
    for index, file in enumerate(source.files):
        read = set(file.layout.columns)
        wanted = [name for name in file.columns if name in read]
        columns = set(file.columns)
        for record in iterate_records(file.path, wanted, meter):
            number += 1
            if not record.cells.keys() <= columns:
                check_late_columns(file, record.cells.keys() - columns, number)
            yield index, build_raw_row(number, record, file.layout)


def check_late_columns(file: SourceFile, names: Set[str], number: int) -> None:
    """Raise DataError if a column that would count comes up only after the first rows, which decide the layout."""
    late = sorted(names & set(known_columns()))
    if late:
        raise DataError(
            f"{file.path}: {', '.join(late)} comes up in data row {number:,} for the first time; the layout is found "
            f"from the first {NUM_RECORDS_LOOKED_AT:,} rows. Give the first row the key, too (null where it has none)."
        )

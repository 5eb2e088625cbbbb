"""From files to records: every row of a CSV, JSON-lines or Parquet file as {column: value}, none lost.

The standard library's reader does the CSV: it streams, it is strict about quotes, and it hands ragged
rows over as they are. pandas and pyarrow drop or fill up some of those without a word.
"""

import codecs
import csv
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pref_dist.data.conversations import parse_json, shorten
from pref_dist.data.data_files import COMPRESSIONS, SETTINGS, describe_kind, kind_of
from pref_dist.errors import DataError
from pref_dist.findings import Fault

NUM_RECORDS_LOOKED_AT = 1000
# No honest cell is longer; a quote that is never closed would otherwise read the whole file into one.
MAX_CELL_CHARACTERS = 2**26
# Text packs to a tenth or, where rows repeat each other, to a hundredth.
MOST_UNPACKED_FACTOR, LEAST_UNPACKED_BYTES = 200, 2**28
MAX_REASON_CHARACTERS = 300  # of what a library says about damaged bytes
ROWS_PER_PARQUET_BATCH = 256
# What decompression and Parquet raise for damaged bytes.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException)


class Record(NamedTuple):
    """One data row as it stands in the file; `fault` says why its cells cannot be told apart."""

    cells: dict[str, Any]
    fault: Fault | None = None


class Meter:
    """Counts the bytes that were read of all files it is given to; as they lie on disk, compressed or not."""

    num_bytes = 0


class MeteredFile(io.FileIO):
    """A file that tells its meter how much was read."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(path, "rb")
        self.meter = meter

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self.meter.num_bytes += count or 0
        return count


class Unpacked(io.RawIOBase):
    """What comes out of a packed file. Raises DataError when it is more than any honest file holds."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path
        self._num_left = max(LEAST_UNPACKED_BYTES, MOST_UNPACKED_FACTOR * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._num_left -= len(content)
        if self._num_left < 0:
            raise DataError(
                f"{self._path} unpacks to more than {MOST_UNPACKED_FACTOR} times its size, which text does not: it may "
                "be made to fill memory or disk. If you trust it, unpack it and name the unpacked file."
            )
        return len(content)


def read_columns(path: Path) -> tuple[str, ...]:
    """Return the names of a file's columns; of JSON lines all keys of the first rows.

    Raises DataError for a file that cannot be read, is empty or has no data rows.
    """
    kind = kind_of(path)
    with explain_damage(path):
        if kind == "csv":
            columns = next(iterate_csv_lines(path), None)
        elif kind == "parquet":
            with open_parquet(path) as file:
                columns = list(file.schema_arrow.names)
        else:
            first = [record.cells for record in islice(iterate_records(path), NUM_RECORDS_LOOKED_AT)]
            columns = list(dict.fromkeys(name for cells in first for name in cells)) if first else None
    if columns is None:
        raise DataError(f"{path} is empty. It must hold data rows{' under a header line' * (kind == 'csv')}.")
    return tuple(columns)


def iterate_records(path: Path, columns: Sequence[str] | None = None, meter: Meter | None = None) -> Iterator[Record]:
    """Yield every data row of a file in its order. Memory is bounded by the largest row.

    `columns` limits what is read of a Parquet file, `meter` counts the bytes read. Raises DataError naming
    the place where the file is damaged, is not UTF-8, or its quotes do not match: rows after it cannot be counted.
    """
    with explain_damage(path):
        match kind_of(path):
            case "csv":
                yield from iterate_csv(path, meter)
            case "jsonl" | "json":
                yield from iterate_json_lines(path, meter)
            case "parquet":
                yield from iterate_parquet(path, columns, meter)


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        with explain_damage(path):  # further down a packed file may be damaged as well
            place = locate_undecodable(path)
        raise DataError(
            f"{path} is not UTF-8 text: {place}. Convert it, for example with: iconv -t UTF-8 -f ..."
        ) from error
    except (*DAMAGE, OSError) as error:
        # The system numbers its errors; an OSError without a number is Arrow's word for damaged bytes.
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path} cannot be read: {error.strerror}. Check the path ({SETTINGS}).") from error
        reason = shorten(" ".join(str(error).split()).rstrip("."), MAX_REASON_CHARACTERS)
        raise DataError(f"{path} is damaged or no {describe_kind(path)}: {reason}. Fetch or write it again.") from error


@contextmanager
def open_bytes(path: Path, meter: Meter | None = None) -> Iterator["io.BufferedReader[Any]"]:
    """Open a file for reading, decompressed."""
    with io.BufferedReader(MeteredFile(path, meter or Meter()), buffer_size=2**18) as file:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield io.BufferedReader(Unpacked(unpacked, path), buffer_size=2**18)
        elif path.suffix.lower() == ".zst":
            with pa.CompressedInputStream(pa.PythonFile(file, "rb"), "zstd") as stream:
                yield io.BufferedReader(Unpacked(stream, path), buffer_size=2**18)
        else:
            yield file


def iterate_csv(path: Path, meter: Meter | None) -> Iterator[Record]:
    lines = iterate_csv_lines(path, meter)
    columns = next(lines, [])
    for cells in lines:
        if len(cells) == len(columns):
            yield Record(dict(zip(columns, cells, strict=True)))
        else:
            # The first cells may still tell which row it is.
            detail = f"{len(cells)} cells where the header has {len(columns)}"
            yield Record(dict(zip(columns, cells, strict=False)), Fault("wrong_cell_count", detail))


def allow_long_cells() -> None:
    """Let Python's csv read cells of up to MAX_CELL_CHARACTERS in this process; it stops at 131,072 by itself."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))


def iterate_csv_lines(path: Path, meter: Meter | None = None) -> Iterator[list[str]]:
    """Yield the header and then every record that isn't a blank line. Raises DataError for quotes that don't match."""
    allow_long_cells()
    with open_bytes(path, meter) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        number, first_line = 0, 1
        try:
            for record in reader:
                if record:
                    yield record
                    number += 1
                first_line = reader.line_num + 1
        except csv.Error as error:
            place = f"data row {number}" if number else "the header"
            raise DataError(
                f"{path} is not well-formed CSV: {place}, which begins in line {first_line:,}: {error}. Close the "
                f'quote that is opened there; a quote inside a quoted cell is written twice ("").'
            ) from error


def iterate_json_lines(path: Path, meter: Meter | None) -> Iterator[Record]:
    """Yield the object of every line that is not blank; a line that holds none is a record with a fault."""
    if kind_of(path) == "json" and (records := read_json_list(path)) is not None:
        yield from map(build_json_record, records)
        return
    with open_bytes(path, meter) as file:
        for number, line in enumerate(file):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            if content.strip():
                yield parse_json_line(content)


def parse_json_line(line: bytes) -> Record:
    try:
        value, problem = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        value, problem = None, f"no JSON ({error})"
    return build_json_record(value) if problem is None else Record({}, Fault("bad_line", problem))


def build_json_record(value: Any) -> Record:
    if not isinstance(value, dict):
        return Record({}, Fault("bad_line", f"JSON, but {type(value).__name__} where an object should be"))
    return Record(value)


def read_json_list(path: Path) -> list[Any] | None:
    """Return the values of a .json file that is one list, or None; such a file is read whole."""
    with open_bytes(path) as file:
        if not file.peek(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            return None
        values, _ = parse_json(file.read().decode("utf-8-sig"))
    return values if isinstance(values, list) else None  # None: then each line is looked at by itself


def iterate_parquet(path: Path, columns: Sequence[str] | None, meter: Meter | None) -> Iterator[Record]:
    with open_parquet(path, meter) as file:
        num_rows = 0
        wanted = None if columns is None else list(columns)
        for batch in file.iter_batches(ROWS_PER_PARQUET_BATCH, columns=wanted, use_threads=False):
            try:
                records = batch.to_pylist()
            except (ValueError, OverflowError) as error:
                # Bytes that are no text, a date beyond Python's years, a struct that names a field twice.
                raise pa.ArrowInvalid(f"a value in rows {num_rows + 1:,} and after: {error}") from error
            num_rows += batch.num_rows
            yield from map(Record, records)
        if num_rows != file.metadata.num_rows:
            raise pa.ArrowInvalid(f"it holds {num_rows:,} rows where its footer says {file.metadata.num_rows:,}")


@contextmanager
def open_parquet(path: Path, meter: Meter | None = None) -> Iterator[Any]:
    """Open a Parquet file; a compressed one is unpacked to an unnamed file first, for it is read from its end."""
    with open_bytes(path, meter) as file:
        if path.suffix.lower() not in COMPRESSIONS:
            with pq.ParquetFile(file) as parquet:
                yield parquet
            return
        with tempfile.TemporaryFile() as unpacked:
            while block := file.read(2**20):
                unpacked.write(block)
            with pq.ParquetFile(unpacked) as parquet:
                yield parquet


def locate_undecodable(path: Path) -> str:
    """Return where the first byte stands that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, num_lines = 0, 1
    with open_bytes(path) as file:
        for block in iter(lambda: file.read(2**20), b""):
            num_waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                line = num_lines + error.object[: error.start].count(b"\n")
                value = error.object[error.start]
                return f"byte {value:#04x} at offset {offset - num_waiting + error.start:,}, line {line:,}"
            offset += len(block)
            num_lines += block.count(b"\n")
    return f"it ends inside a character, at offset {offset:,}"

"""Damaged data files, each a function of (seed, number).

A file of `formats/`, some rows of it changed, written as CSV, JSON lines or Parquet, its bytes damaged,
packed, and the packed bytes damaged too.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pref_dist.data.records import MAX_CELL_CHARACTERS
from tests.data.fuzz_changes import (
    BYTE_CHANGES,
    HUGE,
    PACKED_CHANGES,
    ROW_CHANGES,
    Draw,
    Records,
    cut,
    list_formats,
    load_records,
)

EVERY_NTH_BEYOND_LIMIT = 400  # gets a cell that is longer than any that is read


@dataclass(frozen=True)
class Case:
    """One damaged file. `num_rows` is an independent count of its data rows; None where nobody can say."""

    number: int
    name: str
    changes: tuple[str, ...]
    content: bytes
    num_rows: int | None


def build_case(seed: int, number: int) -> Case:
    draw = Draw(f"{seed}:{number}")
    name = draw.choice(list_formats())
    stem, suffix = name.split(".")
    kind = draw.choice((*(suffix,) * 8, "json" if suffix == "jsonl" else suffix, "parquet"))
    records = repeat_rows(load_records(name), draw.choice((1, 1, 4, 40)))
    changes = []
    for change in draw.choices(ROW_CHANGES, k=draw.choice((0, 1, 2))):
        records = change(draw, records)
        changes.append(change.__name__)
    plain = write_records(draw, records, kind)
    if number % EVERY_NTH_BEYOND_LIMIT == EVERY_NTH_BEYOND_LIMIT - 1:
        plain += b"x" * (MAX_CELL_CHARACTERS + 1)
    for damage in draw.choices(PACKED_CHANGES if kind == "parquet" else BYTE_CHANGES, k=draw.choice((0, 1, 1, 3))):
        plain = damage(draw, plain) if plain else plain
        changes.append(damage.__name__)
    packing = draw.choice(("",) * 6 + (".gz", ".zst"))
    content = pack(plain, packing)
    damages = draw.choices(PACKED_CHANGES, k=draw.choice((0, 1))) if packing else []
    for damage in damages:
        content = damage(draw, content) if content else content
        changes.append(f"{packing} {damage.__name__}")
    known = plain if not damages or set(damages) == {cut} else unpack(content, packing)
    num_rows = None if known is None else count_rows(known, kind)
    return Case(number, f"case_{number:05d}_{stem}.{kind}{packing}", tuple(changes), content, num_rows)


def repeat_rows(records: Records, times: int) -> Records:
    ids = [name for name in ("id", "question_id") if name in records[0]]
    return [
        json.loads(
            json.dumps({**cells, **{name: f"{cells[name]}-{number}" if number else cells[name] for name in ids}})
        )
        for number in range(times)
        for cells in records
    ]


def write_records(draw: Draw, records: Records, kind: str) -> bytes:
    match kind:
        case "csv":
            return write_csv(draw, records)
        case "json":
            return free_raw(json.dumps(records)).encode("utf-8", "surrogatepass")
        case "parquet":
            return write_parquet(draw, records)
    is_ascii = draw.random() < 0.5
    lines = [free_raw(json.dumps(cells, ensure_ascii=is_ascii)) + "\n" for cells in records]
    return "".join(lines).encode("utf-8", "surrogatepass")


def free_raw(text: str) -> str:
    """Take what `raw` marked out of its quotes; inside a longer text the marks just go."""
    mark = re.compile(r'"(?:\ue000|\\ue000)((?:[^"\\]|\\.)*?)(?:\ue001|\\ue001)"')
    return mark.sub(lambda match: match[1].replace('\\"', '"'), text)


def write_csv(draw: Draw, records: Records) -> bytes:
    text = io.StringIO(newline="")
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(text, quoting=quoting, lineterminator=draw.choice(("\n", "\r\n")))
    writer.writerow(dict.fromkeys(name for cells in records for name in cells))
    for cells in records:
        is_ragged = draw.random() < 0.02
        row = [write_cell(cell) for cell in cells.values()]
        writer.writerow(row[: draw.randrange(len(row) + 1)] if is_ragged else row)
    return text.getvalue().encode("utf-8", "surrogatepass")


def write_cell(cell: Any) -> str:
    if not isinstance(cell, str):
        return free_raw(json.dumps(cell))
    return cell.strip("\ue000\ue001")


def write_parquet(draw: Draw, records: Records) -> bytes:
    """Write the cells as they are where Arrow has a type for that, else as text; some columns of an odd type."""
    names = list(dict.fromkeys(name for cells in records for name in cells))
    columns = {name: build_array([cells.get(name) for cells in records]) for name in names[:100]}
    if columns and draw.random() < 0.5:
        columns[draw.choice(list(columns))] = draw.choice(ODD_ARRAYS)(len(records))
    named = [(name.encode("utf-8", "replace").decode("utf-8"), column) for name, column in columns.items()]
    file = io.BytesIO()
    table = pa.Table.from_arrays([column for _, column in named], names=[name for name, _ in named])
    pq.write_table(table, file, compression=draw.choice(("none", "snappy", "zstd")))
    return file.getvalue()


def build_array(cells: list[Any]) -> Any:
    try:
        array = pa.array(cells)
        pq.write_table(pa.table({"cells": array}), io.BytesIO())  # not every type of Arrow can be written
        return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        texts = [write_cell(cell)[:HUGE].encode("utf-8", "surrogatepass") for cell in cells]
        return pa.array([text.decode("utf-8", "replace") for text in texts])


ODD_ARRAYS: tuple[Callable[[int], Any], ...] = (
    lambda n: pa.array([b"\xff\xfe"] * n),
    lambda n: pa.Array.from_buffers(pa.string(), n, pa.array([b"\xff\xfe"] * n).buffers()),
    lambda n: pa.array([10**18 + 1] * n, pa.timestamp("ns")),
    lambda n: pa.array([10**14] * n, pa.timestamp("s")),
    lambda n: pa.array([2**30] * n, pa.int32()).cast(pa.date32()),
    lambda n: pa.array([10**15 + 1] * n, pa.duration("ns")),
    lambda n: pa.array(["a"] * n).dictionary_encode(),
    lambda n: pa.nulls(n),
    lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    lambda n: pa.StructArray.from_arrays([pa.array(["a"] * n)] * 2, names=["role", "role"]),
    lambda n: pa.array([[["a"]]] * n),
    lambda n: pa.array([float("nan")] * n),
)


def pack(content: bytes, packing: str) -> bytes:
    if packing == ".zst":
        return bytes(pa.Codec("zstd").compress(content, asbytes=True))
    return gzip.compress(content, mtime=0) if packing == ".gz" else content


def unpack(content: bytes, packing: str) -> bytes | None:
    """Return what Python's own module unpacks; it has none for zstd."""
    try:
        return gzip.decompress(content) if packing == ".gz" else None
    except (OSError, EOFError, ValueError, ArithmeticError, zlib.error):
        return None


def count_rows(content: bytes, kind: str) -> int | None:
    """Count data rows by other means than the reader's; None where nobody can say how many there are."""
    match kind:
        case "csv":
            return count_csv_rows(content)
        case "parquet":
            try:
                return int(pq.read_metadata(io.BytesIO(content)).num_rows)
            except (pa.ArrowException, OSError):
                return None
        case "json":
            try:
                values = json.loads(content.decode("utf-8-sig"))
                return len(values) if isinstance(values, list) else None
            except (ValueError, RecursionError):
                return None
    return sum(1 for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip())


def count_csv_rows(content: bytes) -> int | None:
    """Count by Python's lenient reader where Arrow's own, which shares nothing with it, agrees."""
    num_ragged = 0

    def count_ragged(_row: Any) -> str:
        nonlocal num_ragged
        num_ragged += 1
        return "skip"

    limit = csv.field_size_limit(2**30)
    try:
        text = content.decode("utf-8-sig")
        num_rows = sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=2 * len(content) + 1, autogenerate_column_names=True),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=count_ragged),
        )
    except (pa.ArrowException, ValueError, csv.Error):
        return None
    finally:
        csv.field_size_limit(limit)
    return num_rows if table.num_rows + num_ragged - 1 == num_rows >= 0 else None

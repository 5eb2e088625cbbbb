"""From a CSV file to raw rows: numbered, all cells as strings, none lost.

The standard library's reader does it: it streams, it is strict about quotes, and it hands ragged
rows over as they are. pandas and pyarrow drop or fill up some of those without a word.
"""

import codecs
import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from pref_dist.errors import DataError
from pref_dist.labels import ID_COLUMN, TEXT_COLUMNS, WINNER_COLUMNS

TextFormat = Literal["json_turns", "plain"]

NUM_ROWS_LOOKED_AT = 1000
# No honest cell is longer; a quote that is never closed would otherwise read the whole file into one.
MAX_CELL_CHARACTERS = 2**26
# Python's repr of a list opens with [' : such a file is JSON gone wrong, and not plain text.
LOOKS_LIKE_TURNS = re.compile(r"""\s*\[\s*(?:["'\]]|null\b)""")


class RawRow(NamedTuple):
    """One data row as it stands in the file; `fault` says why its cells cannot be told apart."""

    row: int  # 1-based number of the data row
    id: str
    texts: tuple[str, str, str]  # cells of prompt, response_a, response_b
    winners: tuple[str, str, str] | None  # cells of the winner columns; None: an unlabelled file
    fault: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """What the header and the first rows of a file say about it."""

    path: Path
    columns: tuple[str, ...]
    is_labelled: bool
    text_format: TextFormat

    @property
    def used_columns(self) -> list[int]:
        """Positions of id, the three texts and, in a labelled file, the three winners."""
        names = (ID_COLUMN, *TEXT_COLUMNS, *(WINNER_COLUMNS if self.is_labelled else ()))
        return [self.columns.index(name) for name in names]


def open_source(path: Path) -> SourceFile:
    """Look at the header and the first rows of a CSV file in the Kaggle schema.

    Whether texts are JSON lists of turns or plain strings is decided once for the file, by the
    majority of the first cells. Raises DataError for a file that cannot be read, is empty, has
    no data rows, or lacks a column.
    """
    records = iterate_records(path)
    columns = next(records, None)
    if columns is None:
        raise DataError(f"{path} is empty. It must have a header line with {describe_columns()}, and data rows.")
    is_labelled = check_columns(path, columns)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path} has a header but no data rows. Add rows, or name another file.")
    looked_at = chain([first], islice(records, NUM_ROWS_LOOKED_AT - 1))
    return SourceFile(path, tuple(columns), is_labelled, guess_text_format(columns, looked_at))


def iterate_raw_rows(source: SourceFile) -> Iterator[RawRow]:
    """Yield every data row of the file in its order; ragged ones carry a `fault`.

    Reads as a stream: memory is bounded by the largest row. Raises DataError naming the place
    where the file is not UTF-8 or its quotes do not match: rows after it cannot be counted.
    """
    records = islice(iterate_records(source.path), 1, None)
    used = source.used_columns
    for number, cells in enumerate(records, start=1):
        if len(cells) == len(source.columns):
            yield build_raw_row(number, [cells[index] for index in used])
        else:
            fault = f"{len(cells)} cells where the header has {len(source.columns)}"
            row_id = cells[used[0]] if used[0] < len(cells) else ""
            yield RawRow(number, row_id, ("", "", ""), None, fault)


def build_raw_row(number: int, cells: Sequence[str]) -> RawRow:
    row_id, prompt, response_a, response_b, *winners = cells
    labels = (winners[0], winners[1], winners[2]) if winners else None
    return RawRow(number, row_id, (prompt, response_a, response_b), labels)


def iterate_records(path: Path) -> Iterator[list[str]]:
    """Yield the header and then every record that isn't a blank line. Raises DataError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from parse_records(path, file)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Check the path (data.train, data.valid or --data)."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: {locate_undecodable(path)}. Convert it, for example with: iconv -t UTF-8 -f ..."
        ) from error


def parse_records(path: Path, file: TextIO) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
    reader = csv.reader(file, strict=True)
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
            f"{path} is not well-formed CSV: {place}, which begins in line {first_line:,}: {error}. Close the quote "
            f'that is opened there; a quote inside a quoted cell is written twice ("").'
        ) from error


def locate_undecodable(path: Path) -> str:
    """Return where the first byte stands that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, num_lines = 0, 1
    with open(path, "rb") as file:
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


def check_columns(path: Path, columns: Sequence[str]) -> bool:
    """Return whether the file is labelled. Raises DataError if a column is missing or stands twice."""
    known = (ID_COLUMN, *TEXT_COLUMNS, *WINNER_COLUMNS)
    repeated = [name for name in known if columns.count(name) > 1]
    if repeated:
        raise DataError(
            f"{path}: column {repeated[0]!r} stands {columns.count(repeated[0])} times. Rename all but one."
        )
    is_labelled = any(name in columns for name in WINNER_COLUMNS)
    needed = (ID_COLUMN, *TEXT_COLUMNS, *(WINNER_COLUMNS if is_labelled else ()))
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(explain_missing(path, missing, columns))
    return is_labelled


def explain_missing(path: Path, missing: Sequence[str], columns: Sequence[str]) -> str:
    found = ", ".join(repr(name) for name in columns)
    others = [name for name in columns if name not in (ID_COLUMN, *TEXT_COLUMNS, *WINNER_COLUMNS)]
    nearest = [(name, difflib.get_close_matches(name, others, n=1)) for name in missing]
    hints = [f"Rename {near[0]!r} to {name!r}?" for name, near in nearest if near]
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        hints = ["The header has no comma: save the file with commas between the cells."]
    remedy = " ".join(hints) or f"The file needs {describe_columns()}."
    names = ", ".join(repr(name) for name in missing)
    return f"{path} lacks {len(missing)} column{'s' * (len(missing) > 1)}: {names} (it has {found}). {remedy}"


def describe_columns() -> str:
    texts = ", ".join((ID_COLUMN, *TEXT_COLUMNS))
    return f"the columns {texts} and, where it is labelled, {', '.join(WINNER_COLUMNS)}"


def guess_text_format(columns: Sequence[str], records: Iterable[Sequence[str]]) -> TextFormat:
    positions = [columns.index(name) for name in TEXT_COLUMNS]
    num_filled = num_turn_lists = 0
    for record in records:
        if len(record) == len(columns):
            cells = [record[index] for index in positions if record[index].strip()]
            num_filled += len(cells)
            num_turn_lists += sum(1 for cell in cells if LOOKS_LIKE_TURNS.match(cell))
    return "json_turns" if 2 * num_turn_lists > num_filled else "plain"

"""The checks: raw rows in, trusted rows out, and every other row named with its reason."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pref_dist.data.ingest import RawRow, SourceFile, TextFormat, iterate_raw_rows, open_source
from pref_dist.errors import DataError
from pref_dist.labels import TEXT_COLUMNS, WINNER_COLUMNS

Kind = Literal[
    "wrong_cell_count",  # more or fewer cells than the header has
    "empty_id",
    "duplicate_id",  # the first row with the id stays
    "winner_not_one_hot",  # not exactly one 1 and two 0
    "bad_json",  # a text cell that is no JSON list of strings and nulls
    "turn_count_differs",  # between prompt and responses
    "no_text",  # neither prompt nor responses hold a character
]
# What `data.bad_rows: keep` can repair: a bad cell is read as one plain turn, missing turns become
# empty ones. Without an id or a label that counts there is no row to keep.
REPAIRABLE: tuple[Kind, ...] = ("bad_json", "turn_count_differs", "no_text")

NUM_ROWS_NAMED = 3  # in an error message
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Turn(NamedTuple):
    """One round of the conversation; a null in the file is an empty string here."""

    prompt: str
    response_a: str
    response_b: str


class Row(NamedTuple):
    """A row that passed the checks (or was repaired): a non-empty id and at least one turn."""

    row: int  # 1-based number of the data row in its file
    id: str
    turns: tuple[Turn, ...]
    target: tuple[float, float, float] | None  # one-hot over A, B, tie; None: unlabelled


class Fault(NamedTuple):
    kind: Kind
    detail: str


@dataclass(frozen=True)
class CheckedRows:
    """All trusted rows of a file, and {file, row, id, kind, detail} of each row set aside."""

    rows: list[Row]
    set_aside: list[dict[str, Any]]
    findings: dict[str, int] = field(default_factory=dict)
    is_labelled: bool = True


def read_checked_rows(path: Path, bad_rows: str) -> CheckedRows:
    """Read and check a whole file; memory grows with the file.

    `bad_rows` is the policy of `data.bad_rows`: set_aside, fail or keep. Raises DataError for a
    file that cannot be used, one without a usable row, and under `fail` for any row that fails.
    """
    checker = RowChecker(open_source(path), bad_rows)
    rows = list(checker.iterate_rows())
    set_aside = [{"file": str(path), **record} for record in checker.set_aside]
    return CheckedRows(rows, set_aside, dict(checker.findings), checker.source.is_labelled)


class RowChecker:
    """Checks one file as a stream, and keeps count.

    After `iterate_rows` is exhausted, `set_aside` holds {row, id, kind, detail} of each row that
    was not yielded, and `findings` the number of rows of each kind of finding, repaired ones and
    the harmless `null_text` and `lone_surrogate` included.
    """

    def __init__(self, source: SourceFile, bad_rows: str) -> None:
        self.source = source
        self.bad_rows = bad_rows
        self.set_aside: list[dict[str, Any]] = []
        self.findings: Counter[str] = Counter()
        self.num_rows = 0
        self.num_good = 0
        self.row_of_id: dict[str, int] = {}

    def iterate_rows(self) -> Iterator[Row]:
        """Yield the rows to use. Raises DataError as `read_checked_rows` does, once all rows are counted."""
        for raw in iterate_raw_rows(self.source):
            self.num_rows += 1
            row = self.check(raw)
            if row is not None:
                self.num_good += 1
                # Under `fail` the file is refused anyhow: count on, but feed nobody.
                if not (self.bad_rows == "fail" and self.set_aside):
                    yield row
        assert self.num_good + len(self.set_aside) == self.num_rows
        self.check_enough_rows()

    def check(self, raw: RawRow) -> Row | None:
        row, faults = self.examine(raw)
        self.findings.update({fault.kind for fault in faults})
        can_stay = self.bad_rows == "keep" and all(fault.kind in REPAIRABLE for fault in faults)
        if row is not None and (not faults or can_stay):
            self.row_of_id[row.id] = row.row
            return row
        # The reason that no repair could have helped is the one to name.
        fault = next((fault for fault in faults if fault.kind not in REPAIRABLE), faults[0])
        self.set_aside.append({"row": raw.row, "id": raw.id, **fault._asdict()})
        return None

    def examine(self, raw: RawRow) -> tuple[Row | None, list[Fault]]:
        """Return the row, repaired where need be, and all that is wrong with it."""
        if raw.fault is not None:
            return None, [Fault("wrong_cell_count", raw.fault)]
        faults = self.check_id(raw.id)
        target, winner_faults = parse_winners(raw.winners)
        turns, text_faults = parse_turns(raw.texts, self.source.text_format, self.findings)
        return Row(raw.row, raw.id, turns, target), [*faults, *winner_faults, *text_faults]

    def check_id(self, row_id: str) -> list[Fault]:
        if not row_id.strip():
            return [Fault("empty_id", "the id is empty")]
        if row_id in self.row_of_id:
            return [Fault("duplicate_id", f"row {self.row_of_id[row_id]} has this id already")]
        return []

    def check_enough_rows(self) -> None:
        path, num_bad = self.source.path, len(self.set_aside)
        if self.bad_rows == "fail" and num_bad:
            raise DataError(
                f"{num_bad:,} of {self.num_rows:,} rows in {path} fail a check and data.bad_rows=fail "
                f"({self.name_first_rows()}). Correct them, or go on without them by data.bad_rows=set_aside."
            )
        if not self.num_good:
            raise DataError(
                f"None of the {self.num_rows:,} rows in {path} can be used ({self.name_first_rows()}). "
                f"Correct them, or name another file."
            )

    def name_first_rows(self) -> str:
        named = self.set_aside[:NUM_ROWS_NAMED]
        rows = [f"row {bad['row']}, id {shorten(bad['id'])!r}: {bad['kind']}, {bad['detail']}" for bad in named]
        return f"first: {'; '.join(rows)}"


def parse_winners(cells: Sequence[str] | None) -> tuple[tuple[float, float, float] | None, list[Fault]]:
    """Return the one-hot target over A, B, tie, or what is wrong with the winner cells."""
    if cells is None:
        return None, []
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if sorted(values) == [0.0, 0.0, 1.0]:
        return (values[0], values[1], values[2]), []
    found = ", ".join(f"{name}={shorten(cell)!r}" for name, cell in zip(WINNER_COLUMNS, cells, strict=True))
    return None, [Fault("winner_not_one_hot", f"{found}; exactly one must be 1, the others 0")]


def parse_turns(
    cells: Sequence[str], text_format: TextFormat, findings: Counter[str]
) -> tuple[tuple[Turn, ...], list[Fault]]:
    """Return at least one turn, made up with empty strings where need be, and what is wrong.

    Counts rows with nulls and rows with lone surrogates (which no UTF-8 file and no tokenizer
    can hold; they become U+FFFD) in `findings`.
    """
    columns, faults = parse_cells(cells, text_format)
    if any(text is None for column in columns for text in column):
        findings["null_text"] += 1
    texts = [[text or "" for text in column] for column in columns]
    if any(LONE_SURROGATE.search(text) for column in texts for text in column if not text.isascii()):
        findings["lone_surrogate"] += 1
        texts = [[LONE_SURROGATE.sub("\ufffd", text) for text in column] for column in texts]
    counts = [len(column) for column in texts]
    if len(set(counts)) > 1:
        found = ", ".join(f"{name} {count}" for name, count in zip(TEXT_COLUMNS, counts, strict=True))
        faults.append(Fault("turn_count_differs", f"turns: {found}"))
    if not any(text.strip() for column in texts for text in column):
        faults.append(Fault("no_text", "prompt and responses are empty"))
    num_turns = max(1, *counts)
    padded = [column + [""] * (num_turns - len(column)) for column in texts]
    return tuple(Turn(*turn) for turn in zip(*padded, strict=True)), faults


def parse_cells(cells: Sequence[str], text_format: TextFormat) -> tuple[list[list[str | None]], list[Fault]]:
    """Return the turns of each text column; a cell that is no list of turns is read as one."""
    columns: list[list[str | None]] = []
    faults = []
    for name, cell in zip(TEXT_COLUMNS, cells, strict=True):
        problem = None
        turns: list[str | None] | None = [cell]
        if text_format == "json_turns":
            turns, problem = parse_json_turns(cell)
        if problem is not None:
            faults.append(Fault("bad_json", f"{name}: {problem}: {shorten(cell)!r}"))
        columns.append([cell] if turns is None else turns)
    return columns, faults


def parse_json_turns(cell: str) -> tuple[list[str | None] | None, str | None]:
    """Return the list of turns, or None and why the cell isn't one."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        return None, f"no JSON ({error})"
    if not isinstance(value, list):
        return None, f"JSON, but {type(value).__name__} where a list of strings should be"
    wrong = next((item for item in value if item is not None and not isinstance(item, str)), None)
    if wrong is not None:
        return None, f"a list, but with {type(wrong).__name__} where a string should be"
    return value, None


def shorten(text: str, num_characters: int = 60) -> str:
    return text if len(text) <= num_characters else text[: num_characters - 3] + "..."

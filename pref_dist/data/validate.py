"""The checks: raw rows in, trusted rows out, and every other row named with its reason."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pref_dist.data.conversations import shorten
from pref_dist.data.formats import RawRow
from pref_dist.data.ingest import Source, SourceRequest, iterate_raw_rows, open_source
from pref_dist.data.records import Meter
from pref_dist.data.rows import Row, Turn
from pref_dist.data.seen import SeenKeys, key_of
from pref_dist.errors import DataError
from pref_dist.findings import FAULTS, REPAIRABLE, Fault, Policies, Policy
from pref_dist.labels import TEXT_COLUMNS

NUM_ROWS_NAMED = 3  # in an error message, and of each kind of finding
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class CheckedRows:
    """All trusted rows of a source, and {file, row, id, kind, detail} of each row set aside."""

    rows: list[Row]
    set_aside: list[dict[str, Any]]
    findings: dict[str, int] = field(default_factory=dict)
    is_labelled: bool = True


def read_checked_rows(
    request: SourceRequest, bad_rows: Policy = "set_aside", checks: Mapping[Any, Policy] | None = None
) -> CheckedRows:
    """Read and check a whole source; memory grows with it.

    `bad_rows` and `checks` are the policies of the settings of that name. Raises DataError for a
    source that cannot be used, one without a usable row, and under `fail` for any row that fails.
    """
    checker = RowChecker(open_source(request), Policies(bad_rows, checks))
    rows = list(checker.iterate_rows())
    files = [str(file.path) for file in checker.source.files]
    set_aside = [name_file(record, files, checker.rows_of_file) for record in checker.set_aside]
    return CheckedRows(rows, set_aside, dict(checker.findings), checker.source.is_labelled)


def name_file(record: Mapping[str, Any], files: list[str], rows_of_file: list[int]) -> dict[str, Any]:
    """Return a record of a row with the name of its file, and its number within that file."""
    file, row = find_place(record["row"], rows_of_file)
    return {"file": files[file], **record, "row": row}


def find_place(row: int, rows_of_file: list[int]) -> tuple[int, int]:
    """Return (index of the file, number of the row within it) for a row's number over all files."""
    starts = np.cumsum([0, *rows_of_file])
    file = int(np.searchsorted(starts, row, side="left")) - 1
    return file, row - int(starts[file])


class RowChecker:
    """Checks one source as a stream, and keeps count.

    After `iterate_rows` is exhausted, `set_aside` holds {row, id, kind, detail} of each row that
    was not yielded (`row` counts over all files), `findings` the number of rows of each kind of
    finding, kept ones included, `first_rows` the first of each kind, and `rows_of_file` the number of
    data rows of each file.
    """

    def __init__(self, source: Source, policies: Policies) -> None:
        self.source = source
        self.policies = policies
        self.set_aside: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.findings: Counter[str] = Counter()
        self.first_rows: dict[str, list[int]] = {}
        self.num_rows = 0
        self.num_good = 0
        self.rows_of_file: list[int] = []
        self.seen_ids = SeenKeys()
        self.meter = Meter()

    def iterate_rows(self) -> Iterator[Row]:
        """Yield the rows to use. Raises DataError as `read_checked_rows` does, once all rows are counted."""
        self.rows_of_file = [0] * len(self.source.files)
        for file, raw in iterate_raw_rows(self.source, self.meter):
            self.num_rows += 1
            self.rows_of_file[file] += 1
            row = self.check(raw)
            if row is not None:
                self.num_good += 1
                # A source with a row that may not fail is refused anyhow: count on, but feed nobody.
                if not self.failed:
                    yield row
        assert self.num_good + len(self.set_aside) + len(self.failed) == self.num_rows
        self.check_enough_rows()

    def check(self, raw: RawRow) -> Row | None:
        """Return the row, repaired where need be, unless a policy says that it may not be used."""
        row, faults = examine(raw)
        reasons = [fault for fault in faults if self.policies.of(fault.kind) != "keep"]
        if row is not None and not reasons:
            # Only a row that is used takes its id; one set aside leaves it to the next.
            row, reasons = self.take_id(row, raw.has_made_id)
            faults += reasons
        self.count({fault.kind for fault in faults}, raw.row)
        if not reasons:
            return row
        # The reason that weighs most is the one to name: `fail` first, then what no repair could help.
        reason = min(reasons, key=self.weigh)
        records = self.failed if self.policies.of(reason.kind) == "fail" else self.set_aside
        records.append({"row": raw.row, "id": clean(raw.id), **reason._asdict()})
        return None

    def count(self, kinds: Set[str], row: int) -> None:
        self.findings.update(kinds)
        for kind in kinds:
            first = self.first_rows.setdefault(kind, [])
            if len(first) < NUM_ROWS_NAMED:
                first.append(row)

    def weigh(self, fault: Fault) -> tuple[bool, bool, bool]:
        return self.policies.of(fault.kind) != "fail", fault.kind not in FAULTS, fault.kind in REPAIRABLE

    def take_id(self, row: Row, has_made_id: bool) -> tuple[Row, list[Fault]]:
        first = self.find_or_add(row.id, row.row)
        if not first:
            return row, []
        if not has_made_id:
            return row, [Fault("duplicate_id", f"{self.describe_place(first)} has this id already")]
        # The id was made of the content, and this content has been here before: a finding about pairs, not about ids.
        renamed = row._replace(id=f"{row.id}-{row.row}")
        self.find_or_add(renamed.id, row.row)
        return renamed, []

    def find_or_add(self, row_id: str, row: int) -> int:
        """Return the row that has this id already, or 0."""
        keys = np.array([key_of(row_id)], dtype=np.uint64)
        return int(self.seen_ids.find_or_add(keys, np.array([row], dtype=np.int64))[0])

    def describe_place(self, row: int) -> str:
        file, number = find_place(row, self.rows_of_file)
        return f"row {number}" + (f" of file {file + 1}" if len(self.source.files) > 1 else "")

    def check_enough_rows(self) -> None:
        path = self.source.path
        if self.failed:
            reasons = dict.fromkeys(self.policies.setting_of(record["kind"]) for record in self.failed)
            remedies = dict.fromkeys(setting.replace("=fail", "=set_aside") for setting in reasons)
            raise DataError(
                f"{len(self.failed):,} of {self.num_rows:,} rows in {path} fail a check and {', '.join(reasons)} "
                f"({self.name_first_rows(self.failed)}). Correct them, or go on without them by {', '.join(remedies)}."
            )
        if not self.num_good:
            raise DataError(
                f"None of the {self.num_rows:,} rows in {path} can be used ({self.name_first_rows(self.set_aside)}). "
                f"Correct them, or name another file."
            )

    def name_first_rows(self, records: list[dict[str, Any]]) -> str:
        rows = [
            f"{self.describe_place(bad['row'])}, id {shorten(bad['id'])!r}: {bad['kind']}, {bad['detail']}"
            for bad in records[:NUM_ROWS_NAMED]
        ]
        return f"first: {'; '.join(rows)}"


def examine(raw: RawRow) -> tuple[Row | None, list[Fault]]:
    """Return the row, repaired where need be, and all that was found in it, but for its id's being unique."""
    if any(fault.kind in ("wrong_cell_count", "bad_line") for fault in raw.faults):
        return None, list(raw.faults)
    row_id = clean(raw.id)
    faults = [] if row_id.strip() else [Fault("empty_id", "the id is empty")]
    turns, found = build_turns(raw)
    if any(fault.kind == "bad_conversation" for fault in raw.faults):
        found = []  # there are no turns that could be counted or compared
    models = None if raw.models is None else (clean(raw.models[0]), clean(raw.models[1]))
    cells = (clean(raw.cells[0]), clean(raw.cells[1]), clean(raw.cells[2]))
    row = Row(raw.row, row_id, turns, raw.target, raw.soft_target, models, cells)
    return row, [*faults, *raw.faults, *found]


def build_turns(raw: RawRow) -> tuple[tuple[Turn, ...], list[Fault]]:
    """Return at least one turn, made up with empty strings where need be, and what was found in the texts."""
    columns = raw.texts
    texts = [[clean(text or "") for text in column] for column in columns]
    found = list(iterate_remarks(raw))
    counts = [len(column) for column in texts]
    if len(set(counts)) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in zip(TEXT_COLUMNS, counts, strict=True))
        found.append(Fault("turn_count_differs", f"turns: {listed}"))
    if not any(text.strip() for column in texts for text in column):
        found.append(Fault("no_text", "prompt and responses are empty"))
    elif texts[1] == texts[2]:
        found.append(Fault("identical_responses", f"{sum(map(len, texts[1])):,} characters"))
    num_turns = max(1, *counts)
    padded = [column + [""] * (num_turns - len(column)) for column in texts]
    return tuple(Turn(*turn) for turn in zip(*padded, strict=True)), found


def iterate_remarks(raw: RawRow) -> Iterator[Fault]:
    """Yield what is odd about the texts, but no reason not to use them."""
    named = list(zip(TEXT_COLUMNS, raw.texts, strict=True))
    names = [name for name, column in named if None in column]
    if names:
        yield Fault("null_text", f"null in {', '.join(names)}")
    names = [name for name, column in named if any(text is not None and not text.strip() for text in column)]
    if names:
        yield Fault("empty_text", f"nothing in {', '.join(names)}")
    texts = [text for column in raw.texts for text in column if text]
    if any(LONE_SURROGATE.search(text) for text in texts if not text.isascii()):
        yield Fault("lone_surrogate", "half of a surrogate pair, read as U+FFFD")
    found = next((match for text in texts if (match := CONTROL_CHARACTER.search(text))), None)
    if found:
        yield Fault("control_characters", f"U+{ord(found.group()):04X}, for example")
    if raw.has_non_text:
        yield Fault("non_text_content", "an image or a file in a message, left out")


def clean(text: str) -> str:
    """Return the text without lone surrogates, which no UTF-8 file and no tokenizer can hold."""
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)

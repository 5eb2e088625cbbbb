"""Pseudo-labels: a teacher's probabilities of rows without labels, as a source that training can read.

The file knows which rows its teacher has learnt from. A student must not train on labels of such rows, nor be scored
on rows that its teacher has learnt from.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pref_dist.data.data_files import find_files
from pref_dist.data.duplicates import find_shared
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.plan import Rows
from pref_dist.data.raw_labels import SOFT_COLUMNS
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.files import write_bytes
from pref_dist.labels import ID_COLUMN, TEXT_COLUMNS

KEY = b"pref_dist.taught_by_"
FIELDS = ("groups", "pairs")


def write_soft_labels(
    path: Path, rows: Sequence[Row], chances: NDArray[np.float64], trained: TrainedRows, teacher: str
) -> None:
    """Write rows with the probabilities (n, 3) that a teacher gives them, and what the teacher was trained on."""
    texts = {name: [[getattr(turn, name) for turn in row.turns] for row in rows] for name in TEXT_COLUMNS}
    columns: dict[str, Any] = {ID_COLUMN: pa.array([row.id for row in rows], pa.large_string())}
    columns |= {name: pa.array(cells, pa.large_list(pa.large_string())) for name, cells in texts.items()}
    columns |= {name: pa.array(chances[:, place]) for place, name in enumerate(SOFT_COLUMNS)}
    notes = {KEY + name.encode(): base64.b64encode(getattr(trained, name).tobytes()) for name in FIELDS}
    notes |= {KEY + b"split": trained.split.encode(), KEY + b"run": teacher.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(notes), sink)
    write_bytes(path, bytes(sink.getvalue()))


@dataclass(frozen=True)
class PseudoSource:
    """A source of pseudo-labels: its rows are [start, end) of the training table."""

    path: Path
    start: int
    end: int
    teachers: tuple[TrainedRows, ...]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        return (rows >= self.start) & (rows < self.end)


def find_pseudo_sources(table: TokenTable) -> list[PseudoSource]:
    """Return the sources of a training table whose labels a teacher of ours has given."""
    found = []
    for start, part in table.parts:
        teachers = [teacher for file in find_files(part.source) if (teacher := read_teacher(file)) is not None]
        if teachers:
            found.append(PseudoSource(part.source, start, start + len(part), tuple(teachers)))
    return found


def teachers_of(sources: Sequence[PseudoSource]) -> list[TrainedRows]:
    return [teacher for source in sources for teacher in source.teachers]


def are_pseudo(sources: Sequence[PseudoSource], rows: Rows) -> NDArray[np.bool_]:
    """Return (n,) whether each of `rows` has a pseudo-label."""
    return np.any([source.holds(rows) for source in sources], axis=0) if sources else np.zeros(len(rows), np.bool_)


def read_teacher(path: Path) -> TrainedRows | None:
    """Return what the teacher of a file was trained on; None if its labels are not of a teacher of ours."""
    if path.suffix.lower() != ".parquet":
        return None
    notes = pq.read_schema(path).metadata or {}
    if KEY + b"split" not in notes:
        return None
    groups, pairs = (np.frombuffer(base64.b64decode(notes[KEY + name.encode()]), np.uint64) for name in FIELDS)
    split: Any = notes[KEY + b"split"].decode()
    return TrainedRows(groups, pairs, split)


def check_teachers(sources: Sequence[PseudoSource], train: "Side", valid: "Side") -> None:
    """Raise DataError if a teacher has learnt from rows that it labels here or from what is held out, or labels that.

    Of its own rows the pair of answers counts: another pair under a prompt that it knows is a new row. Of the held-out
    rows the prompt counts, too, as in the split.
    """
    if valid.table is not train.table and (scorers := find_pseudo_sources(valid.table)):
        raise DataError(
            f"data.valid={scorers[0].path} holds pseudo-labels, and a run is scored on what people have said. Name "
            "labelled rows in data.valid, and put this file into data.sources."
        )
    for source in sources:
        for teacher in source.teachers:
            own = Side(train.table, train.rows[source.holds(train.rows)])
            known = find_shared(own.table.pairs[own.rows], teacher.pairs)
            if len(known):
                raise DataError(
                    f"{describe_seen(source, own, known)} of its own {len(own.rows):,} rows, which it would label from "
                    "memory. Let it label rows that it has not seen."
                )
            scored = teacher.were_seen(valid.table.groups[valid.rows], valid.table.pairs[valid.rows])
            if scored.any():
                raise DataError(
                    f"{describe_seen(source, valid, np.flatnonzero(scored))} of the {len(valid.rows):,} held-out rows, "
                    "whose labels its own would carry into the training. Hold out what the teacher held out (the same "
                    "data.train, data.split, data.num_folds, data.fold and run.seed), or in data.valid what it has not "
                    "seen."
                )


class Side(NamedTuple):
    """Rows (n,) of a table: those that are trained on, or those that are held out."""

    table: TokenTable
    rows: Rows


def describe_seen(source: PseudoSource, side: Side, places: Rows) -> str:
    first = side.table.name_row(int(side.rows[places[0]]))
    return f"The teacher of data.sources {source.path} has learnt from {len(places):,} (first: {first})"

"""Pseudo-labels: a teacher's probabilities of rows without labels, as a source that training can read.

The file knows which rows its teacher has learnt from. A student must not train on labels of such rows, nor be scored
on rows that its teacher has learnt from.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pref_dist.data.data_files import find_files
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


def check_teachers(
    sources: Sequence[PseudoSource], train: tuple[TokenTable, Rows], valid: tuple[TokenTable, Rows]
) -> None:
    """Raise DataError if a teacher has learnt from rows that it labels here, or from rows that are held out."""
    table, rows = train
    for source in sources:
        own = rows[source.holds(rows)]
        check_not_seen(source, (table, own), f"of its own {len(own):,} rows", "Label rows that it has not seen.")
        scored_table, scored = valid
        check_not_seen(
            source,
            (scored_table, scored),
            f"of the {len(scored):,} held-out rows, whose labels its own would carry into the training",
            "Hold out what the teacher held out (same data.train, data.split, data.num_folds, data.fold, run.seed), "
            "or a file in data.valid that it has not seen.",
        )


def check_not_seen(source: PseudoSource, where: tuple[TokenTable, Rows], what: str, remedy: str) -> None:
    table, rows = where
    for teacher in source.teachers:
        seen = rows[teacher.were_seen(table.groups[rows], table.pairs[rows])]
        if len(seen):
            place = table.describe(int(seen[0]))
            raise DataError(
                f"The teacher of data.sources {source.path} has learnt from {len(seen):,} {what} (first: row "
                f"{place['row']} of {place['file']} with id {place['id']}). {remedy}"
            )

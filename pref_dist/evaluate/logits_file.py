"""Logits of rows on disk, with what it takes to know the rows again and whether they were new to the model.

| column | type | what it holds |
|---|---|---|
| row_id | string | the id in the row's source |
| logit_a, logit_b, logit_tie | float | what counts: as the model gave them, or of both orders the log of the mean |
| first_logit_a, ... | float | only where there is a second order: of the row as it stands in its file |
| second_logit_a, ... | float | then: shown with A and B exchanged, put back into the row's own; null where not run |
| target | 3 x float64 | probabilities of A, B, tie to score against; null where there is no label |
| group, pair | uint64 | hashes of the prompt and of both answers (`data/folds.py`, `data/pairs.py`) |
| is_mirrored | bool | whether A and B stand in the other order than `pair` hashes them in |
| held_out | bool | whether the model had not learnt from the row (`data/leaks.py`); null where nobody knows |
| fold | int32 | only in oof_logits.parquet: the fold that held the row out |
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pref_dist.config.schema import EvaluateSection
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.plan import Rows
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.answers import Answers, Logits
from pref_dist.files import write_bytes

LOGIT_COLUMNS = ("logit_a", "logit_b", "logit_tie")
FIRST_COLUMNS = tuple(f"first_{name}" for name in LOGIT_COLUMNS)
SECOND_COLUMNS = tuple(f"second_{name}" for name in LOGIT_COLUMNS)
NOTES_PREFIX = "pref_dist."
ORDERS, ONE_ORDER = "orders", "none"  # a note; files from before there were two orders have none
REMEDY = "Write it again by `pref-dist evaluate RUN_DIR` on the run's own rows; a file from elsewhere cannot be used."

Hashes = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Origin:
    """Which rows these are, whatever file they came from, (n,) each. held_out is None where nobody knows."""

    groups: Hashes
    pairs: Hashes
    is_mirrored: Bools
    held_out: Bools | None


@dataclass(frozen=True)
class RowLogits:
    """Logits (n, 3) of n rows in the order A, B, tie, and their targets (n, 3), None without labels.

    answers: of both orders of A and B, where there is a second one; `logits` are made of them.
    origin: None in a file from elsewhere; `known_origin` insists. folds: (n,) in oof_logits.parquet.
    notes: what else the file says, such as step and fold.
    """

    row_ids: list[str]
    logits: NDArray[np.floating]
    targets: NDArray[np.float64] | None
    origin: Origin | None = None
    folds: NDArray[np.int32] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    path: Path | None = None
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def orders(self) -> str:
        """Which EvaluateSection.orders they were made with."""
        return self.notes.get(ORDERS, ONE_ORDER)

    @property
    def held_out(self) -> Bools | None:
        """(n,) whether each row was new to the model; None where nobody knows."""
        return None if self.origin is None else self.origin.held_out

    @property
    def is_of_folds(self) -> bool:
        """Whether these are of models that have learnt from each other's rows: of folds, or of a blend with some."""
        return "num_folds" in self.notes

    def known_origin(self) -> Origin:
        """Return the origin. Raises DataError, which names the columns, if the file does not tell it whole."""
        missing = [] if self.origin is not None else ["group", "pair", "is_mirrored"]
        if self.origin is None or self.origin.held_out is None:
            raise DataError(
                f"{self.path} lacks the columns {', '.join([*missing, 'held_out'])} (or they are null), so nobody can "
                f"tell which rows these are or whether they were new to the model. {REMEDY}"
            )
        return self.origin

    def check_held_out(self) -> Origin:
        """Return the origin. Raises DataError, with the number and the first, if the model has learnt from rows."""
        origin = self.known_origin()
        assert origin.held_out is not None
        learnt = np.flatnonzero(~origin.held_out)
        if len(learnt):
            raise DataError(
                f"{self.path}: the model has learnt from {len(learnt):,} of these {len(self):,} rows, or from their "
                f"prompts (first: row {self.row_ids[learnt[0]]}), so its logits of them would leak. Use rows that it "
                "has not seen: train with --folds and take oof_logits.parquet."
            )
        return origin


def logits_of_table(
    table: TokenTable,
    rows: Rows,
    answers: Answers,
    trained: TrainedRows | None,
    notes: dict[str, str] | None = None,
) -> RowLogits:
    """Return answers (n) with all that the table knows of their `rows` (n,). trained: None if nobody knows."""
    groups, pairs = table.groups[rows], table.pairs[rows]
    held_out = None if trained is None else ~trained.were_seen(groups, pairs)
    origin = Origin(groups, pairs, table.is_mirrored[rows], held_out)
    targets = table.targets[rows] if table.is_labelled else None
    both = answers if answers.second is not None else None
    ids = table.ids.take(rows).to_pylist()
    return RowLogits(ids, answers.logits, targets, origin, notes=notes or {}, answers=both)


def note_orders(settings: EvaluateSection) -> dict[str, str]:
    """Return what the notes of logits made under `settings` hold about the orders of A and B."""
    return {} if settings.orders == ONE_ORDER else {ORDERS: settings.orders}


def write_logits(path: Path, rows: RowLogits) -> None:
    """Write the file whole or not at all."""
    write_bytes(path, render_logits(rows))


def render_logits(rows: RowLogits) -> bytes:
    """Return the content of such a file; the same rows give the same bytes."""
    columns: dict[str, Any] = {"row_id": pa.array(rows.row_ids, pa.large_string())}
    columns |= {name: pa.array(rows.logits[:, place]) for place, name in enumerate(LOGIT_COLUMNS)}
    columns |= render_orders(rows.answers)
    targets = [None] * len(rows) if rows.targets is None else list(rows.targets)
    columns["target"] = pa.array(targets, pa.list_(pa.float64(), 3))
    if rows.origin is not None:
        origin = rows.origin
        held_out = [None] * len(rows) if origin.held_out is None else origin.held_out
        columns |= {"group": origin.groups, "pair": origin.pairs, "is_mirrored": origin.is_mirrored}
        columns["held_out"] = pa.array(held_out, pa.bool_())
    if rows.folds is not None:
        columns["fold"] = pa.array(rows.folds, pa.int32())
    table = pa.table(columns).replace_schema_metadata({NOTES_PREFIX + key: text for key, text in rows.notes.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def render_orders(answers: Answers | None) -> dict[str, Any]:
    """Return the columns of both orders; a row without the second one is null there."""
    if answers is None or answers.second is None:
        return {}
    first, second, is_missing = answers.first, answers.second, ~answers.has_both
    columns = {name: pa.array(first[:, place]) for place, name in enumerate(FIRST_COLUMNS)}
    return columns | {name: pa.array(second[:, place], mask=is_missing) for place, name in enumerate(SECOND_COLUMNS)}


def read_logits(path: Path) -> RowLogits:
    """Raises DataError if the file is missing, damaged, or has not even ids, logits and targets."""
    try:
        table = pq.read_table(path)
        return RowLogits(
            row_ids=table["row_id"].to_pylist(),
            logits=read_columns(table, LOGIT_COLUMNS),
            answers=read_answers(table),
            targets=read_targets(table),
            origin=read_origin(table),
            folds=table["fold"].to_numpy() if "fold" in table.column_names else None,
            notes=read_notes(table),
            path=path,
        )
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"{path} cannot be read as a file of logits: {error}. {REMEDY}") from error


def read_columns(table: Any, names: tuple[str, ...]) -> Logits:
    """Return (n, 3) float64; NaN where there is a null."""
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float64)


def read_answers(table: Any) -> Answers | None:
    """Return what was said in both orders; None where there was but one."""
    if not {*FIRST_COLUMNS, *SECOND_COLUMNS} <= set(table.column_names):
        return None
    return Answers(read_columns(table, FIRST_COLUMNS), read_columns(table, SECOND_COLUMNS))


def read_targets(table: Any) -> NDArray[np.float64] | None:
    targets = table["target"].combine_chunks()
    if targets.null_count:
        return None
    values: NDArray[np.float64] = targets.flatten().to_numpy().reshape(-1, 3)
    return values


def read_origin(table: Any) -> Origin | None:
    if not {"group", "pair", "is_mirrored"} <= set(table.column_names):
        return None
    held_out = table["held_out"] if "held_out" in table.column_names else None
    return Origin(
        groups=table["group"].to_numpy(),
        pairs=table["pair"].to_numpy(),
        is_mirrored=table["is_mirrored"].to_numpy(),
        held_out=None if held_out is None or held_out.null_count else held_out.to_numpy(),
    )


def read_notes(table: Any) -> dict[str, str]:
    metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    return {key.removeprefix(NOTES_PREFIX): text for key, text in metadata.items() if key.startswith(NOTES_PREFIX)}

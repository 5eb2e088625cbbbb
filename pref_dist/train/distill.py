"""Distillation: the logits of a teacher, brought to the rows of a run, and proof that they are of rows new to it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.train_section import DistillSection
from pref_dist.data.duplicates import find_shared
from pref_dist.data.pairs import swap_classes
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import Prepared
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.logits_file import RowLogits, read_logits


@dataclass(frozen=True)
class Teacher:
    """What a teacher says of the rows of a training table.

    logits: (N, 3) float64 for A, B, tie as they stand in the table; NaN for rows that are not trained on.
    num_taught_by_held_out: held-out rows whose labels have shaped the teachers of other rows.
    """

    logits: NDArray[np.float64]
    num_taught_by_held_out: int

    @property
    def digest(self) -> str:
        """The sha256 of the logits."""
        return hashlib.sha256(np.ascontiguousarray(self.logits).data).hexdigest()

    @property
    def warnings(self) -> list[str]:
        if not self.num_taught_by_held_out:
            return []
        return [
            f"{self.num_taught_by_held_out:,} held-out rows stand in train.distill.logits, so that the teachers of "
            "other folds have learnt from them: the held-out log loss may look a little better than it is"
        ]


def find_teacher(settings: DistillSection, prepared: Prepared) -> Teacher:
    """Read the teacher's logits of all training rows.

    Rows are found by their text, whatever their ids are, in either order of A and B. Raises DataError if a
    training row has none, or the teacher has learnt from it.
    """
    found = read_logits(Path(settings.logits))
    table, rows = prepared.train_table, prepared.train_rows
    places = find_places(found, table, rows)
    check_held_out(found, table, rows, places)
    logits = np.full((len(table), found.logits.shape[1]), np.nan)
    origin = found.known_origin()
    is_swapped = origin.is_mirrored[places] != table.is_mirrored[rows]
    logits[rows] = swap_classes(found.logits[places], is_swapped)
    scored = prepared.valid_table.pairs[prepared.valid_rows]
    return Teacher(logits, len(find_shared(scored, origin.pairs)) if found.is_of_folds else 0)


def find_places(found: RowLogits, table: TokenTable, rows: Rows) -> Rows:
    """Return for each of `rows` (n,) the place of its pair in the file. Raises DataError if one has none."""
    pairs = found.known_origin().pairs
    order = np.argsort(pairs, kind="stable")
    wanted = table.pairs[rows]
    places = np.searchsorted(pairs[order], wanted)
    is_there = places < len(pairs)
    is_there[is_there] = pairs[order][places[is_there]] == wanted[is_there]
    if not is_there.all():
        missing = rows[~is_there]
        raise DataError(
            f"train.distill.logits={found.path} has no logits of {len(missing):,} of {len(rows):,} training rows "
            f"(first: {table.name_row(int(missing[0]))}). Let teachers of the same data.train give them: "
            "`train --folds`, then its oof_logits.parquet."
        )
    return np.asarray(order[places])


def check_held_out(found: RowLogits, table: TokenTable, rows: Rows, places: Rows) -> None:
    held_out = found.known_origin().held_out
    assert held_out is not None
    learnt = rows[~held_out[places]]
    if len(learnt):
        raise DataError(
            f"train.distill.logits={found.path}: the teacher has learnt from {len(learnt):,} of {len(rows):,} training "
            f"rows (first: {table.name_row(int(learnt[0]))}), so that it would hand their labels on. Use logits of "
            "rows that their teacher has not seen: `train --folds`, then its oof_logits.parquet."
        )

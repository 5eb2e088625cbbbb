"""Rows that a program hands over, in place of a file: read, checked and made into tokens in the same way."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.encode import EncodedRows
from pref_dist.data.formats import RawRow, read_columns_of_text
from pref_dist.data.layouts import hold_turn_lists
from pref_dist.data.records import Record
from pref_dist.data.rows import Row
from pref_dist.data.validate import examine
from pref_dist.errors import DataError
from pref_dist.findings import FAULTS, Fault
from pref_dist.labels import TEXT_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

NUM_ROWS_NAMED = 3  # in an error message


GivenRows: TypeAlias = "Iterable[Mapping[str, Any]] | pd.DataFrame"


def read_given_rows(rows: GivenRows) -> list[Row]:
    """Return trusted rows, in the order given and numbered from 0.

    Each has prompt, response_a and response_b, a string or a list of turns (a turn that is None is empty). Where most
    strings look like JSON lists of turns, as in Kaggle's CSV, all are read so. Raises DataError if a row lacks one of
    them or cannot be read.
    """
    frame: Any = rows
    given = list(frame.to_dict("records") if hasattr(rows, "to_dict") else frame)
    check_columns(given)
    records = [{name: simplify(row[name]) for name in TEXT_COLUMNS} for row in given]
    strings = [Record({name: cell for name, cell in cells.items() if isinstance(cell, str)}) for cells in records]
    are_json = hold_turn_lists(strings)
    examined = [examine(read_cells(number, cells, are_json)) for number, cells in enumerate(records)]
    check_faults([faults for _, faults in examined])
    return [row for row, _ in examined if row is not None]


def check_columns(given: Sequence[Any]) -> None:
    for number, row in enumerate(given):
        missing = [name for name in TEXT_COLUMNS if not isinstance(row, Mapping) or name not in row]
        if missing:
            raise DataError(
                f"rows[{number}] lacks {', '.join(missing)}. A row is a dict (or a line of a DataFrame) with "
                f"{', '.join(TEXT_COLUMNS)}, each a string or a list of turns."
            )


def simplify(cell: Any) -> Any:
    """Return a cell as a file would give it: arrays and tuples are lists, NaN is None."""
    if isinstance(cell, np.ndarray | tuple):
        return list(cell)
    return None if isinstance(cell, float) and np.isnan(cell) else cell


def read_cells(number: int, cells: Mapping[str, Any], are_json: bool) -> RawRow:
    are_lists = are_json or any(isinstance(cell, list) for cell in cells.values())
    if are_lists and not are_json:  # one text beside lists of turns is one turn
        cells = {name: [cell] if cell is None or isinstance(cell, str) else cell for name, cell in cells.items()}
    return read_columns_of_text(number, str(number), cells, are_lists)


def check_faults(found: Sequence[Sequence[Fault]]) -> None:
    """Raise DataError if a row has what sets it aside when it stands in a file."""
    reasons = [next((fault for fault in faults if fault.kind in FAULTS), None) for faults in found]
    bad = [(number, fault) for number, fault in enumerate(reasons) if fault is not None]
    if bad:
        first = "; ".join(f"rows[{number}]: {fault.kind}, {fault.detail}" for number, fault in bad[:NUM_ROWS_NAMED])
        raise DataError(
            f"{len(bad):,} of {len(found):,} rows cannot be read (first: {first}). Correct them or leave them out."
        )


class GivenTable:
    """The tokens of N rows in memory, as batches want them (`layout.TokenRows`); without labels."""

    def __init__(self, encoded: EncodedRows) -> None:
        self._encoded = encoded
        self._ends = np.cumsum(encoded.lengths)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def training_targets(self) -> NDArray[np.float64]:
        return self._encoded.targets

    @property
    def weights(self) -> NDArray[np.float64]:
        return np.ones(len(self))

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        return self._encoded.rows

    @property
    def lengths(self) -> NDArray[np.int32]:
        return self._encoded.lengths.astype(np.int32)

    @property
    def surface(self) -> NDArray[np.float32]:
        return self._encoded.surface

    @property
    def segment_ends(self) -> NDArray[np.int32]:
        return self._encoded.segment_ends

    def input_ids(self, row: int) -> NDArray[np.int32]:
        end = int(self._ends[row])
        return self._encoded.input_ids[end - int(self._encoded.lengths[row]) : end]

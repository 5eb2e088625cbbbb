"""The submission file: three probabilities a row, in the order of the input."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pref_dist.errors import DataError
from pref_dist.labels import ID_COLUMN, SUBMISSION_COLUMNS, WINNER_COLUMNS


def write_submission(path: Path, ids: Sequence[str], chances: NDArray[np.float64]) -> None:
    """Check and write a submission; `chances` (N, 3) belong to `ids` (N,) in the order A, B, tie.

    Raises DataError, and writes nothing, if an id stands twice or the numbers are no probabilities.
    """
    check_submission(ids, chances)
    table = pd.DataFrame(chances, columns=list(WINNER_COLUMNS))
    table.insert(0, ID_COLUMN, list(ids))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    table.to_csv(temporary, index=False)
    os.replace(temporary, path)


def check_submission(ids: Sequence[str], chances: NDArray[np.float64]) -> None:
    if chances.shape != (len(ids), len(WINNER_COLUMNS)):
        raise DataError(f"A submission of {len(ids)} ids needs as many rows of 3 probabilities, not {chances.shape}.")
    repeated = pd.Index(ids).duplicated()
    if repeated.any():
        raise DataError(f"The submission would hold {repeated.sum()} ids twice (first: {ids[int(repeated.argmax())]}).")
    wrong = ~((chances > 0).all(axis=1) & (chances < 1).all(axis=1) & (np.abs(chances.sum(axis=1) - 1) < 1e-6))
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(f"{wrong.sum()} rows are no probabilities (first: id {ids[first]} with {chances[first]}).")


def read_probabilities(path: Path) -> pd.DataFrame:
    """Return a submission file as a table of probabilities indexed by id (as text).

    Raises DataError if the columns are not those of a submission.
    """
    try:
        table = pd.read_csv(path, dtype={ID_COLUMN: str})
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a submission: {error}") from error
    missing = [name for name in SUBMISSION_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; a submission has {list(SUBMISSION_COLUMNS)}.")
    repeated = table[ID_COLUMN].duplicated()
    if repeated.any():
        raise DataError(f"{path} holds {repeated.sum()} ids twice (first: {table[ID_COLUMN][repeated].iloc[0]}).")
    return table.set_index(ID_COLUMN)[list(WINNER_COLUMNS)].astype("float64")

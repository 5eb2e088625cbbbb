"""The submission file: three probabilities a row, in the order of the input."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pref_dist.errors import DataError
from pref_dist.files import replacing
from pref_dist.labels import ID_COLUMN, SUBMISSION_COLUMNS, WINNER_COLUMNS

# Written and checked in pieces, so that ten million rows take no more memory than their numbers.
ROWS_A_PIECE = 2**16
# Of what is written the sum is 1 within 1e-6; others may have rounded to three digits.
SUM_TOLERANCE = 2e-3


def write_submission(path: Path, ids: Sequence[str] | Any, chances: NDArray[np.float64]) -> None:
    """Check and write a submission; `chances` (N, 3) belong to `ids` (N,) in the order A, B, tie.

    ids: texts, or a pyarrow.ChunkedArray of them. Raises DataError, and writes nothing, if an id stands twice or the
    numbers are no probabilities. The file is there whole, or as it was before.
    """
    column = as_column(ids)
    check_submission(column, chances)
    with replacing(path) as file:
        for start, piece in iterate_pieces(column):
            table = pd.DataFrame(chances[start : start + len(piece)], columns=list(WINNER_COLUMNS))
            table.insert(0, ID_COLUMN, piece.to_pylist())
            table.to_csv(file, index=False, header=start == 0, encoding="utf-8")


def as_column(ids: Sequence[str] | Any) -> Any:
    """Return ids as a pyarrow.ChunkedArray."""
    return ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([pa.array(ids, pa.large_string())])


def iterate_pieces(ids: Any) -> Iterator[tuple[int, Any]]:
    """Yield (place of its first one, the ids of a piece)."""
    for start in range(0, len(ids), ROWS_A_PIECE):
        yield start, ids.slice(start, ROWS_A_PIECE)


def check_submission(ids: Any, chances: NDArray[np.float64]) -> None:
    """Raise DataError, with the number of rows and the first one, for what is no submission."""
    if chances.shape != (len(ids), len(WINNER_COLUMNS)):
        raise DataError(f"A submission of {len(ids)} ids needs as many rows of 3 probabilities, not {chances.shape}.")
    repeated = find_repeated(ids)
    if repeated:
        raise DataError(f"The submission would hold {len(repeated)} ids twice (first: {repeated[0]}).")
    wrong = np.concatenate([are_wrong(chances[start : start + len(piece)]) for start, piece in iterate_pieces(ids)])
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{wrong.sum()} rows are no probabilities (first: id {ids[first].as_py()} with {chances[first]})."
        )


def are_wrong(chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) whether a row is not three numbers between 0 and 1 whose sum is 1."""
    is_inside = (chances > 0).all(axis=1) & (chances < 1).all(axis=1)
    return np.asarray(~(is_inside & (np.abs(chances.sum(axis=1) - 1) < 1e-6)))


def find_repeated(ids: Any) -> list[str]:
    """Return every second showing of an id, in order. Hashes are compared, and ids only where these are equal."""
    hashes = hash_ids(ids)
    ordered = np.sort(hashes)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    counts: Counter[str] = Counter()
    repeated = []
    for place in np.flatnonzero(np.isin(hashes, shared)) if len(shared) else ():
        row_id = ids[int(place)].as_py()
        if counts[row_id]:
            repeated.append(row_id)
        counts[row_id] += 1
    return repeated


def hash_ids(ids: Any) -> NDArray[np.uint64]:
    """Return a 64-bit hash (N,) of each id."""
    hashes = np.empty(len(ids), np.uint64)
    for start, piece in iterate_pieces(ids):
        texts = np.array(piece.to_pylist(), dtype=object)
        hashes[start : start + len(piece)] = pd.util.hash_array(texts, categorize=False)
    return hashes


def check_like_sample(path: Path, ids: Any) -> None:
    """Raise DataError unless a sample submission has a submission's columns and exactly these ids, in this order."""
    place, column = 0, as_column(ids)
    try:
        with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=ROWS_A_PIECE) as reader:
            for piece in reader:
                check_columns(path, list(piece.columns))
                wanted = column.slice(place, len(piece)).to_pylist()
                if piece[ID_COLUMN].tolist() != wanted:
                    raise DataError(explain_sample(path, column))
                place += len(piece)
    except (OSError, ValueError) as error:
        raise DataError(f"--sample-submission {path} cannot be read: {error}") from error
    if place != len(column):
        raise DataError(explain_sample(path, column))


def check_columns(path: Path, columns: list[str]) -> None:
    if columns != list(SUBMISSION_COLUMNS):
        raise DataError(
            f"--sample-submission {path} has the columns {columns}, and the submission would have "
            f"{list(SUBMISSION_COLUMNS)}, in this order. Is it the sample of another competition?"
        )


def explain_sample(path: Path, ids: Any) -> str:
    """Say how the ids of a sample differ from the submission's: which are missing or more, or the order alone."""
    sample = as_column(pd.read_csv(path, dtype=str, keep_default_na=False, usecols=[ID_COLUMN])[ID_COLUMN].tolist())
    own, wanted = hash_ids(ids), hash_ids(sample)
    missing, extra = np.flatnonzero(~np.isin(wanted, own)), np.flatnonzero(~np.isin(own, wanted))
    counts = f"It has {len(sample):,} rows, and the submission would have {len(ids):,}."
    if len(missing) or len(extra):
        examples = [
            f"{len(places):,} {what} (first: {column[int(places[0])].as_py()})"
            for what, places, column in (
                ("of its ids are missing in --data", missing, sample),
                ("ids of --data do not stand in it", extra, ids),
            )
            if len(places)
        ]
        return f"--sample-submission {path} is of other rows than --data: {'; '.join(examples)}. {counts}"
    if len(sample) != len(ids):
        return f"--sample-submission {path} holds {find_repeated(sample)[:1]} twice. {counts}"
    first = int(np.flatnonzero(own != wanted)[0])
    return (
        f"--sample-submission {path} has the same ids as --data in another order (first in row {first + 1}: "
        f"{sample[first].as_py()} there, {ids[first].as_py()} in --data). A submission keeps the order of its input; "
        "leave the option out if the order does not matter to the judge."
    )


def read_probabilities(path: Path) -> pd.DataFrame:
    """Return a submission file as a table of probabilities indexed by id (as text).

    Raises DataError if the columns are not those of a submission, an id stands twice, or a row holds no probabilities.
    """
    try:
        # Texts as they stand there: an id may be NA, and an empty cell is no number.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a submission: {error}") from error
    missing = [name for name in SUBMISSION_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; a submission has {list(SUBMISSION_COLUMNS)}.")
    repeated = table[ID_COLUMN].duplicated()
    if repeated.any():
        raise DataError(f"{path} holds {repeated.sum()} ids twice (first: {table[ID_COLUMN][repeated].iloc[0]}).")
    cells = table.set_index(ID_COLUMN)[list(WINNER_COLUMNS)]
    found = cells.apply(pd.to_numeric, errors="coerce").astype("float64")
    wrong = ~(((found >= 0) & (found <= 1)).all(axis=1) & ((found.sum(axis=1) - 1).abs() < SUM_TOLERANCE))
    if wrong.any():
        first = cells[wrong].iloc[0]
        raise DataError(
            f"{path}: {wrong.sum():,} of {len(found):,} rows are no probabilities of A, B and tie, whose sum is 1 "
            f"(first: id {first.name} with {', '.join(first) or 'nothing'}). Correct them."
        )
    return pd.DataFrame(found)

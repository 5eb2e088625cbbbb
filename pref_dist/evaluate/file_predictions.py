"""Every row of a file with its probabilities, in the file's order: also the rows that no model could read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pref_dist.data.plan import Rows
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.answers import Answers, pieces
from pref_dist.metrics import probabilities
from pref_dist.submission import hash_ids

SMALLEST_PROBABILITY = 1e-12

Chances = NDArray[np.float64]


@dataclass(frozen=True)
class FileRows:
    """The N rows of a file that a submission can hold, in its order.

    ids: (N,) a pyarrow.ChunkedArray, mapped from the token cache. is_prior: (N,) whether the row was set aside, so that
    no model can read it. num_left_out: rows that no submission can hold (no id, or one that stands there twice).
    set_aside: {file, row, id, kind, detail} of both.
    """

    ids: Any
    is_prior: NDArray[np.bool_]
    num_left_out: int
    set_aside: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.is_prior)


@dataclass(frozen=True)
class FilePredictions(FileRows):
    """Probabilities (N, 3) of all of them; those that were set aside have the training rows' class shares."""

    chances: Chances


def list_rows(table: TokenTable) -> FileRows:
    """Put the rows that were set aside back between the others."""
    ids, numbers = find_priors(table)
    if not ids:
        is_prior = np.zeros(len(table), np.bool_)
        return FileRows(table.ids, is_prior, len(table.set_aside_rows), table.set_aside)
    order = np.argsort(numbers, kind="stable")
    places = np.searchsorted(table.row_numbers, numbers[order]) + np.arange(len(ids))
    is_prior = np.zeros(len(table) + len(ids), np.bool_)
    is_prior[places] = True
    merged = merge_ids(table.ids, [ids[place] for place in order], is_prior)
    return FileRows(merged, is_prior, len(table.set_aside_rows) - len(ids), table.set_aside)


def find_priors(table: TokenTable) -> tuple[list[str], Rows]:
    """Return ids and row numbers of the rows set aside that a submission can hold; of one id the first row counts."""
    first: dict[str, int] = {}
    for record in table.set_aside_rows:
        if record["id"]:
            first.setdefault(record["id"], int(record["row"]))
    if first:
        wanted = pa.array(list(first), pa.large_string())
        for chunk in table.ids.chunks:
            for taken in chunk.filter(pc.is_in(chunk, wanted)).to_pylist():
                del first[taken]
    return list(first), np.fromiter(first.values(), np.int64, len(first))


def merge_ids(ids: Any, prior_ids: list[str], is_prior: NDArray[np.bool_]) -> Any:
    """Return a pyarrow.ChunkedArray (N,) of both; pieces of the file in which no row was set aside are not copied."""
    chunks: list[Any] = []
    num_before = 0
    for piece in pieces(len(is_prior)):
        here = is_prior[piece]
        num_here = int(here.sum())
        own = ids.slice(piece.start - num_before, len(here) - num_here).chunks
        if num_here:
            priors = pa.array(prior_ids[num_before : num_before + num_here], pa.large_string())
            places = np.argsort(np.concatenate((np.flatnonzero(~here), np.flatnonzero(here))))
            own = [pa.concat_arrays([*own, priors]).take(pa.array(places))]
        chunks += own
        num_before += num_here
    return pa.chunked_array(chunks, pa.large_string())


def chances_of(answers: Answers, temperature: float = 1.0) -> Chances:
    """Return the probabilities (n, 3) of logits divided by a temperature."""
    chances = np.empty(answers.first.shape, np.float64)
    for piece in pieces(len(answers)):
        chances[piece] = probabilities(answers[piece].logits.astype(np.float64) / temperature)
    return chances


def complete(rows: FileRows, chances: Chances, class_shares: Sequence[float]) -> FilePredictions:
    """Give the probabilities (n, 3) to the rows that the model could read, and the class shares to the others."""
    joined = np.empty((len(rows), chances.shape[1]))
    joined[~rows.is_prior] = chances
    joined[rows.is_prior] = class_shares
    for piece in pieces(len(rows)):
        joined[piece] = keep_inside(joined[piece])
    return FilePredictions(rows.ids, rows.is_prior, rows.num_left_out, rows.set_aside, joined)


def keep_inside(chances: Chances) -> Chances:
    """Return probabilities (N, 3) of which none is 0, so that no single row can cost infinitely much."""
    inside = np.maximum(chances, SMALLEST_PROBABILITY)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def average(parts: Sequence[FilePredictions]) -> FilePredictions:
    """Return the mean of several models' probabilities of the same rows. A row is a prior that all had set aside."""
    first = parts[0]
    mean = np.zeros_like(first.chances)
    for chances in fill_in(parts):
        mean += chances
    mean /= len(parts)
    is_prior = np.all([part.is_prior for part in parts], axis=0)
    return FilePredictions(first.ids, is_prior, first.num_left_out, first.set_aside, mean)


def fill_in(parts: Sequence[FilePredictions]) -> list[Chances]:
    """Return each model's probabilities (N, 3) of the same rows; who could not read a row says what others say.

    Its class shares would only draw away from what was read. Where nobody could read a row they stay.
    """
    num_readers = np.sum([~part.is_prior for part in parts], axis=0)
    if np.isin(num_readers, (0, len(parts))).all():
        return [part.chances for part in parts]
    some = (num_readers > 0) & (num_readers < len(parts))
    read = sum(np.where(part.is_prior[some, None], 0.0, part.chances[some]) for part in parts)
    filled = [part.chances.copy() for part in parts]
    for part, chances in zip(parts, filled, strict=True):
        chances[some & part.is_prior] = (read / num_readers[some, None])[part.is_prior[some]]
    return filled


def check_same_ids(parts: Sequence[FileRows], roots: Sequence[Path]) -> None:
    """Raise DataError unless all `roots` read the same rows of the file, in one order."""
    first = parts[0]
    for part, root in zip(parts, roots, strict=True):
        if not part.ids.equals(first.ids):
            own, other = hash_ids(part.ids), hash_ids(first.ids)
            alone = [ids.take(np.flatnonzero(~np.isin(hashes, others))[:1]).to_pylist()
                     for ids, hashes, others in ((part.ids, own, other), (first.ids, other, own))]  # fmt: skip
            num_differ = len(np.setxor1d(own, other))
            raise DataError(
                f"{root} reads other rows of the file than {roots[0]}: {len(part):,} and {len(first):,} ids, "
                f"{num_differ:,} in one of them alone (first: {min([*alone[0], *alone[1]], default='')}). Their "
                "data.format differ; name one by --format."
            )

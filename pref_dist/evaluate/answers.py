"""What a model says of rows: logits in one order of A and B, or in both."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pref_dist.metrics import mean_of_orders

Logits = NDArray[np.float32 | np.float64]

ROWS_A_PIECE = 2**16  # so many rows are worked on at once, where there may be ten million


def pieces(num_rows: int) -> Iterator[slice]:
    """Yield where rows are cut into pieces that take little memory."""
    return (slice(start, min(start + ROWS_A_PIECE, num_rows)) for start in range(0, num_rows, ROWS_A_PIECE))


@dataclass(frozen=True)
class Answers:
    """Logits (n, 3) of n rows, A, B, tie of the row as it stands in its file.

    first: as the model gave them. second: those of the row shown with A and B exchanged, put back into the row's A and
    B; NaN where that was not run; None where it was not asked for. first_seconds, second_seconds: what each took in
    this process, 0 for what an earlier one had done; where both orders are one pass it stands in first_seconds.
    num_batches: how many were run for them in this process and those of the other ranks.
    """

    first: Logits
    second: Logits | None = None
    first_seconds: float = 0.0
    second_seconds: float = 0.0
    num_batches: int = 0

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def logits(self) -> Logits:
        """What counts: with a second order, the log of the mean of both probabilities; without, `first` itself."""
        if self.second is None:
            return self.first
        return mean_of_orders(self.first.astype(np.float64), self.second.astype(np.float64))

    def __getitem__(self, piece: slice) -> "Answers":
        """Return what was said of a run of the rows."""
        return Answers(self.first[piece], None if self.second is None else self.second[piece])

    @property
    def has_both(self) -> NDArray[np.bool_]:
        """(n,) whether the row was run in both orders."""
        if self.second is None:
            return np.zeros(len(self), np.bool_)
        return np.asarray(~np.isnan(self.second).all(axis=1))

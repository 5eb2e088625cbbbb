"""Rows in the order of a score, equal scores together, so that no figure depends on the order of the rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """order: (N,) places of the rows, lowest score first. starts: (V,) where in it each distinct score begins."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    def sum_ties(self, values: Array) -> Array:
        """Return (V,) the sums of `values` (N,) over the rows of each distinct score, lowest first."""
        ranked = values[self.order]
        return ranked if len(self.starts) == len(ranked) else np.asarray(np.add.reduceat(ranked, self.starts))


def rank_rows(scores: Array) -> Ranking:
    """Rank at least one row by its score (N,)."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return Ranking(order, np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])))


def number_bins(sizes: Array, num_bins: int) -> NDArray[np.intp]:
    """Return the bin (V,), 0 to num_bins - 1, of each distinct score, with `sizes` (V,) rows of it, lowest first.

    Bins hold equally many rows, as far as rows of equal score allow: they stay together, in the bin in which the
    middle one of them stands. A bin may stay empty.
    """
    middles = np.cumsum(sizes) - sizes / 2
    return np.asarray(np.minimum((num_bins * middles / sizes.sum()).astype(np.intp), num_bins - 1))

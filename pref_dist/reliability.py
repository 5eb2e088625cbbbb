"""Whether probabilities are as often right as they say: calibration error and reliability, in bins of equal counts.

Bins adapt to the data (Nguyen and O'Connor 2015): where all predictions lie near 1/3, bins of equal width would be
nearly all empty.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import INTERVAL, Interval
from pref_dist.ranking import number_bins, rank_rows
from pref_dist.wilson import wilson_interval

Array = NDArray[np.float64]
Bins = NDArray[np.intp]

ERROR_BINS = 15  # as many as in Guo et al. 2017
CURVE_BINS = 10  # few enough that each holds a share that one can tell
CLEAR_GAP = 2.0  # standard errors


def bin_rows(scores: Array, num_bins: int) -> Bins:
    """Return the bin (N,) of each row's score (N,), 0 to num_bins - 1, rising with it (`ranking.number_bins`)."""
    ranking = rank_rows(scores)
    sizes = np.diff(ranking.starts, append=len(scores)).astype(np.float64)
    bins = np.empty(len(scores), dtype=np.intp)
    bins[ranking.order] = np.repeat(number_bins(sizes, num_bins), sizes.astype(np.intp))
    return bins


def calibration_error(bin_gaps: Array) -> float:
    """Return the expected calibration error (Guo et al. 2017): the sum over bins of |share right - confidence|.

    bin_gaps: (B,) of each bin the sum, over its rows, of whether the predicted class is right (or the target's part
    of it) minus its probability, divided by the number of all rows.
    """
    return float(np.abs(bin_gaps).sum())


def calibration_error_interval(bin_gaps: Array, drawn: Array) -> Interval:
    """Return the 95 % interval of the calibration error from its bins' gaps (B,) and drawn ones (resamples, B).

    An absolute value turns noise into error: what is drawn again is too large by about as much as the estimate is,
    and the percentiles would never hold the 0 of a calibrated model. So a bin whose gap is clearly not 0 changes the
    error by the change of its gap, with its sign, and any other by the size of that change (Fang and Santos 2019).
    A drawn error that is larger for noise is reflected at the estimate, which is always inside.
    """
    changes = drawn - bin_gaps
    is_clear = np.abs(bin_gaps) > CLEAR_GAP * changes.std(axis=0)
    by_bin = np.where(is_clear, np.sign(bin_gaps) * changes, np.abs(changes))
    error, drawn_errors = calibration_error(bin_gaps), np.abs(drawn).sum(axis=1)
    low = error - np.percentile(by_bin.sum(axis=1), INTERVAL[1])
    high = 2 * error - np.percentile(drawn_errors, INTERVAL[0])
    return max(0.0, min(error, float(low))), max(error, float(high))


def describe_reliability(chances: Array, shares: Array, num_bins: int = CURVE_BINS) -> list[dict[str, Any]]:
    """Return, by rising chance, {mean_probability, share, num_rows, low, high} of each bin of rows; none is empty.

    chances: (N,) of one class. shares: (N,) the targets' part of it, 0 or 1 where somebody decided. low, high: the
    Wilson 95 % interval of the share, as if rows were independent; rows of one prompt make it a little too narrow.
    """
    bins = bin_rows(chances, num_bins)
    columns = [np.bincount(bins), np.bincount(bins, weights=chances), np.bincount(bins, weights=shares)]
    return [describe_bin(*totals) for totals in zip(*(column.tolist() for column in columns), strict=True) if totals[0]]


def describe_bin(num_rows: int, chance: float, share: float) -> dict[str, Any]:
    low, high = wilson_interval(min(share, num_rows), num_rows)  # sums of probabilities may miss by a rounding
    return {
        "mean_probability": chance / num_rows,
        "share": share / num_rows,
        "num_rows": num_rows,
        "low": low,
        "high": high,
    }

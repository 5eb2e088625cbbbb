"""What a classifier does class by class: confusion, precision, recall, F1 and AUC, with weights of rows.

A figure that is not defined, since no row speaks about it, is NaN; means leave it out. All agree with scikit-learn.
"""

import numpy as np
from numpy.typing import NDArray

from pref_dist.labels import NUM_CLASSES
from pref_dist.ranking import Ranking

Array = NDArray[np.float64]
Labels = NDArray[np.intp]


def count_confusion(real: Labels, predicted: Labels, weights: Array | None = None) -> Array:
    """Return the weights of rows (3, 3) by real (first axis) and predicted class (N,); without `weights` counts."""
    counts = np.bincount(NUM_CLASSES * real + predicted, weights=weights, minlength=NUM_CLASSES**2)
    return counts.astype(np.float64).reshape(NUM_CLASSES, NUM_CLASSES)


def class_precision(confusion: Array) -> Array:
    """Return (..., 3) the share of rows that are of a class among those predicted to be; NaN where there are none.

    This and what follows take one confusion (3, 3) or many (..., 3, 3).
    """
    return divide(hits(confusion), confusion.sum(axis=-2))


def class_recall(confusion: Array) -> Array:
    """Return (..., 3) the share of rows predicted to be of a class among those that are; NaN where there are none."""
    return divide(hits(confusion), confusion.sum(axis=-1))


def class_f1(confusion: Array) -> Array:
    """Return (..., 3) the harmonic mean of precision and recall; NaN for a class neither real nor predicted."""
    return divide(2 * hits(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1))


def hits(confusion: Array) -> Array:
    """Return (..., 3) the rows of each class that are predicted to be of it."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def area_under_curve(ranking: Ranking, is_positive: NDArray[np.bool_], weights: Array) -> float:
    """Return the chance that a positive row has the higher score than a negative one, equal scores counting half.

    That is the area under the ROC curve (Hanley and McNeil 1982). NaN without rows of both kinds.
    """
    positive = ranking.sum_ties(weights * is_positive)
    negative = ranking.sum_ties(weights * ~is_positive)
    num_pairs = positive.sum() * negative.sum()
    if num_pairs == 0:
        return float("nan")
    return float(positive @ (np.cumsum(negative) - negative / 2) / num_pairs)


def mean_of_known(values: Array) -> Array:
    """Return the mean (...) over the last axis of values (..., K) without NaN; NaN where there is nothing else."""
    is_known = ~np.isnan(values)
    return divide(np.where(is_known, values, 0.0).sum(axis=-1), is_known.sum(axis=-1))


def divide(parts: Array, totals: Array) -> Array:
    return np.asarray(np.divide(parts, totals, out=np.full(np.shape(totals), np.nan), where=np.asarray(totals) > 0))

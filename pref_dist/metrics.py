"""Log loss and accuracy from logits, and what two orders of A and B say together; in float64 on the host."""

import math

import numpy as np
from numpy.typing import NDArray

from pref_dist.errors import DataError
from pref_dist.labels import NUM_CLASSES

Array = NDArray[np.float64]


def log_probabilities(logits: Array) -> Array:
    """Return log softmax of logits (N, C), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def probabilities(logits: Array) -> Array:
    """Return softmax of logits (N, C), in float64; every row sums to 1."""
    return np.exp(log_probabilities(logits))


def row_log_losses(logits: Array, target: Array) -> Array:
    """Return -sum_c target * log p (N,), in nats; target (N, C) are class probabilities."""
    return np.asarray(-(target * log_probabilities(logits)).sum(axis=1))


def row_brier_scores(logits: Array, target: Array) -> Array:
    """Return sum_c (p - target)^2 (N,), 0 to 2 (Brier 1950); target (N, C) are class probabilities.

    The mean over rows is the sum over classes of scikit-learn's binary `brier_score_loss` of each class against the
    rest. For two classes, that is twice the binary one.
    """
    return np.asarray(((probabilities(logits) - target) ** 2).sum(axis=1))


def score_logits(logits: Array, target: Array) -> dict[str, float | int]:
    """Return log_loss (nats), accuracy (of the most likely class) and num_rows."""
    return {
        "log_loss": float(row_log_losses(logits, target).mean()),
        "accuracy": float((logits.argmax(axis=1) == target.argmax(axis=1)).mean()),
        "num_rows": len(logits),
    }


def score_probabilities(chances: Array, target: Array) -> dict[str, float | int]:
    """The same for probabilities (N, C), which are kept at least 1e-15 away from 0."""
    return score_logits(np.log(np.clip(chances, 1e-15, 1.0)), target)


def check_scored(predicted: Array, target: Array, groups: NDArray[np.uint64] | None = None) -> None:
    """Raise DataError unless there are rows, all with finite logits or probabilities (N, 3) and targets (N, 3).

    groups: the prompts of the rows (N,), where they are needed.
    """
    if not len(predicted):
        raise DataError("There are no rows to score. Give a data set, or a slice of one, with a labelled row at least.")
    check_shape("predictions", predicted.shape, (len(predicted), NUM_CLASSES))
    check_shape("targets", target.shape, (len(predicted), NUM_CLASSES))
    if groups is not None:
        check_shape("prompts", groups.shape, (len(predicted),))
    for name, values in (("predictions", predicted), ("targets", target)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad):,} of {len(values):,} rows have {name} that are no finite numbers (first: row {bad[0]}, "
                f"{values[bad[0]].tolist()}). Score rows that were all labelled and run."
            )


def check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise DataError(f"The {name} of {wanted[0]:,} rows have the shape {shape}, which should be {wanted}.")


def uncertainty(logits: Array) -> Array:
    """Return the entropy (N,) of the probabilities of logits (N, C), in nats: 0 is sure, ln C knows nothing."""
    logs = log_probabilities(logits)
    chances = np.exp(logs)
    # What is impossible adds nothing, also where its log is -inf.
    entropies = -(chances * np.where(chances > 0, logs, 0.0)).sum(axis=1)
    return np.asarray(np.maximum(0.0, entropies))


def mean_of_orders(first: Array, second: Array) -> Array:
    """Return logits (N, C), float64, whose softmax is the mean of both orders' probabilities.

    `second` is already put back to the row's A and B. A row of NaN there was not run in the second order: it keeps
    its first logits, bit by bit. Elsewhere the logits are logs of probabilities. Raises DataError where shapes
    differ or only some of a row's logits are NaN.
    """
    is_run = rows_with_both(first, second)
    mean = np.array(first, dtype=np.float64)
    both = log_probabilities(first[is_run]), log_probabilities(second[is_run])
    mean[is_run] = np.logaddexp(*both) - math.log(2)
    return mean


def rows_with_both(first: Array, second: Array) -> NDArray[np.bool_]:
    """Return which rows (N,) were run in the second order, too. Raises DataError as `mean_of_orders` does."""
    if first.shape != second.shape:
        raise DataError(f"Logits of the two orders have the shapes {first.shape} and {second.shape}; give equal ones.")
    is_missing = np.isnan(second)
    torn = np.flatnonzero(is_missing.any(axis=1) & ~is_missing.all(axis=1))
    if len(torn):
        raise DataError(
            f"{len(torn):,} of {len(second):,} rows have some logits of the second order, but not all (first: row "
            f"{torn[0]}, {second[torn[0]].tolist()}). A row has all of them or, where it was not run, only NaN."
        )
    return np.asarray(~is_missing.all(axis=1))

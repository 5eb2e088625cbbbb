"""Whether it matters to a model which response stands first, and what it is worth to read both orders."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import bootstrap_mean
from pref_dist.errors import DataError
from pref_dist.metrics import (
    check_scored,
    mean_of_orders,
    probabilities,
    row_log_losses,
    rows_with_both,
    uncertainty,
)

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]

CURVE_SHARES = tuple(tenth / 10 for tenth in range(11))


def compare_orders(first: Array, second: Array, targets: Array, groups: Groups, seed: int = 0) -> dict[str, Any]:
    """Return how the two orders of N rows compare, over the rows that were run in both.

    first, second: logits (N, 3), float64, `second` already put back to the row's A and B, NaN where it was not run.
    num_rows_both, share: how many rows, and of all. log_loss_ab, log_loss_ba, log_loss_mean: of the first order, of
    the second, and of the mean of both probabilities, in nats. gain: ab minus mean, and its 95 % interval by drawing
    prompts again (None with one prompt). consistency: share of rows with the same most likely class in both.
    mean_difference: mean over rows and classes of |p - p of the other order|. curve: only where all rows have both,
    see `trace_shares`. Raises DataError for no row that has both, other shapes, or first logits that are not finite.
    """
    check_scored(first, targets, groups)
    is_both = rows_with_both(first, second)
    if not is_both.any():
        raise DataError(f"None of {len(first):,} rows was run in the second order. Raise evaluate.swap_share.")
    pair, labels = (first[is_both], second[is_both]), targets[is_both]
    check_scored(pair[1], labels, groups[is_both])
    ab, ba, both = (row_log_losses(logits, labels) for logits in (*pair, mean_of_orders(*pair)))
    interval = bootstrap_mean(ab - both, groups[is_both], seed)
    compared = {
        "num_rows_both": int(is_both.sum()),
        "share": float(is_both.mean()),
        "log_loss_ab": float(ab.mean()),
        "log_loss_ba": float(ba.mean()),
        "log_loss_mean": float(both.mean()),
        "gain": float(ab.mean() - both.mean()),
        "gain_interval": None if interval is None else list(interval),
        "consistency": float((pair[0].argmax(axis=1) == pair[1].argmax(axis=1)).mean()),
        "mean_difference": float(np.abs(probabilities(pair[0]) - probabilities(pair[1])).mean()),
    }
    return compared | ({"curve": trace_shares(first, ab, both)} if is_both.all() else {})


def trace_shares(first: Array, first_losses: Array, mean_losses: Array) -> list[dict[str, float]]:
    """Return {share, log_loss} if only that share of the rows, the most uncertain ones, were run in both orders.

    first: logits (N, 3) of the first order, which say how uncertain a row is. first_losses, mean_losses: (N,) of the
    rows by the first order alone and by the mean of both. Of equally uncertain rows the earlier one comes first.
    """
    order = np.argsort(-uncertainty(first), kind="stable")
    saved = np.append(0.0, np.cumsum((first_losses - mean_losses)[order]))
    losses = (first_losses.sum() - saved) / len(first)
    return [{"share": share, "log_loss": float(losses[round(share * len(first))])} for share in CURVE_SHARES]

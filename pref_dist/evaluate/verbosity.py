"""Whether a model likes long answers more than people do: how often A wins, by how much longer it is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.evaluate.slices import RowFacts, check_facts
from pref_dist.metrics import check_scored

Array = NDArray[np.float64]

# Characters by which the longer answer is longer. Alike on both sides, so that exchanging A and B mirrors the curve.
BOUNDS = (50, 200, 500, 1_000, 2_000)


def measure_verbosity(facts: RowFacts, chances: Array, targets: Array) -> list[dict[str, Any]]:
    """Return {low, high, num_rows, predicted, real} for each range of length differences that has rows, rising.

    low, high: characters of A minus characters of B, both inclusive, None where the range is open. predicted, real:
    win rate of A, P(A) + P(tie) / 2, by `chances` (N, 3) and by `targets` (N, 3), mean over the rows.
    Raises DataError for no rows, other shapes, or values that are not finite.
    """
    check_facts(facts, len(chances))
    check_scored(chances, targets)
    predicted, real = win_rates(chances), win_rates(targets)
    described = []
    for low, high in list_ranges():
        chosen = (facts.differences >= low) & (facts.differences <= high)
        if chosen.any():
            described.append(
                {
                    "low": None if np.isinf(low) else int(low),
                    "high": None if np.isinf(high) else int(high),
                    "num_rows": int(chosen.sum()),
                    "predicted": float(predicted[chosen].mean()),
                    "real": float(real[chosen].mean()),
                }
            )
    return described


def win_rates(chances: Array) -> Array:
    """Return (N,) the win rate of A: a tie is half a win."""
    return np.asarray(chances[:, 0] + chances[:, 2] / 2)


def list_ranges() -> list[tuple[float, float]]:
    """Return the ranges, both ends inclusive, from B much longer to A much longer; none of them overlap."""
    ends = [bound - 1.0 for bound in BOUNDS[1:]] + [np.inf]
    longer = list(zip(map(float, BOUNDS), ends, strict=True))
    return [*((-high, -low) for low, high in reversed(longer)), (1.0 - BOUNDS[0], BOUNDS[0] - 1.0), *longer]

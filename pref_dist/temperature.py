"""The temperature that makes probabilities as sure as they are right: p^(1/T), normalised (Guo et al. 2017)."""

import numpy as np
from numpy.typing import NDArray

from pref_dist.metrics import log_probabilities

Array = NDArray[np.float64]

TEMPERATURES = (0.05, 20.0)


def fit_temperature(logits: Array, targets: Array) -> tuple[float, float]:
    """Return the temperature of the least log loss of logits (N, C) with targets (N, C), then that loss in nats.

    The loss is convex in 1 / T, so that the search cannot end elsewhere. Where no temperature is better than 1,
    as with logits that are all equal, it is 1.
    """
    from scipy.optimize import minimize_scalar

    def loss(sharpness: float) -> float:
        return float(-(targets * log_probabilities(sharpness * logits)).sum() / len(targets))

    bounds = (1 / TEMPERATURES[1], 1 / TEMPERATURES[0])
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    untouched = loss(1.0)
    return (1.0, untouched) if untouched <= result.fun else (1.0 / float(result.x), float(result.fun))

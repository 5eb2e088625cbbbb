"""The pool itself: a weighted mean of probabilities, sharpened or softened by one temperature, and its fit.

q = p^(1/T) / sum_c p_c^(1/T) with p = sum_m w_m p_m, the weights on the simplex (linear opinion pool, Stone 1961;
temperature, Guo et al. 2017). A mean of probabilities is flatter than its members where they err apart from each
other, which T below 1 makes up for (Ranjan and Gneiting 2010).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pref_dist.cross_fit import iterate_parts
from pref_dist.metrics import log_probabilities, row_log_losses
from pref_dist.temperature import TEMPERATURES, fit_temperature

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]

SMALLEST_PROBABILITY = 1e-15
SMALLEST_WEIGHT = 1e-6  # what is below was left over by the search


@dataclass(frozen=True)
class Pool:
    """weights: (M,) of the members, none negative, sum 1."""

    weights: Array
    temperature: float

    def mix(self, chances: Array) -> Array:
        """Return the weighted mean (N, C) of probabilities (M, N, C), before the temperature."""
        return np.asarray(np.tensordot(self.weights, chances, axes=1))

    def log_chances(self, chances: Array) -> Array:
        """Return the logs (N, C) of the blended probabilities."""
        return log_probabilities(np.log(np.maximum(self.mix(chances), SMALLEST_PROBABILITY)) / self.temperature)


def equal_pool(num_members: int) -> Pool:
    return Pool(np.full(num_members, 1.0 / num_members), 1.0)


def fit_pool(chances: Array, targets: Array, has_temperature: bool = True) -> Pool:
    """Return the weights and the temperature of the least log loss on rows (M, N, C) with targets (N, C).

    has_temperature: else it is 1, and the weights alone are fitted. The loss is not convex in both together, so the
    search starts from equal weights and near each member alone, and what is returned is no worse than any member or
    their mean. The same rows give the same bits.
    """
    num_members = len(chances)
    corners, middle = np.eye(num_members), np.full(num_members, 1.0 / num_members)
    found = [middle, *corners]
    if num_members > 1:
        starts = (middle, *(0.8 * corners + 0.2 * middle))
        found += [search(chances, targets, start, has_temperature) for start in starts]
    fitted = [fit_sharpness(weights, chances, targets, has_temperature) for weights in found]
    return min(fitted, key=lambda pair: pair[0])[1]


def search(chances: Array, targets: Array, start: Array, has_temperature: bool) -> Array:
    """Return the weights (M,) where sequential quadratic programming ends from `start` and temperature 1."""
    from scipy.optimize import minimize

    num_members = len(chances)
    sharpness = (1 / TEMPERATURES[1], 1 / TEMPERATURES[0]) if has_temperature else (1.0, 1.0)
    result = minimize(
        lambda values: loss_and_gradient(values, chances, targets),
        np.append(start, 1.0),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * num_members + [sharpness],
        constraints={
            "type": "eq",
            "fun": lambda values: values[:-1].sum() - 1.0,
            "jac": lambda values: np.append(np.ones(num_members), 0.0),
        },
        options={"ftol": 1e-14, "maxiter": 200},
    )
    weights = np.where(result.x[:-1] < SMALLEST_WEIGHT, 0.0, result.x[:-1])
    return np.asarray(weights / weights.sum())


def loss_and_gradient(values: Array, chances: Array, targets: Array) -> tuple[float, Array]:
    """Return the mean log loss and its derivatives by `values` (M + 1,): the weights, then 1 / T."""
    weights, sharpness = values[:-1], values[-1]
    mixed = np.maximum(np.tensordot(weights, chances, axes=1), SMALLEST_PROBABILITY)
    logs = np.log(mixed)
    log_blended = log_probabilities(sharpness * logs)
    by_logits = (np.exp(log_blended) - targets) / len(targets)
    by_mixed = sharpness * by_logits / mixed
    gradient = np.append(np.tensordot(chances, by_mixed, axes=2), (by_logits * logs).sum())
    return float(-(targets * log_blended).sum() / len(targets)), gradient


def fit_sharpness(weights: Array, chances: Array, targets: Array, has_temperature: bool) -> tuple[float, Pool]:
    """Return the least loss with these weights and its pool."""
    if not has_temperature:
        pool = Pool(weights, 1.0)
        return float(row_log_losses(pool.log_chances(chances), targets).mean()), pool
    mixed = np.maximum(np.tensordot(weights, chances, axes=1), SMALLEST_PROBABILITY)
    temperature, loss = fit_temperature(np.log(mixed), targets)
    return loss, Pool(weights, temperature)


def cross_fit(chances: Array, targets: Array, groups: Groups, has_temperature: bool = True) -> Array:
    """Return logs of blended probabilities (N, C), each row's by a pool that was fitted on other parts of prompts.

    With a single part there is nothing else to fit on: then the mean of the members.
    """
    blended = equal_pool(len(chances)).log_chances(chances)
    for is_here in iterate_parts(groups):
        pool = fit_pool(chances[:, ~is_here], targets[~is_here], has_temperature)
        blended[is_here] = pool.log_chances(chances[:, is_here])
    return blended

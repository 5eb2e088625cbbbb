"""Whether a model is as sure as it is right, and the temperature that makes it so."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import bootstrap_mean
from pref_dist.cross_fit import iterate_parts
from pref_dist.errors import DataError
from pref_dist.labels import CLASSES
from pref_dist.metrics import check_scored, probabilities, row_log_losses
from pref_dist.reliability import describe_reliability
from pref_dist.temperature import fit_temperature

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]


def calibrate(logits: Array, targets: Array, groups: Groups, seed: int = 0) -> dict[str, Any]:
    """Return the temperature of logits (N, 3) that the model has not learnt from, and what it is worth.

    temperature: of the least log loss on all rows. log_loss_before, log_loss_after, gain (before minus after), in
    nats: each row by a temperature that was fitted on other prompts. interval: 95 % of the gain, by drawing prompts
    again; None with one prompt. applies: whether the gain is surely above 0. reliability: of each class, before, see
    `describe_reliability`. Raises DataError for no rows, other shapes, or values that are not finite.
    """
    check_scored(logits, targets, groups)
    before = row_log_losses(logits, targets)
    after = row_log_losses(cross_fit_temperature(logits, targets, groups), targets)
    interval = bootstrap_mean(before - after, groups, seed)
    chances = probabilities(logits)
    return {
        "temperature": fit_temperature(logits, targets)[0],
        "log_loss_before": float(before.mean()),
        "log_loss_after": float(after.mean()),
        "gain": float(before.mean() - after.mean()),
        "interval": None if interval is None else list(interval),
        "applies": interval is not None and interval[0] > 0,
        "reliability": {
            name: describe_reliability(chances[:, place], targets[:, place]) for place, name in enumerate(CLASSES)
        },
    }


def cross_fit_temperature(logits: Array, targets: Array, groups: Groups) -> Array:
    """Return logits (N, 3), each row's by the temperature of other prompts; untouched where there are no others."""
    cooled = np.array(logits, dtype=np.float64)
    for is_here in iterate_parts(groups):
        temperature, _ = fit_temperature(logits[~is_here], targets[~is_here])
        cooled[is_here] = apply_temperature(logits[is_here], temperature)
    return cooled


def apply_temperature(logits: Array, temperature: float) -> Array:
    """Return logits / temperature, float64. Raises DataError if it is not a number above 0."""
    if not 0 < temperature < np.inf:
        raise DataError(f"A temperature of {temperature} sharpens nothing; it must be a number above 0. Fit it again.")
    return np.asarray(logits, dtype=np.float64) / temperature

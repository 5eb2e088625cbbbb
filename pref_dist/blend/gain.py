"""What a blend is worth: log losses of members and blends on the same rows, and how sure the gain is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.blend.pool import SMALLEST_PROBABILITY, Pool, cross_fit, equal_pool, fit_pool
from pref_dist.metrics import row_log_losses, score_logits

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]

NUM_RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
DRAWS_AT_ONCE = 2**22  # 32 MB of them


@dataclass(frozen=True)
class Judgement:
    """A fitted pool and what it is worth, each score as {log_loss, accuracy, num_rows}.

    fitted: on the rows that the weights were fitted on; cross_fitted: on others. best: number of the best member.
    gain: its log loss minus the cross-fitted blend's, in nats, with the 95 % interval.
    """

    pool: Pool
    members: list[dict[str, Any]]
    equal: dict[str, Any]
    fitted: dict[str, Any]
    cross_fitted: dict[str, Any]
    best: int
    gain: float
    interval: tuple[float, float]


def judge_blend(chances: Array, targets: Array, groups: Groups, seed: int = 0) -> Judgement:
    """Fit a pool on probabilities (M, N, 3) and score it beside its members."""
    pool, crossed = fit_pool(chances, targets), cross_fit(chances, targets, groups)
    logs = np.log(np.maximum(chances, SMALLEST_PROBABILITY))
    members = [score_logits(member, targets) for member in logs]
    best = int(np.argmin([scores["log_loss"] for scores in members]))
    gains = row_log_losses(logs[best], targets) - row_log_losses(crossed, targets)
    return Judgement(
        pool=pool,
        members=members,
        equal=score_logits(equal_pool(len(chances)).log_chances(chances), targets),
        fitted=score_logits(pool.log_chances(chances), targets),
        cross_fitted=score_logits(crossed, targets),
        best=best,
        gain=float(gains.mean()),
        interval=bootstrap_mean(gains, groups, seed),
    )


def bootstrap_mean(values: Array, groups: Groups, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `values` (N,), resampling whole groups (N,).

    Rows of one prompt are not independent, so prompts are the unit (cluster bootstrap, Davison and Hinkley
    1997, section 3.8). The same seed gives the same interval.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(numbers, weights=values), np.bincount(numbers).astype(np.float64)
    generator, means = np.random.default_rng(seed), np.empty(NUM_RESAMPLES)
    at_once = max(1, DRAWS_AT_ONCE // len(sums))
    for start in range(0, NUM_RESAMPLES, at_once):
        size = min(at_once, NUM_RESAMPLES - start)
        draws = generator.integers(len(sums), size=(size, len(sums)))
        means[start : start + size] = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)

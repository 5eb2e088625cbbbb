"""What a blend is worth: log losses of members and blends on the same rows, and how sure the gain is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.blend.pool import SMALLEST_PROBABILITY, Pool, cross_fit, equal_pool, fit_pool
from pref_dist.bootstrap import bootstrap_mean
from pref_dist.metrics import row_log_losses, score_logits

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]


@dataclass(frozen=True)
class Judgement:
    """A fitted pool and what it is worth, each score as {log_loss, accuracy, num_rows}.

    fitted: on the rows that the weights were fitted on; cross_fitted: on others. best: number of the best member.
    gain: its log loss minus the cross-fitted blend's, in nats, with the 95 % interval;
    None where all rows are of one prompt. temperature_gain: what the temperature is worth on rows that it was not
    fitted on, in nats; where that is not above 0, the pool has none (1), and cross_fitted is without one, too.
    """

    pool: Pool
    members: list[dict[str, Any]]
    equal: dict[str, Any]
    fitted: dict[str, Any]
    cross_fitted: dict[str, Any]
    best: int
    gain: float
    interval: tuple[float, float] | None
    temperature_gain: float


def judge_blend(chances: Array, targets: Array, groups: Groups, seed: int = 0) -> Judgement:
    """Fit a pool on probabilities (M, N, 3), with a temperature if it pays, and score it beside its members."""
    crossed, plain = (cross_fit(chances, targets, groups, has_temperature) for has_temperature in (True, False))
    temperature_gain = float((row_log_losses(plain, targets) - row_log_losses(crossed, targets)).mean())
    pays = temperature_gain > 0
    crossed, pool = crossed if pays else plain, fit_pool(chances, targets, pays)
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
        temperature_gain=temperature_gain,
    )

"""The baseline gate: has the model learnt more than the class prior, lengths or single words tell?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import Interval, bootstrap_mean
from pref_dist.metrics import check_scored, probabilities, row_log_losses, score_logits

Array = NDArray[np.float64]
Groups = NDArray[np.uint64]

PRIOR = "class_prior"
SMALLEST_PROBABILITY = 1e-15  # as `score_probabilities`
# A model sits at the prior if its probabilities differ by less between rows (standard deviation, mean of the classes)
PRIOR_SPREAD = 0.02
# and if it gains less than this on the prior, in nats, or not surely anything.
PRIOR_GAIN = 0.002


def judge_gate(
    chances: Mapping[str, Array], logits: Array, targets: Array, groups: Groups, seed: int = 0
) -> dict[str, Any]:
    """Return {"baselines": ..., "gate": ...} of metrics.json for a model's logits (N, 3) and the baselines' chances.

    `chances`: {baseline: probabilities (N, 3)}, `class_prior` among them; `targets` (N, 3) may be soft; `groups` (N,)
    are the hashes of the prompts. baselines: {name: {log_loss, accuracy, num_rows, interval}}, in nats, 95 %.
    gate: passed if the model's log loss is below every baseline's; nearest: the baseline with the lowest; gain: its
    log loss minus the model's, with the interval of that paired difference; is_prior: see `sits_at_prior`; sentence:
    all that for people. Intervals draw whole prompts, and are null with one. Raises DataError as `describe_scores`.
    """
    check_scored(logits, targets, groups)
    logs = {name: np.log(np.clip(found, SMALLEST_PROBABILITY, 1.0)) for name, found in chances.items()}
    losses = {name: row_log_losses(found, targets) for name, found in logs.items()}
    own = row_log_losses(logits, targets)
    baselines: dict[str, dict[str, Any]] = {
        name: {**score_logits(logs[name], targets), "interval": as_list(bootstrap_mean(losses[name], groups, seed))}
        for name in chances
    }
    nearest = min(losses, key=lambda name: float(losses[name].mean()))
    gate = {
        "passed": all(own.mean() < other.mean() for other in losses.values()),
        "nearest": nearest,
        "gain": float((losses[nearest] - own).mean()),
        "interval": as_list(bootstrap_mean(losses[nearest] - own, groups, seed)),
        "is_prior": sits_at_prior(logits, losses[PRIOR] - own, groups, seed),
    }
    sentence = describe_gate(gate, float(own.mean()), {name: found["log_loss"] for name, found in baselines.items()})
    return {"baselines": baselines, "gate": gate | {"sentence": sentence}}


def sits_at_prior(logits: Array, gains: Array, groups: Groups, seed: int = 0) -> bool:
    """Return whether a model says nearly the same of every row, and has no more from that than the class prior has.

    `gains` (N,): by how much the prior's loss of each row is above the model's. A model that was never trained sits
    there, though its log loss may be worse than the prior's; so does one that has only learnt the shares of classes.
    """
    spread = float(probabilities(logits).std(axis=0).mean())
    interval = bootstrap_mean(gains, groups, seed)
    is_gain_sure = interval is not None and interval[0] > 0
    return spread < PRIOR_SPREAD and (float(gains.mean()) < PRIOR_GAIN or not is_gain_sure)


def describe_gate(gate: Mapping[str, Any], log_loss: float, baselines: Mapping[str, float]) -> str:
    """Say in a sentence how the model's log loss stands to those of the baselines, and how sure that is.

    Three grades: it beats them, it beats them within the noise, it does not. `gate` as in metrics.json.
    """
    gain, interval = gate["gain"], gate["interval"]
    unbeaten = sorted((other, name) for name, other in baselines.items() if other <= log_loss)
    named = " and ".join(f"{name.replace('_', ' ')} ({other:.4f})" for other, name in unbeaten)
    nearest = f"{gate['nearest'].replace('_', ' ')} ({baselines[gate['nearest']]:.4f})"
    if gate["is_prior"]:
        prior = f"the class prior ({baselines[PRIOR]:.4f})"
        more = f" It does not beat {named}." if unbeaten else ""
        return f"The model ({log_loss:.4f}) sits at {prior}: it says nearly the same of every row.{more}"
    if unbeaten:
        behind = describe_difference(-gain, interval and [-interval[1], -interval[0]])
        return f"The model ({log_loss:.4f}) does not beat {named}: it has learnt too little, and is {behind} behind."
    ahead = describe_difference(gain, interval)
    if interval is not None and interval[0] > 0:
        return f"The model ({log_loss:.4f}) beats every baseline; the nearest, {nearest}, is {ahead} behind."
    return f"The model ({log_loss:.4f}) beats {nearest}, the nearest baseline, by {ahead}, which may be chance."


def describe_difference(nats: float, interval: list[float] | None) -> str:
    if interval is None:
        return f"{nats:.4f} nats (one prompt: no interval)"
    return f"{nats:.4f} nats (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"


def warn_of_gate(gate: Mapping[str, Any]) -> list[str]:
    """Return what a finished training must say loudly, and what to try: nothing for a model that has passed."""
    if gate["passed"] and not gate["is_prior"]:
        return []
    remedy = "Look at the labels (pref-dist inspect), raise train.epochs or train.learning_rate, or train on more rows."
    return [f"{gate['sentence']} {remedy}"]


def as_list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)

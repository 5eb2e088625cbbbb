"""The model beside references and baselines: who is better, and how much of the way the model has gone."""

from dataclasses import dataclass
from typing import Any, Literal

Scores = dict[str, Any]
PRIOR = "class_prior"


@dataclass(frozen=True)
class ScoredModel:
    """One line of the table.

    closed: share of the log-loss distance from the class prior (0) to the best reference (1); None where
    either is missing, above 1 for a model that is better than the reference.
    """

    name: str
    kind: Literal["model", "reference", "baseline"]
    log_loss: float | None
    accuracy: float | None
    closed: float | None


def list_scores(metrics: Scores) -> list[ScoredModel]:
    """Return the model, the references and the baselines of one metrics.json, the lowest log loss first."""
    prior, goal = find_prior(metrics), find_goal(metrics)
    named: list[tuple[str, Literal["model", "reference", "baseline"], Scores]] = [
        ("this model", "model", metrics),
        *((name, "reference", scores) for name, scores in metrics.get("references", {}).items()),
        *((name.replace("_", " "), "baseline", scores) for name, scores in metrics.get("baselines", {}).items()),
    ]
    scored = [
        ScoredModel(name, kind, scores["log_loss"], scores["accuracy"], share_closed(scores["log_loss"], prior, goal))
        for name, kind, scores in named
    ]
    return sorted(scored, key=lambda model: float("inf") if model.log_loss is None else model.log_loss)


def find_prior(metrics: Scores) -> float | None:
    log_loss: float | None = metrics.get("baselines", {}).get(PRIOR, {}).get("log_loss")
    return log_loss


def find_goal(metrics: Scores) -> float | None:
    """The lowest log loss among the references, for example the Bayes-optimal one."""
    return min((scores["log_loss"] for scores in metrics.get("references", {}).values()), default=None)


def share_closed(log_loss: float | None, prior: float | None, goal: float | None) -> float | None:
    """Return (prior - log loss) / (prior - goal); None unless the goal is below the prior."""
    if log_loss is None or prior is None or goal is None or goal >= prior:
        return None
    return (prior - log_loss) / (prior - goal)


def judge(metrics: Scores) -> tuple[bool, str] | None:
    """Return whether the model beats every baseline, and that as a sentence; None without baselines."""
    baselines = {name.replace("_", " "): scores["log_loss"] for name, scores in metrics.get("baselines", {}).items()}
    log_loss = metrics.get("log_loss")
    if not baselines or log_loss is None:
        return None
    unbeaten = [f"{name} ({other:.4f})" for name, other in baselines.items() if other <= log_loss]
    if unbeaten:
        return False, f"The model ({log_loss:.4f}) does not beat {' and '.join(unbeaten)}: it has learnt too little."
    nearest = min(baselines, key=lambda name: baselines[name])
    gain = baselines[nearest] - log_loss
    return True, f"The model beats every baseline; the nearest, {nearest}, is {gain:.4f} nats behind."

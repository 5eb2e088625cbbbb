"""The model beside references and baselines: who is better, and how much of the way the model has gone."""

from dataclasses import dataclass
from typing import Any, Literal

from pref_dist.report.tracks import Interval, Track, span_scale

Scores = dict[str, Any]
Verdict = Literal["yes", "perhaps", "no"]
PRIOR = "class_prior"
HEADLINES = {  # key of metrics.json: label, what it is
    "log_loss": ("Log loss", "nats, lower is better"),
    "accuracy": ("Accuracy", "of the likeliest class"),
    "macro_f1": ("Macro F1", "mean over the classes"),
    "brier": ("Brier score", "lower is better"),
    "ece": ("Calibration error", "adaptive bins"),
    "auc": ("AUC", "one against the rest"),
}


@dataclass(frozen=True)
class Headline:
    """One metric with its 95 % interval, None where metrics.json knows none."""

    key: str
    label: str
    note: str
    value: float | None
    interval: Interval


@dataclass(frozen=True)
class ScoredModel:
    """One line of the table.

    closed: share of the log-loss distance from the class prior (0) to the best reference (1); None where
    either is missing, above 1 for a model that is better than the reference. interval, track: of the log loss.
    """

    name: str
    kind: Literal["model", "reference", "baseline"]
    log_loss: float | None
    accuracy: float | None
    closed: float | None
    interval: Interval = None
    track: Track | None = None


def list_headlines(metrics: Scores) -> list[Headline]:
    """Return the metrics that metrics.json holds; an older one holds log loss and accuracy."""
    intervals = metrics.get("intervals") or {}
    return [
        Headline(key, label, note, metrics[key], intervals.get(key))
        for key, (label, note) in HEADLINES.items()
        if key in metrics
    ]


def list_scores(metrics: Scores) -> list[ScoredModel]:
    """Return the model, the references and the baselines of one metrics.json, the lowest log loss first."""
    prior, goal = find_prior(metrics), find_goal(metrics)
    own = {**metrics, "interval": (metrics.get("intervals") or {}).get("log_loss")}
    named: list[tuple[str, Literal["model", "reference", "baseline"], Scores]] = [
        ("this model", "model", own),
        *((name, "reference", scores) for name, scores in (metrics.get("references") or {}).items()),
        *((name.replace("_", " "), "baseline", scores) for name, scores in find_baselines(metrics).items()),
    ]
    intervals = [scores.get("interval") for _, _, scores in named]
    scale = span_scale([scores["log_loss"] for _, _, scores in named], intervals)
    scored = [
        ScoredModel(
            name, kind, scores["log_loss"], scores["accuracy"], share_closed(scores["log_loss"], prior, goal),
            interval, scale.track(scores["log_loss"], interval),
        )
        for (name, kind, scores), interval in zip(named, intervals, strict=True)
    ]  # fmt: skip
    return sorted(scored, key=lambda model: float("inf") if model.log_loss is None else model.log_loss)


def find_baselines(metrics: Scores) -> dict[str, Scores]:
    return metrics.get("baselines") or {}


def find_prior(metrics: Scores) -> float | None:
    log_loss: float | None = find_baselines(metrics).get(PRIOR, {}).get("log_loss")
    return log_loss


def find_goal(metrics: Scores) -> float | None:
    """The lowest log loss among the references, for example the Bayes-optimal one."""
    return min((scores["log_loss"] for scores in (metrics.get("references") or {}).values()), default=None)


def share_closed(log_loss: float | None, prior: float | None, goal: float | None) -> float | None:
    """Return (prior - log loss) / (prior - goal); None unless the goal is below the prior."""
    if log_loss is None or prior is None or goal is None or goal >= prior:
        return None
    return (prior - log_loss) / (prior - goal)


def judge(metrics: Scores) -> tuple[Verdict, str] | None:
    """Return whether the model beats every baseline, and that as a sentence; None without baselines.

    The gate's own words, where it was asked: it knows how sure the gain is.
    """
    gate = metrics.get("gate")
    if gate:
        return grade(gate), str(gate["sentence"])
    baselines = {name.replace("_", " "): scores["log_loss"] for name, scores in find_baselines(metrics).items()}
    log_loss = metrics.get("log_loss")
    if not baselines or log_loss is None:
        return None
    unbeaten = [f"{name} ({other:.4f})" for name, other in baselines.items() if other <= log_loss]
    if unbeaten:
        return "no", f"The model ({log_loss:.4f}) does not beat {' and '.join(unbeaten)}: it has learnt too little."
    nearest = min(baselines, key=lambda name: baselines[name])
    gain = baselines[nearest] - log_loss
    return "yes", f"The model beats every baseline; the nearest, {nearest}, is {gain:.4f} nats behind."


def grade(gate: Scores) -> Verdict:
    """Sure only where the gain's interval lies above zero."""
    if not gate["passed"] or gate.get("is_prior"):
        return "no"
    interval = gate.get("interval")
    return "yes" if interval is not None and interval[0] > 0.0 else "perhaps"

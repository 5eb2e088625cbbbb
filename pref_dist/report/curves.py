"""What the lines of metrics.jsonl say about the course of a run: charts, and the table of evaluations.

The table is that of the second notebook: Step, Training Loss, Validation Loss, Accuracy, Log Loss, Runtime, Samples
Per Second, Steps Per Second. Its Validation Loss is the Trainer's mean cross-entropy of the hard labels, which is the
log loss: no smoothing is in either.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pref_dist.report.figures import Array, Chart, Curve, Scale
from pref_dist.report.run_record import Record, RunRecord, is_skipped

SMOOTHED_SHARE = 0.08  # of the run that one point of a smoothed line averages
SPIKE = 6.0  # times the median
LEAST_SMOOTHED = 5  # steps; below it there is nothing to smooth


@dataclass(frozen=True)
class EvaluationLine:
    """One evaluation. train_loss: mean over the rows of the steps since the one before, None if all were lost.

    steps_per_second: batches of the evaluation a second, None where metrics.jsonl does not count them.
    """

    step: int
    train_loss: float | None
    log_loss: float | None
    accuracy: float | None
    seconds: float | None
    rows_per_second: float | None
    steps_per_second: float | None
    is_best: bool


def read_column(records: list[Record], key: str) -> Array:
    """Return one value of each record, NaN where it is null or absent."""
    return np.array([np.nan if record.get(key) is None else record[key] for record in records], dtype=np.float64)


def rows_per_second(steps: list[Record]) -> Array:
    seconds = read_column(steps, "seconds")
    return read_column(steps, "rows") / np.where(seconds > 0, seconds, np.nan)


def smooth(values: Array, weights: Array, window: int) -> Array:
    """Return the weighted mean of the `window` values around each; NaN where none of them is finite."""
    weights = np.where(np.isfinite(values), weights, 0.0)
    sums = np.stack([weights, weights * np.nan_to_num(values)]).cumsum(axis=1)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    place = np.arange(len(values))
    before, after = np.maximum(place - window // 2, 0), np.minimum(place + window // 2 + 1, len(values))
    weight, total = sums[:, after] - sums[:, before]
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


def smoothing_window(num_steps: int) -> int:
    window = int(num_steps * SMOOTHED_SHARE)
    return window + 1 - window % 2 if window >= LEAST_SMOOTHED else 0


def trace(steps: list[Record], values: Array, of: str = "") -> list[Curve]:
    """Return the values of every step, and where there are enough of them a smoothed line in front."""
    x, window = read_column(steps, "step"), smoothing_window(len(steps))
    if window == 0:
        return [Curve(f"{of}every step", x, values, "train")]
    smoothed = smooth(values, read_column(steps, "rows"), window)
    return [
        Curve(f"{of}every step", x, values, "train", "faint"),
        Curve(f"{of}mean of {window} steps", x, smoothed, "train"),
    ]


def build_loss_chart(record: RunRecord) -> Chart:
    """Training loss and validation log loss, both in nats, on one axis."""
    losses = read_column(record.steps, "loss")
    curves = trace(record.steps, losses, of="training, ")
    if record.evaluations:
        scores = read_column(record.evaluations, "log_loss")
        curves.append(Curve("validation", read_column(record.evaluations, "step"), scores, "valid", "dots"))
    return Chart("Loss", "nats", [*curves, *mark_skips(record)], describe("Training loss", losses))


def build_small_charts(record: RunRecord) -> list[Chart]:
    """What the evaluations and the steps say: every curve of the page but the loss."""
    return [*build_evaluation_charts(record), *(build_step_charts(record) if record.steps else [])]


def build_evaluation_charts(record: RunRecord) -> list[Chart]:
    """Log loss and accuracy of the validation rows, each on an axis of its own."""
    if not record.evaluations:
        return []
    steps = read_column(record.evaluations, "step")
    losses, accuracies = (read_column(record.evaluations, key) for key in ("log_loss", "accuracy"))
    return [
        Chart("Log loss", "validation, nats", [Curve("validation", steps, losses, "valid", "dots")],
              describe_evaluations("Log loss", losses)),
        Chart("Accuracy", "validation", [Curve("validation", steps, accuracies, "valid", "dots")],
              describe_evaluations("Accuracy", accuracies)),
    ]  # fmt: skip


def build_step_charts(record: RunRecord) -> list[Chart]:
    """Learning rate, gradient norm, speed and padding."""
    steps = record.steps
    rates, norms = read_column(steps, "learning_rate"), read_column(steps, "grad_norm")
    speed, padding = rows_per_second(steps), 100.0 * read_column(steps, "padding")
    rate_curve = Curve("learning rate", read_column(steps, "step"), rates, "train")
    norm_curves = [*trace(steps, norms), *mark_clipping(record, norms), *mark_skips(record)]
    return [
        Chart("Learning rate", "", [rate_curve], describe("Learning rate", rates), "from_zero"),
        Chart("Gradient norm", "before clipping", norm_curves, describe("Gradient norm", norms), choose_scale(norms)),
        Chart("Speed", "rows a second", trace(steps, speed), describe("Speed", speed), "from_zero"),
        Chart("Padding", "% of tokens", trace(steps, padding), describe("Padding", padding), "from_zero"),
    ]


def choose_scale(norms: Array) -> Scale:
    """A logarithmic axis where spikes would flatten everything else."""
    finite = norms[np.isfinite(norms)]
    spikes = len(finite) > 0 and finite.min() > 0 and finite.max() > SPIKE * np.median(finite)
    return "log" if spikes else "from_zero"


def mark_skips(record: RunRecord) -> list[Curve]:
    skipped = read_column([step for step in record.steps if is_skipped(step)], "step")
    return [Curve("skipped", skipped, skipped, "bad", "ticks")] if len(skipped) else []


def mark_clipping(record: RunRecord, norms: Array) -> list[Curve]:
    """A level where clipping starts, unless it is so far above all norms that it would flatten them."""
    clip_norm = record.config.train.clip_norm
    finite = norms[np.isfinite(norms)]
    if clip_norm is None or not len(finite) or clip_norm > 2.0 * finite.max():
        return []
    return [Curve(f"clip_norm {clip_norm:g}", np.zeros(1), np.array([clip_norm]), "muted", "level")]


def describe(name: str, values: Array) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return f"{name}: no finite value."
    return f"{name} from {finite[0]:.4g} at the first step to {finite[-1]:.4g} at the last of {len(values):,}."


def describe_evaluations(name: str, values: Array) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return f"{name}: no finite value."
    return f"{name} from {finite[0]:.4g} at the first evaluation to {finite[-1]:.4g} at the last of {len(values):,}."


def list_evaluations(record: RunRecord) -> list[EvaluationLine]:
    lines, last_step = [], 0
    for scores in record.evaluations:
        since = [step for step in record.steps if last_step < step["step"] <= scores["step"]]
        lines.append(build_evaluation_line(scores, mean_loss(since), record.best.get("step")))
        last_step = scores["step"]
    return lines


def build_evaluation_line(scores: Record, train_loss: float | None, best_step: Any) -> EvaluationLine:
    seconds, num_batches = scores.get("seconds"), scores.get("micro_batches")
    return EvaluationLine(
        step=scores["step"],
        train_loss=train_loss,
        log_loss=scores["log_loss"],
        accuracy=scores.get("accuracy"),
        seconds=seconds,
        rows_per_second=scores.get("rows_per_second"),
        steps_per_second=num_batches / seconds if num_batches and seconds else None,
        is_best=scores["step"] == best_step,
    )


def mean_loss(steps: list[Record]) -> float | None:
    """The mean over rows, None if no step has a finite loss."""
    known = [step for step in steps if step["loss"] is not None]
    num_rows = sum(step["rows"] for step in known)
    return sum(step["loss"] * step["rows"] for step in known) / num_rows if num_rows else None

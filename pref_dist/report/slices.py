"""Parts of the rows, and classes: where the model is good and where it is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pref_dist.labels import CLASSES
from pref_dist.report.tracks import Interval, Track, span_scale

Record = dict[str, Any]
ENOUGH_ROWS = 30  # slices with fewer may not set the scale: their intervals are as wide as they are uncertain


@dataclass(frozen=True)
class SliceLine:
    name: str
    num_rows: int
    num_prompts: int | None
    log_loss: float | None
    accuracy: float | None
    interval: Interval
    track: Track | None


@dataclass(frozen=True)
class ConfusionCell:
    """Rows of one real class that were predicted as one class. share: of the rows of the real class."""

    num_rows: int
    share: float
    is_right: bool


def group_slices(metrics: Record) -> dict[str, list[SliceLine]]:
    """Return the slices by what cuts them, in the order of metrics.json; the bars' line is the log loss of all."""
    slices: Sequence[Record] = metrics.get("slices") or []
    big = [found for found in slices if found["num_rows"] >= ENOUGH_ROWS] or slices
    scale = span_scale(
        [found["log_loss"] for found in big], [found.get("interval") for found in big], metrics.get("log_loss")
    )
    groups: dict[str, list[SliceLine]] = {}
    for found in slices:
        interval = found.get("interval")
        line = SliceLine(
            str(found["slice"]), found["num_rows"], found.get("num_prompts"), found["log_loss"], found["accuracy"],
            interval, scale.track(found["log_loss"], interval),
        )  # fmt: skip
        groups.setdefault(str(found["by"]).replace("_", " "), []).append(line)
    return groups


def list_confusion(metrics: Record) -> dict[str, list[ConfusionCell]]:
    """Return the rows of the matrix by their real class, {} where it is not known."""
    counts: Sequence[Sequence[int]] = metrics.get("confusion") or []
    return {
        name: [
            ConfusionCell(count, count / sum(row) if sum(row) else 0.0, place == predicted)
            for predicted, count in enumerate(row)
        ]
        for place, (name, row) in enumerate(zip(CLASSES, counts, strict=False))
    }

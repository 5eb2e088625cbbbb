"""Learning curves of several runs in one picture: over steps, over rows, over seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pref_dist.report.curves import read_column, smooth, smoothing_window
from pref_dist.report.figures import RUN_TONES, Array, Chart, Curve, Tone
from pref_dist.report.run_record import RunRecord

SCALES = (("hours", 3600.0, 7200.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))  # name, seconds, from how many


@dataclass(frozen=True)
class RunLook:
    """How a run is told from others."""

    label: str
    tone: Tone
    is_dashed: bool


def choose_looks(labels: Sequence[str]) -> list[RunLook]:
    """Return a colour for each run; after six they come again, dashed."""
    return [
        RunLook(label, RUN_TONES[number % len(RUN_TONES)], number // len(RUN_TONES) % 2 == 1)
        for number, label in enumerate(labels)
    ]


def build_overlays(records: Sequence[RunRecord], looks: Sequence[RunLook]) -> list[Chart]:
    """Return three charts of all runs that took a step, none if no run did."""
    known = [(record, look) for record, look in zip(records, looks, strict=True) if record.steps]
    if not known:
        return []
    longest = max(float(np.nansum(read_column(record.steps, "seconds"))) for record, _ in known)
    unit, seconds, _ = next(scale for scale in SCALES if longest >= scale[2])
    return [
        build_overlay(title, unit_of, [(record, look, walk(record, key) / size) for record, look in known])
        for title, unit_of, key, size in (
            ("Over steps", "step", "step", 1.0),
            ("Over rows", "rows trained on", "rows", 1.0),
            ("Over time", f"{unit} in steps", "seconds", seconds),
        )
    ]


def walk(record: RunRecord, key: str) -> Array:
    """(steps,) how far the run was after each of its steps."""
    values = read_column(record.steps, key)
    return values if key == "step" else np.nancumsum(values)


def build_overlay(title: str, unit: str, runs: Sequence[tuple[RunRecord, RunLook, Array]]) -> Chart:
    curves = [curve for record, look, x in runs for curve in trace_run(record, look, x)]
    return Chart(
        title=title,
        unit="validation log loss with dots, training loss thin",
        curves=curves,
        description=f"Learning curves of {', '.join(look.label for _, look, _ in runs)}.",
        x_label=unit,
    )


def trace_run(record: RunRecord, look: RunLook, x: Array) -> list[Curve]:
    """Return the training loss, smoothed, and the validation log loss."""
    losses, window = read_column(record.steps, "loss"), smoothing_window(len(record.steps))
    smoothed = smooth(losses, read_column(record.steps, "rows"), window) if window else losses
    label = "" if record.evaluations else f"{look.label}, training"
    curves = [Curve(label, x, smoothed, look.tone, "faint", look.is_dashed)]
    if record.evaluations:
        after = np.searchsorted(read_column(record.steps, "step"), read_column(record.evaluations, "step"), "right") - 1
        scores = read_column(record.evaluations, "log_loss")
        places = np.where(after >= 0, x[np.maximum(after, 0)], np.nan)
        curves.append(Curve(look.label, places, scores, look.tone, "dots", look.is_dashed))
    return curves

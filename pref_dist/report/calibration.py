"""Whether a probability of 0.7 comes true in 7 of 10 rows, and what a temperature would mend."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

from pref_dist.labels import CLASSES
from pref_dist.report.figures import STAND_IN, Picture

Record = dict[str, Any]
TITLES = {"A": "A wins", "B": "B wins", "tie": "Tie"}
SQUARE = (300, 270)


def build_reliability(calibration: Record | None) -> list[Picture]:
    """Return one diagram a class that metrics.json tells of: predicted probability against how often it came true."""
    bins_of = (calibration or {}).get("reliability") or {}
    return [build_reliability_picture(TITLES[name], bins_of[name]) for name in CLASSES if bins_of.get(name)]


def build_reliability_picture(title: str, bins: Sequence[Record]) -> Picture:
    worst = max(bins, key=lambda found: abs(found["mean_probability"] - found["share"]))
    return Picture(
        title=title,
        unit="how often it comes true",
        description=f"Furthest off: predicted {worst['mean_probability']:.2f}, true in {worst['share']:.2f} of "
        f"{worst['num_rows']:,} rows.",
        legend=[],
        paint=partial(paint_reliability, bins),
        narrow=SQUARE,
    )


def paint_reliability(bins: Sequence[Record], axes: Axes, is_wide: bool) -> None:
    predicted, real, low, high = (
        np.array([found[key] for found in bins], dtype=np.float64)
        for key in ("mean_probability", "share", "low", "high")
    )
    axes.plot([0, 1], [0, 1], color=STAND_IN["muted"], linewidth=1.5, linestyle=(0, (4, 3)))
    reach = np.maximum(0.0, [real - low, high - real])
    axes.errorbar(predicted, real, yerr=reach, color=STAND_IN["train"], marker="o", markersize=5, elinewidth=1.5,
                  linewidth=1.2, capsize=0)  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.set_xlabel("predicted probability")


def explain_temperature(temperature: float) -> str:
    if abs(temperature - 1.0) < 0.005:
        return "as sure as they should be"
    return "too sure: dividing the logits by it softens them" if temperature > 1.0 else "not sure enough"


def explain_predict(saved: Mapping[str, Any], setting: str | None) -> str:
    """Return what `predict` makes of calibration.json (`saved`) under evaluate.calibrate=`setting`."""
    if not saved:
        return "Predictions get no temperature: the run folder holds no calibration.json, which evaluate writes."
    found = f"the temperature {saved['temperature']:.4f}, fitted on {saved['num_rows']:,} held-out rows of the run"
    if not saved["applies"]:
        return f"Predictions do without {found}: it is not sure to make them better."
    if saved.get("num_learnt") != 0:
        return f"Predictions do without {found}: not all of these are known to have been new to the model."
    if setting == "temperature":
        return f"Predictions get {found}."
    return f"Predictions would get {found}, under evaluate.calibrate=temperature, which this run does not set."

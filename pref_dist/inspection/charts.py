"""The pictures of the page: lengths, and who wins by how much longer the response is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pref_dist.inspection.describe import Inspection, LabelFigures, LengthFigures
from pref_dist.inspection.notes import percent
from pref_dist.inspection.statistics import DifferenceBin, Histogram
from pref_dist.report.figures import ROUND, STAND_IN, Picture, Tone

MINUS = "−"


@dataclass(frozen=True)
class Series:
    label: str
    tone: Tone
    histogram: Histogram


def build_length_pictures(inspection: Inspection) -> list[Picture]:
    """Prompt and responses in characters and, where there is a tokenizer, in tokens."""
    pictures = build_pair("characters", inspection.characters)
    return pictures if inspection.tokens is None else [*pictures, *build_pair("tokens", inspection.tokens)]


def build_pair(unit: str, figures: LengthFigures) -> list[Picture]:
    prompt, a, b = figures.histograms.values()
    return [
        build_histogram_picture("Prompt", unit, [Series("prompt", "train", prompt)]),
        build_histogram_picture("Responses", unit, [Series("A", "train", a), Series("B", "valid", b)]),
    ]


def build_histogram_picture(what: str, unit: str, series: Sequence[Series]) -> Picture:
    end = series[0].histogram.edges[-1]
    beyond = " and ".join(f"{one.histogram.num_beyond:,} of {one.label}" for one in series)
    beyond = beyond if len(series) > 1 else f"{series[0].histogram.num_beyond:,} rows"
    return Picture(
        title=f"{what}, {unit}",
        unit=f"rows; cut at the 95 % quantile, {beyond} beyond it",
        description=f"Histogram of the length in {unit} from 0 to {end:,}; {beyond} are longer.",
        legend=[(one.label, one.tone, "line") for one in series] if len(series) > 1 else [],
        paint=partial(paint_histogram, series),
    )


def paint_histogram(series: Sequence[Series], axes: Axes, is_wide: bool) -> None:
    for one in series:
        histogram = one.histogram
        color = STAND_IN[one.tone]
        axes.stairs(histogram.counts, histogram.edges, color=color, fill=True, alpha=0.18, linewidth=0)
        axes.stairs(histogram.counts, histogram.edges, color=color, linewidth=1.8)
    axes.set_xlim(0, series[0].histogram.edges[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8 if is_wide else 5, steps=ROUND, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))


def build_difference_picture(labels: LabelFigures) -> Picture:
    """A's win rate among decided rows, with intervals, and the share of ties, by the difference in length."""
    bins = labels.by_difference
    first, last = bins[0].outcomes.win_rate.share, bins[-1].outcomes.win_rate.share
    return Picture(
        title="A's win rate by how much longer A is",
        unit="%, with 95 % intervals, in parts of about equally many rows",
        description=f"A wins {percent(first)} of decided rows where B is longer by most, {percent(last)} where A is.",
        legend=[("A wins, of decided rows", "train", "dots"), ("ties, of all rows", "muted", "dots")],
        paint=partial(paint_differences, bins),
    )


def paint_differences(bins: Sequence[DifferenceBin], axes: Axes, is_wide: bool) -> None:
    places = np.arange(len(bins))
    axes.axhline(50.0, color=STAND_IN["muted"], linewidth=1.5, linestyle=(0, (4, 3)))
    ties = [100.0 * found.outcomes.ties / found.outcomes.num_rows for found in bins]
    axes.plot(places, ties, color=STAND_IN["muted"], marker="o", markersize=4, linewidth=1.2)
    decided = [
        (place, found.outcomes.win_rate) for place, found in enumerate(bins) if found.outcomes.win_rate.total > 0
    ]
    if decided:
        x = [place for place, _ in decided]
        rates, lows, highs = (
            100.0 * np.array([getattr(rate, name) for _, rate in decided], dtype=np.float64)
            for name in ("share", "low", "high")
        )
        reach = np.maximum(0.0, [rates - lows, highs - rates])
        axes.errorbar(x, rates, yerr=reach, color=STAND_IN["train"], marker="o", markersize=6, elinewidth=2, capsize=3)
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.5, len(bins) - 0.5)
    shown = places if is_wide else places[:: 1 if len(bins) <= 6 else 2]
    axes.set_xticks(shown, [render_difference(bins[place].median) for place in shown])
    axes.set_xlabel(f"characters of A {MINUS} B, median of each part")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND))


def render_difference(value: float) -> str:
    """Short and signed: +1.2k, −81, 0."""
    size = abs(value)
    text = f"{size / 1000:.1f}k" if size >= 1000 else f"{size:,.0f}"
    return text if text == "0" else f"{'+' if value > 0 else MINUS}{text}"

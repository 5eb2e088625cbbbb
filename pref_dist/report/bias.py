"""Position and length: what the model says when A and B change places, and what it makes of longer answers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pref_dist.report.figures import ROUND, STAND_IN, Chart, Curve, Picture

Record = dict[str, Any]
MINUS = "−"


def build_cost_chart(orders: Record | None) -> Chart | None:
    """Log loss over the share of rows whose second order was run; None unless all of them were."""
    curve = (orders or {}).get("curve")
    if not curve:
        return None
    shares = np.array([point["share"] for point in curve], dtype=np.float64)
    losses = np.array([point["log_loss"] for point in curve], dtype=np.float64)
    return Chart(
        title="Gain against cost",
        unit="log loss, nats",
        curves=[Curve("", 100.0 * shares, losses, "train", "dots")],
        description=f"Log loss from {losses[0]:.4f} with one order to {losses[-1]:.4f} with both.",
        x_label="% of rows run in both orders, the least certain first",
    )


def build_verbosity_picture(bins: Sequence[Record] | None) -> Picture | None:
    """A's win rate, predicted and real, by how much longer A is; None where no bin holds a row."""
    known = [found for found in bins or [] if found["num_rows"]]
    if not known:
        return None
    gap = max(known, key=lambda found: abs(found["predicted"] - found["real"]))
    return Picture(
        title="A's win rate by how much longer A is",
        unit="%, a tie counts half",
        description=f"Furthest apart: {100 * gap['predicted']:.0f} % predicted and {100 * gap['real']:.0f} % real, "
        f"characters of A less those of B {render_range(gap)}.",
        legend=[("predicted", "train", "dots"), ("real", "valid", "dots")],
        paint=partial(paint_verbosity, known),
    )


def paint_verbosity(bins: Sequence[Record], axes: Axes, is_wide: bool) -> None:
    """Bins are drawn equally wide, and the borders between them are the ticks: the lowest value above each."""
    places = np.arange(len(bins)) + 0.5
    axes.axhline(50.0, color=STAND_IN["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    for key, tone in (("real", "valid"), ("predicted", "train")):
        rates = [100.0 * found[key] for found in bins]
        axes.plot(places, rates, color=STAND_IN[tone], marker="o", markersize=6)
    axes.set_xlim(0, len(bins))
    borders = range(1, len(bins))
    shown = borders if is_wide or len(bins) <= 6 else borders[::2]
    axes.set_xticks(list(shown), [render_difference(bins[place]["low"]) for place in shown])
    axes.set_xlabel(f"characters of A {MINUS} B")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def render_range(found: Record) -> str:
    """As in `−499 to −200`; both ends belong to it, and either may be open."""
    low, high = found["low"], found["high"]
    if low is None:
        return "any" if high is None else f"{render_signed(high)} or less"
    return f"{render_signed(low)} or more" if high is None else f"{render_signed(low)} to {render_signed(high)}"


def render_signed(value: int) -> str:
    return f"{value:+,}".replace("-", MINUS) if value else "0"


def render_difference(value: float | None) -> str:
    """Short and signed: +1.2k, −81, 0."""
    size = abs(value or 0)
    text = f"{size / 1000:.1f}k" if size >= 1000 else f"{size:,.0f}"
    return text if text == "0" else f"{'+' if (value or 0) > 0 else MINUS}{text}"

"""Draws a chart as inline SVG whose colours and typeface are the page's own.

Matplotlib knows no CSS variables, so it draws in stand-in colours that are replaced in its output:
one picture then fits the light page and the dark one. Width and height go, so that it scales.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scale = Literal["free", "from_zero", "log"]
Tone = Literal["train", "valid", "bad", "muted", "run1", "run2", "run3", "run4", "run5", "run6"]

STAND_IN = {
    "ink": "#010101", "muted": "#020202", "rule": "#030303",
    "train": "#040404", "valid": "#050505", "bad": "#060606",
    "run1": "#070707", "run2": "#080808", "run3": "#090909", "run4": "#0b0b0b", "run5": "#0c0c0c", "run6": "#0d0d0d",
}  # fmt: skip
RUN_TONES: tuple[Tone, ...] = ("run1", "run2", "run3", "run4", "run5", "run6")
WIDE, NARROW = (920, 300), (420, 250)  # pixels of the page, of which a point of Matplotlib becomes one
ROUND = (1, 2, 2.5, 5, 10)  # distances of ticks
MAX_POINTS = 800  # of one curve; a hundred thousand steps would be megabytes of path
STYLE: Any = {  # the type of its keys differs between versions of Matplotlib
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": STAND_IN["rule"],
    "axes.labelcolor": STAND_IN["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": STAND_IN["rule"],
    "grid.linewidth": 1.0,
    "text.color": STAND_IN["ink"],
    "xtick.labelcolor": STAND_IN["muted"],
    "ytick.labelcolor": STAND_IN["muted"],
    "xtick.color": STAND_IN["rule"],
    "ytick.left": False,
    "lines.linewidth": 2.0,
}


@dataclass(frozen=True)
class Curve:
    """One series over the steps. Values that are not finite are left out, and the line goes on over them.

    look: `faint` for raw values behind a smoothed `line`, `dots` for a line with its points,
    `level` for a dashed horizontal line at its only value, `ticks` for marks at the foot (y is not read).
    is_dashed: tells two curves of one tone apart.
    """

    label: str
    x: Array
    y: Array
    tone: Tone
    look: Literal["line", "faint", "dots", "level", "ticks"] = "line"
    is_dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves that share an axis. description: what somebody hears who cannot see it.

    scale: of the vertical axis; `free` goes from the lowest value to the highest. x_label: what the steps, rows or
    seconds along the other one are.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    description: str
    scale: Scale = "free"
    x_label: str = "step"

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """(label, tone, look) of each curve that has a label."""
        dashed = {True: " dashed", False: ""}
        return [(curve.label, curve.tone, curve.look + dashed[curve.is_dashed]) for curve in self.curves if curve.label]

    @property
    def wide_svg(self) -> Markup:
        return draw_svg(self, WIDE)

    @property
    def narrow_svg(self) -> Markup:
        return draw_svg(self, NARROW)


@dataclass(frozen=True)
class Picture:
    """Anything else than curves. legend: (label, tone, look) of each series; paint: draws it, told if it is wide."""

    title: str
    unit: str
    description: str
    legend: Sequence[tuple[str, Tone, str]]
    paint: Callable[[Axes, bool], None]
    narrow: tuple[int, int] = NARROW

    @property
    def wide_svg(self) -> Markup:
        return draw_axes(self.title, self.description, WIDE, lambda axes: self.paint(axes, True))

    @property
    def narrow_svg(self) -> Markup:
        return draw_axes(self.title, self.description, self.narrow, lambda axes: self.paint(axes, False))


def draw_svg(chart: Chart, size: tuple[int, int]) -> Markup:
    """Return the chart as an `<svg>` element; see `draw_axes`."""

    def paint(axes: Axes) -> None:
        for curve in chart.curves:
            draw_curve(axes, curve)
        finish_axes(axes, chart, size)

    return draw_axes(chart.title, chart.description, size, paint)


def draw_axes(title: str, description: str, size: tuple[int, int], paint: Callable[[Axes], None]) -> Markup:
    """Return what `paint` draws as an `<svg>` element without any address, script, size or colour of its own.

    `paint` takes its colours from STAND_IN. Titles of the pictures of one page differ, because the ids in a
    picture are made of its title and size.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        # A salt of its own keeps ids apart: an element may not refer to one in a hidden picture.
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": f"{title} {size}"})
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.subplots())
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return clean_svg(file.getvalue(), f"{title}. {description}")


def draw_curve(axes: Axes, curve: Curve) -> None:
    color = STAND_IN[curve.tone]
    if curve.look == "ticks":
        foot = np.full(len(curve.x), 0.03)
        axes.plot(curve.x, foot, "|", color=color, ms=9, mew=2, transform=axes.get_xaxis_transform())
        return
    if curve.look == "level":
        axes.axhline(float(curve.y[0]), color=color, linewidth=1.5, linestyle=(0, (4, 3)))
        return
    x, y = thin_out(*drop_gaps(curve.x, curve.y))
    marker = "o" if curve.look == "dots" or len(x) == 1 else ""
    dashes: Any = (0, (3, 2)) if curve.is_dashed else "-"
    if curve.look == "faint":
        axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.0, alpha=0.4, marker=marker, markersize=3)
    else:
        axes.plot(x, y, color=color, linestyle=dashes, marker=marker, markersize=6)


def drop_gaps(x: Array, y: Array) -> tuple[Array, Array]:
    finite = np.isfinite(y)
    return x[finite], y[finite]


def thin_out(x: Array, y: Array, max_points: int = MAX_POINTS) -> tuple[Array, Array]:
    """Return at most `max_points` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(x) <= max_points:
        return x, y
    stretches = np.array_split(np.arange(len(x)), max_points // 2)
    kept = np.unique([place[choose(y[place])] for place in stretches for choose in (np.argmin, np.argmax)])
    return x[kept], y[kept]


def finish_axes(axes: Axes, chart: Chart, size: tuple[int, int]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(8 if size == WIDE else 5, steps=ROUND, integer=True))
    if chart.scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)) if chart.scale == "log" else MaxNLocator(5, steps=ROUND))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: render_tick(value)))
    axes.set_xlabel(chart.x_label)
    left, right = axes.get_xlim()
    if right - left < 2.0:  # a run of one or two steps: no ticks between whole ones
        axes.set_xlim(left - 1.0, right + 1.0)
    if chart.scale == "from_zero":
        axes.set_ylim(bottom=0.0)


def render_tick(value: float) -> str:
    """Short: 2e-5, 0.35, 1,200."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.001:
        return np.format_float_scientific(value, precision=2, trim="-", exp_digits=1)
    return f"{value:.4g}"


def clean_svg(text: str, label: str) -> Markup:
    """Take Matplotlib's file and leave what a page needs of it."""
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = f'<svg {view[0]} role="img" aria-label="{escape(label)}">'
    text = re.sub(r"<svg[^>]*>", lambda found: opening, text, count=1)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family:[^;\"]*;?", "", text)
    text = text.replace("xlink:href", "href")
    for name, color in STAND_IN.items():
        text = text.replace(color, f"var(--{name})")
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    return Markup(re.sub(r"\s+", " ", text).strip())

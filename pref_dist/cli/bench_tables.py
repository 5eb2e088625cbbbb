"""What `bench` prints: a table of medians, each with its lowest and highest, and our ratios below it."""

import sys
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pref_dist.files import render_bytes

if TYPE_CHECKING:
    from pref_dist.bench.cache import CacheComparison
    from pref_dist.bench.growth import Growth
    from pref_dist.bench.measurement import Column, Comparison
    from pref_dist.bench.plan import PlanTimes
    from pref_dist.bench.scaling import Scaling

LOG_WIDTH = 200

FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("rows_per_second", "rows/s", lambda value: f"{value:.2f}"),
    ("tokens_per_second", "tokens/s", lambda value: f"{value:,.0f}"),
    ("padding_share", "padding", lambda value: f"{100 * value:.1f} %"),
    ("linear_flops_per_second", "linear GFLOP/s", lambda value: f"{value / 1e9:,.0f}"),
    ("matmul_flops_per_second", "matmul GFLOP/s", lambda value: f"{value / 1e9:,.0f}"),
    ("utilisation", "used", lambda value: f"{100 * value:.0f} %"),
    ("peak_bytes", "memory", render_bytes),
    ("peak_cuda_bytes", "GPU memory", render_bytes),
    ("data_share", "data", lambda value: f"{100 * value:.1f} %"),
    ("log_loss", "log loss", lambda value: f"{value:.4f}"),
)
WITH_SPREAD = ("rows_per_second", "log_loss")


def render_comparison(found: "Comparison") -> str:
    """Return the columns of the comparison, a line each, and our ratios."""
    shown = [figure for figure in FIGURES if any(column.values(figure[0]) for column in found.columns)]
    table = start_table("pipeline", *(title for _, title, _ in shown))
    for column in found.columns:
        table.add_row(column.label, *render_cells(column, shown))
    ratios = [
        f"{ratio.own.name} / {ratio.peer.label}: "
        + (f"{ratio.value:.2f} x" if ratio.value is not None else "not measured")
        for ratio in found.ratios
    ]
    return print_table(table) + lines(["rows a second, medians, ours over theirs:", *ratios] if ratios else [])


def render_cells(column: "Column", shown: Sequence[tuple[str, str, Callable[[float], str]]]) -> list[str]:
    if not column.measurements:
        reason = "not installed" if column.is_absent else "FAILED"
        return [reason, *("" for _ in shown[1:])]
    cells = []
    for name, _, render in shown:
        middle, spread = column.median(name), column.spread(name)
        cell = "" if middle is None else render(middle)
        if name in WITH_SPREAD and spread is not None:
            cell += f" ({render(spread[0])} to {render(spread[1])})"
        cells.append(cell)
    return [f"{cells[0]}, then FAILED", *cells[1:]] if column.failure else cells


def render_cache(found: "CacheComparison") -> str:
    table = start_table("way", "seconds", "processor s", "tokens/s", "rows", "tokens", "memory, all processes")
    for way in found.ways:
        if not way.found:
            table.add_row(way.name, "FAILED")
            continue
        seconds, first = way.values("seconds"), way.found[0]
        table.add_row(
            way.name, f"{middle(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
            f"{middle(way.values('processor_seconds')):.2f}", f"{middle(way.values('tokens_per_second')):,.0f}",
            f"{first['rows']:,}", f"{first['tokens']:,}", render_bytes(middle(way.values("tree_bytes"))),
        )  # fmt: skip
    ratios = [f"own / {peer}: {ratio:.2f} x as fast" for peer, ratio in found.ratios.items()]
    return print_table(table) + lines(ratios)


def render_plan(found: "PlanTimes") -> str:
    table = start_table(f"{found.about['rows']:,} rows", "seconds")
    for name, seconds in found.median_seconds().items():
        low, high = found.spread(name)
        table.add_row(name, f"{seconds:.2f} ({low:.2f} to {high:.2f})")
    return print_table(table) + lines([f"{found.found[0]['steps']:,} steps, {render_bytes(found.peak_bytes)} at most"])


def render_scaling(found: "Scaling") -> str:
    table = start_table("back-end", "ranks", "train rows/s", "evaluate rows/s")
    for run in found.runs:
        if not run.train:
            table.add_row(run.backend, str(run.ranks), "FAILED", "")
            continue
        cells = (f"{middle(one):.2f} ({min(one):.2f} to {max(one):.2f})" for one in (run.train, run.evaluate))
        table.add_row(run.backend, str(run.ranks), *cells)
    shares = [
        f"{one.backend}, {one.ranks} ranks against 1 of {one.baseline}: efficiency {one.train:.2f} in training, "
        f"{one.evaluate:.2f} in evaluation"
        for one in found.efficiencies
    ]
    return print_table(table) + lines(shares)


def render_growth(found: "Growth") -> str:
    over = found.about["over"]
    table = start_table(over, "settings", "training us/token", "of the first", "preparing us/token", "memory")
    first: dict[Any, float] = {}
    for point in found.points:
        settings = " ".join(point.settings)
        if not point.training:
            table.add_row(f"{point.size:,}", settings, "FAILED")
            continue
        microseconds = [1e6 * seconds for seconds in point.training]
        start = first.setdefault(point.settings, middle(microseconds))
        table.add_row(
            f"{point.size:,}", settings,
            f"{middle(microseconds):.1f} ({min(microseconds):.1f} to {max(microseconds):.1f})",
            f"{middle(microseconds) / start:.2f} x", f"{1e6 * middle(point.preparing):.2f}",
            render_bytes(point.peak_bytes),
        )  # fmt: skip
    return print_table(table)


def middle(values: Iterable[float]) -> float:
    from statistics import median

    return median(values)


def start_table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def print_table(table: Table) -> str:
    """Return the table as text: cut to the terminal's width there, whole lines in a pipe."""
    console = Console(
        file=StringIO(), width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)

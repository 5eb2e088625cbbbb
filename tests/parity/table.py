"""The page of measured differences."""

from tests.parity.kinds import BOUNDS, KINDS
from tests.parity.measure import Difference, Measured

HEAD = """# Parity, measured

Written by `bash launch/parity.sh`. A tiny BERT (2 layers x 32), 20 steps of 13 rows, learning rate 2e-5 (head 4e-5),
dropout 0, one thread a rank, gloo. *cut*: a step in micro-batches of at most 250 tokens, whose number changes from
step to step and suits no number of ranks; *whole*: in one. *clipped*: at norm 0.1, which is active in most steps.
Each cell is the largest difference from one process of a step's loss / of a parameter after 20 steps / of a gradient
norm (relative). fp64 is not there for DeepSpeed, which has none.
"""


def render_page(measured: Measured) -> str:
    """Return the page: a table for each precision, a line a back-end and number of ranks."""
    tables = (render_precision(precision, measured) for precision in BOUNDS)
    return "\n".join((HEAD, render_summary(measured), *tables))


def render_summary(measured: Measured) -> str:
    """Return the table that the README has, too: a line a back-end, a cell a precision."""
    backends: dict[str, list[int]] = {}
    for backend, ranks in measured:
        backends.setdefault(backend, []).append(ranks)
    lines = [
        "Worst of all cells (loss / parameters):",
        "",
        f"| back-end | ranks | {' | '.join(BOUNDS)} |",
        "|---" * (len(BOUNDS) + 2) + "|",
    ]
    for backend, ranks in backends.items():
        cells = [found for place, cell in measured.items() if place[0] == backend for found in cell.items()]
        worst = (render_worst([found for kind, found in cells if kind.precision == precision]) for precision in BOUNDS)
        lines.append(f"| {backend} | {', '.join(map(str, ranks))} | {' | '.join(worst)} |")
    bounds = (f"{bound.loss:g} / {bound.parameter:g}" for bound in BOUNDS.values())
    return "\n".join((*lines, f"| bound | | {' | '.join(bounds)} |", ""))


def render_worst(found: list[Difference]) -> str:
    return f"{max(one.loss for one in found):.0e} / {max(one.parameter for one in found):.0e}" if found else ""


def render_precision(precision: str, measured: Measured) -> str:
    bound = BOUNDS[precision]
    kinds = [kind for kind in KINDS if kind.precision == precision]
    if not any(cells.keys() >= set(kinds) for cells in measured.values()):
        return f"## {precision}\n\nNot measured: the processor of that machine does not compute in it.\n"
    names = [kind.name.removeprefix(f"{precision}, ") for kind in kinds]
    lines = [
        f"## {precision}",
        "",
        f"Bounds: {bound.loss:g} / {bound.parameter:g} / {bound.norm:g}",
        "",
        f"| back-end | ranks | {' | '.join(names)} |",
        "|---" * (len(kinds) + 2) + "|",
    ]
    lines += [
        f"| {backend} | {ranks} | {' | '.join(render_cell(cells[kind]) for kind in kinds)} |"
        for (backend, ranks), cells in measured.items()
        if cells.keys() >= set(kinds)
    ]
    return "\n".join((*lines, ""))


def render_cell(found: Difference) -> str:
    return f"{found.loss:.0e} / {found.parameter:.0e} / {found.norm:.0e}"

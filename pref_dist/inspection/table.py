"""The inspection on a terminal: compact tables, without codes where nobody reads them in colour."""

import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pref_dist.inspection.describe import Inspection, LengthFigures
from pref_dist.inspection.notes import Weight, list_notes, percent, render_count
from pref_dist.inspection.problems import list_problems
from pref_dist.inspection.ratings import ModelRecord
from pref_dist.inspection.statistics import Histogram, Outcomes, Share

PIPED_WIDTH = 100
NUM_MODELS_SHOWN = 20
PREVIEW_CHARACTERS = 400  # of one text; three lines of it are shown at most
NOTE_STYLES: dict[Weight, tuple[str, str]] = {
    "bad": ("problem", "red"),
    "watch": ("note", "yellow"),
    "fine": ("ok", "green"),
}
BLOCKS = " ▁▂▃▄▅▆▇█"
NUM_BLOCKS = 20


def open_console() -> Console:
    """Return a console on stdout; without a terminal it writes no codes and is PIPED_WIDTH wide."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print all figures; text of the data is shown as it is, without control characters."""
    data = inspection.data
    kind = f"format {data.format}, {'labelled' if data.is_labelled else 'no labels'}"
    console.print(Text(one_line(str(data.path)), style="bold"), f"{data.num_rows:,} rows, {kind}")
    print_notes(inspection, console)
    print_preview(inspection, console)
    print_checks(inspection, console)
    print_labels(inspection, console)
    print_lengths(inspection, console)
    print_models(inspection, console)
    if inspection.tokens is None:
        console.print(Text("\nNo tokens were counted, by which to choose data.max_tokens: add --tokenizer MODEL."))


def print_notes(inspection: Inspection, console: Console) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for note in list_notes(inspection):
        label, color = NOTE_STYLES[note.weight]
        table.add_row(Text(label, style=f"bold {color}"), note.text)
    console.print(Padding(table, (1, 0, 0, 0), expand=False))


def print_preview(inspection: Inspection, console: Console) -> None:
    rows = []
    for row in inspection.data.preview:
        texts = [one_line(" / ".join(column))[:PREVIEW_CHARACTERS] for column in zip(*row.turns, strict=True)]
        rows.append([f"{row.row:,}", one_line(row.id), name_winner(row.target), *texts])
    if rows:
        table = build_table(["row", "id", "winner", "prompt", "A", "B"], [], numbers=(0,))
        for column in table.columns[3:]:
            column.no_wrap, column.overflow, column.ratio = True, "ellipsis", 1
        table.expand = True
        for cells in rows:
            table.add_row(*cells)
        print_section(console, "First rows", table)


def name_winner(target: tuple[float, float, float] | None) -> str:
    if target is None:
        return "none"
    return (
        " ".join(
            f"{name} {share:.2g}" if share < 1 else name for name, share in zip("AB", target[:2], strict=True) if share
        )
        or "tie"
    )


def print_checks(inspection: Inspection, console: Console) -> None:
    problems = list_problems(inspection.data)
    if problems:
        rows = [
            [
                *(found.kind, f"{found.num_rows:,}", f"{found.num_set_aside:,}", found.policy),
                *(", ".join(map(str, found.rows)), found.meaning),
            ]
            for found in problems
        ]
        print_section(
            console,
            "Findings",
            build_table(["kind", "rows", "set aside", "policy", "first rows", "meaning"], rows, numbers=(1, 2)),
        )
    missing = [
        [
            one_line(name),
            f"{count:,}",
            f"{inspection.missing_turns[name]:,}" if name in inspection.missing_turns else "",
        ]
        for name, count in inspection.data.missing.items()
    ]
    print_section(console, "Missing values", build_table(["column", "empty cells", "turns without text"], missing))
    repeats, test = inspection.repeats, inspection.test
    counts = [
        ("repeat an earlier one, label and all", repeats.exact_repeats),
        ("repeat one with A and B exchanged", repeats.swapped_repeats),
        ("contradict each other in their label", repeats.contradicting_rows),
        ("have the same text as A and as B", repeats.identical_responses),
        ("share their prompt with another row", repeats.rows_sharing_prompts),
    ]
    if test is not None:
        counts += [
            ("test rows that stand here too", test.rows_in_train),
            ("test rows whose prompt stands here", test.prompts_in_train),
        ]
    print_section(
        console, "Duplicates", build_table(["rows that", "rows"], [[name, f"{count:,}"] for name, count in counts])
    )
    turns = [
        [f"{number:,}", f"{count:,}", percent(count / inspection.num_usable)]
        for number, count in inspection.turns.items()
    ]
    print_section(console, "Turns", build_table(["turns", "rows", "share"], turns, numbers=(0, 1, 2)))


def print_labels(inspection: Inspection, console: Console) -> None:
    labels = inspection.labels
    if labels is None:
        print_section(console, "Labels", "none, so nothing is said about classes, bias and models")
        return
    classes = [
        [
            name if name == "tie" else f"{name} wins",
            render_count(share.count),
            percent(share.share),
            render_range(share),
        ]
        for name, share in labels.classes.items()
    ]
    loss = f"(log loss of their shares alone: {labels.prior_log_loss:.4f})"
    print_section(console, f"Labels {loss}", build_table(["outcome", "rows", "share", "95 % interval"], classes))
    bias = [
        ["A, shown first", *render_outcomes(labels.position)],
        ["the longer response", *render_outcomes(labels.longer)],
        *([name_difference(part.low, part.high), *render_outcomes(part.outcomes)] for part in labels.by_difference),
    ]
    columns = ["who", "rows", "wins", "losses", "ties", "win rate", "95 % interval"]
    print_section(console, "Bias (win rates of decided rows: ties are left out)", build_table(columns, bias))


def name_difference(low: int, high: int) -> str:
    """Return in words by how many characters A is longer than B, from `low` to `high`, which may be negative."""
    if low > 0:
        return f"A longer by {low:,} to {high:,} characters"
    if high < 0:
        return f"B longer by {-high:,} to {-low:,} characters"
    if low == high:
        return "A and B equally long"
    longer = [f"{name} by up to {by:,}" for name, by in (("B", -low), ("A", high)) if by]
    return f"{' or '.join(longer)} characters longer"


def render_outcomes(outcomes: Outcomes) -> list[str]:
    counts = [render_count(value) for value in (outcomes.wins, outcomes.losses, outcomes.ties)]
    return [f"{outcomes.num_rows:,}", *counts, percent(outcomes.win_rate.share), render_range(outcomes.win_rate)]


def render_range(share: Share) -> str:
    return "" if share.low is None or share.high is None else f"{100 * share.low:.1f} to {100 * share.high:.1f} %"


def print_lengths(inspection: Inspection, console: Console) -> None:
    columns = ["text", "mean", "median", "90 %", "95 %", "99 %", "longest", "up to the 95 % quantile"]
    for unit, figures in (("characters", inspection.characters), ("tokens", inspection.tokens)):
        if figures is not None:
            table = build_table(columns, list_lengths(figures), numbers=range(1, 7))
            print_section(console, f"Lengths in {unit}", table)
    if inspection.fitting is not None:
        rows = [
            [f"{limit:,}", f"{share.count:,.0f}", percent(share.share)] for limit, share in inspection.fitting.items()
        ]
        table = build_table(["tokens", "rows that fit", "share"], rows, numbers=(0, 1, 2))
        print_section(console, "Prompt, A and B together", table)


def list_lengths(figures: LengthFigures) -> Iterable[list[str]]:
    for name, lengths in figures.lengths.items():
        numbers = [f"{lengths.mean:,.0f}", *(f"{value:,}" for value in (*lengths.quantiles, lengths.longest))]
        yield [name, *numbers, draw_blocks(figures.histograms[name]) if name in figures.histograms else ""]


def draw_blocks(histogram: Histogram) -> str:
    """Return the histogram as a line of blocks, neighbouring bins together."""
    size = -(-len(histogram.counts) // NUM_BLOCKS)
    sums = [sum(histogram.counts[start : start + size]) for start in range(0, len(histogram.counts), size)]
    highest = max(1, *sums)
    return "".join(BLOCKS[-(-value * (len(BLOCKS) - 1) // highest)] for value in sums)


def print_models(inspection: Inspection, console: Console) -> None:
    models = inspection.labels.models if inspection.labels else []
    if not models:
        return
    ordered = sorted(models, key=lambda model: (model.group is None, model.group))
    has_groups = len({model.group for model in models}) > 1
    columns = [
        *(["group"] if has_groups else []),
        "model",
        "rows",
        "win rate",
        "rating",
        "95 % interval",
        "mean characters",
    ]
    rows = [
        [*([render_group(model)] if has_groups else []), *render_model(model)] for model in ordered[:NUM_MODELS_SHOWN]
    ]
    table = build_table(columns, rows, numbers=range(len(columns) - 5, len(columns)))
    print_section(console, "Models (Bradley-Terry: 400 points are odds of 10 to 1, the mean is 1,000)", table)
    if len(models) > NUM_MODELS_SHOWN:
        console.print(f"  and {len(models) - NUM_MODELS_SHOWN:,} more, on the page")


def render_group(model: ModelRecord) -> str:
    return "none" if model.group is None else str(model.group + 1)


def render_model(model: ModelRecord) -> list[str]:
    rating, interval = "none", ""
    if model.rating is not None and model.low is not None and model.high is not None:
        rating, interval = f"{model.rating:,.0f}", f"{model.low:,.0f} to {model.high:,.0f}"
    rate = percent(model.outcomes.win_rate.share)
    return [one_line(model.name), f"{model.num_rows:,}", rate, rating, interval, f"{model.mean_length:,.0f}"]


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] | None = None) -> Table:
    """Return a table whose `numbers` are aligned at the right: all but the first column, if not said."""
    right = set(range(1, len(columns)) if numbers is None else numbers)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold", no_wrap=place in right)
    for row in rows:
        table.add_row(*row)
    return table


def print_section(console: Console, title: str, content: Table | str) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    console.print(Padding(content, (0, 0, 0, 2), expand=False))


def one_line(text: str) -> str:
    """Return the text on one line, and without the codes that would move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())

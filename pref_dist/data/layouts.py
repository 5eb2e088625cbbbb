"""The layouts of preference data that are known, and how to tell which one a file has.

    lmsys   Kaggle LMSYS 2024: id, prompt, response_a, response_b as JSON lists of turns; winner_model_a, ...
    plain   the same columns, one plain string each
    wsdm    Kaggle WSDM Cup 2025: plain strings; winner is model_a or model_b
    arena   lmarena: conversation_a, conversation_b as lists of messages; winner is model_a, model_b, tie or "both bad"
    pairs   HH-RLHF, UltraFeedback: chosen, rejected as text or as lists of messages

The text and the label are found apart: any of them may carry winner_model_a / _b, winner_tie, or winner, or
the probabilities prob_model_a, prob_model_b, prob_tie beside or instead of a winner.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pref_dist.data.conversations import shorten
from pref_dist.data.raw_labels import LABEL_COLUMNS, Labels, find_labels
from pref_dist.data.records import Record
from pref_dist.errors import DataError
from pref_dist.labels import ID_COLUMN, TEXT_COLUMNS, WINNER_COLUMNS

Format = Literal["lmsys", "plain", "wsdm", "arena", "pairs"]

CONVERSATION_COLUMNS = ("conversation_a", "conversation_b")
PAIR_COLUMNS = ("chosen", "rejected")
MODEL_COLUMNS = ("model_a", "model_b")
NUM_COLUMNS_NAMED = 12  # in an error message
NUM_COLUMNS_COMPARED = 200  # with the known names, to find a slip of the pen
OTHER_ID_COLUMNS = ("question_id", "conversation_id")
# Python's repr of a list opens with [' : such a file is JSON gone wrong, and not plain text.
LOOKS_LIKE_TURNS = re.compile(r"""\s*\[\s*(?:["'\]]|null\b)""")


@dataclass(frozen=True)
class Layout:
    """How the columns of a source are to be read.

    `order_seed` decides which of a pair is shown first. None: the source is predicted, so there is no label
    to give away; then the chosen one comes first, and rows without an id get their number, which people find again.
    """

    format: Format
    id_column: str | None  # None: the id is made of the content
    labels: Labels
    has_models: bool
    order_seed: int | None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        ids = [self.id_column] if self.id_column else []
        texts = {"arena": CONVERSATION_COLUMNS, "pairs": (*PAIR_COLUMNS, "prompt")}.get(self.format, TEXT_COLUMNS)
        return [*ids, *texts, *(MODEL_COLUMNS if self.has_models else ()), *self.labels.columns]

    @property
    def is_labelled(self) -> bool:
        return bool(self.labels.columns) or (self.format == "pairs" and self.order_seed is not None)


def find_layout(
    path: object, columns: Sequence[str], wanted: str, first: Iterable[Record], order_seed: int, with_labels: bool
) -> Layout:
    """Decide how the columns of a file are to be read; `first` are its first records.

    `wanted` is a format or "auto". Raises DataError if a column is missing or stands twice.
    """
    counts = Counter(columns)
    repeated = next((name for name in known_columns() if counts[name] > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: column {repeated!r} stands {counts[repeated]} times. Rename all but one.")
    format = guess_format(columns, first) if wanted == "auto" else check_format(wanted)
    needed = {"arena": CONVERSATION_COLUMNS, "pairs": PAIR_COLUMNS}.get(format, (ID_COLUMN, *TEXT_COLUMNS))
    check_unambiguous(path, columns, wanted)
    labels = find_labels(path, columns, format) if with_labels and format != "pairs" else Labels()
    if format == "pairs" and with_labels:
        refuse_labels(path, columns)
    if wanted == "wsdm" and with_labels and labels.winner_columns not in ((), ("winner",)):
        raise DataError(f"{path} has {WINNER_COLUMNS[0]}, which data.format=wsdm has not. Set data.format=auto.")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(explain_missing(path, missing, columns, needed))
    ids = (ID_COLUMN,) if format == "pairs" else (ID_COLUMN, *OTHER_ID_COLUMNS)
    return Layout(
        format=format,
        id_column=next((name for name in ids if name in columns), None),
        labels=labels,
        # Which of a pair's responses would be model_a's is not said anywhere.
        has_models=format != "pairs" and all(name in columns for name in MODEL_COLUMNS),
        order_seed=order_seed if with_labels else None,
    )


def check_unambiguous(path: object, columns: Sequence[str], wanted: str) -> None:
    """Raise DataError if the format is to be guessed and two layouts fit."""
    layouts = {"lmsys or plain": TEXT_COLUMNS, "arena": CONVERSATION_COLUMNS, "pairs": PAIR_COLUMNS}
    fitting = [name for name, needed in layouts.items() if all(column in columns for column in needed)]
    if wanted == "auto" and len(fitting) > 1:
        raise DataError(f"{path} has the columns of several formats: {', '.join(fitting)}. Name one in data.format.")


def refuse_labels(path: object, columns: Sequence[str]) -> None:
    found = [name for name in columns if name in LABEL_COLUMNS]
    if found:
        raise DataError(
            f"{path} holds chosen and rejected responses, which is a label, and also {', '.join(found)}. Remove "
            f"{'it' if len(found) == 1 else 'them'}, or give prompt, response_a and response_b instead."
        )


def known_columns() -> tuple[str, ...]:
    ids = (ID_COLUMN, *OTHER_ID_COLUMNS)
    return (*ids, *TEXT_COLUMNS, *CONVERSATION_COLUMNS, *PAIR_COLUMNS, *MODEL_COLUMNS, *LABEL_COLUMNS)


def check_format(wanted: str) -> Format:
    match wanted:
        case "lmsys" | "plain" | "wsdm" | "arena" | "pairs":
            return wanted
    raise DataError(f"There is no format {wanted!r}. Formats: auto, lmsys, plain, wsdm, arena, pairs.")


def guess_format(columns: Sequence[str], first: Iterable[Record]) -> Format:
    if all(name in columns for name in CONVERSATION_COLUMNS):
        return "arena"
    if are_pairs(columns):
        return "pairs"
    return "lmsys" if hold_turn_lists(first) else "plain"


def are_pairs(columns: Sequence[str]) -> bool:
    is_arena = all(name in columns for name in CONVERSATION_COLUMNS)
    return not is_arena and all(name in columns for name in PAIR_COLUMNS)


def hold_turn_lists(first: Iterable[Record]) -> bool:
    """Return whether most of the text cells that are not empty are lists of turns."""
    cells = [record.cells.get(name) for record in first if record.fault is None for name in TEXT_COLUMNS]
    filled = [cell for cell in cells if isinstance(cell, list) or (isinstance(cell, str) and cell.strip())]
    num_lists = sum(1 for cell in filled if isinstance(cell, list) or LOOKS_LIKE_TURNS.match(cell))
    return 2 * num_lists > len(filled)


def explain_missing(path: object, missing: Sequence[str], columns: Sequence[str], needed: Sequence[str]) -> str:
    found = ", ".join(repr(shorten(name)) for name in columns[:NUM_COLUMNS_NAMED])
    found += f" and {len(columns) - NUM_COLUMNS_NAMED:,} more" * (len(columns) > NUM_COLUMNS_NAMED)
    others = [name for name in columns[:NUM_COLUMNS_COMPARED] if name not in known_columns()]
    nearest = {other: find_nearest(other, missing) for other in others}
    hints = [f"Rename {other!r} to {name!r}?" for other, name in nearest.items() if name]
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        hints = ["The header has no comma: save the file with commas between the cells."]
    remedy = " ".join(hints[: len(missing)]) or (
        f"The file needs the columns {', '.join(needed)} and, where it is labelled, {', '.join(WINNER_COLUMNS)} "
        f"(or conversation_a and conversation_b, or chosen and rejected: see data.format)."
    )
    names = ", ".join(repr(name) for name in missing)
    return f"{path} lacks {len(missing)} column{'s' * (len(missing) > 1)}: {names} (it has {found}). {remedy}"


def list_unused(layout: Layout, columns: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that are not read, each with the known one that it may have been meant for."""
    absent = [name for name in known_columns() if name not in columns]
    unused = [name for name in columns if name not in layout.columns]
    compared = {name for name in unused[:NUM_COLUMNS_COMPARED] if name not in known_columns()}
    # A key of JSON lines may hold half a surrogate pair, which no UTF-8 file can.
    shown = {name: name.encode("utf-8", "backslashreplace").decode("utf-8") for name in unused}
    return {shown[name]: find_nearest(name, absent) if name in compared else None for name in unused}


def find_nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the one of `names` that looks most like `name`, whatever its case; None where none does."""
    return next(iter(difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)), None)

"""The layouts of preference data that are known, and how a record of each becomes a raw row.

    lmsys   Kaggle LMSYS 2024: id, prompt, response_a, response_b as JSON lists of turns; winner_model_a, ...
    plain   the same columns, one plain string each
    wsdm    Kaggle WSDM Cup 2025: plain strings; winner is model_a or model_b
    arena   lmarena: conversation_a, conversation_b as lists of messages; winner is model_a, model_b, tie or "both bad"
    pairs   HH-RLHF, UltraFeedback: chosen, rejected as text or as lists of messages

The text and the label are found apart: any of them may carry winner_model_a / _b, winner_tie, or winner, or
the probabilities prob_model_a, prob_model_b, prob_tie beside or instead of a winner.
"""

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pref_dist.data.conversations import Texts, parse_conversation, parse_dialogue, parse_json_turns, shorten
from pref_dist.data.mixing import mix64
from pref_dist.data.raw_labels import LABEL_COLUMNS, Labels, find_labels, parse_labels
from pref_dist.data.records import Record
from pref_dist.data.rows import Target
from pref_dist.errors import DataError
from pref_dist.findings import Fault
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
A_WINS: Target = (1.0, 0.0, 0.0)
B_WINS: Target = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Layout:
    """How the columns of a source are to be read. `order_seed` decides which of a pair is shown first."""

    format: Format
    id_column: str | None  # None: the id is made of the content
    labels: Labels
    has_models: bool
    order_seed: int

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        ids = [self.id_column] if self.id_column else []
        texts = {"arena": CONVERSATION_COLUMNS, "pairs": (*PAIR_COLUMNS, "prompt")}.get(self.format, TEXT_COLUMNS)
        return [*ids, *texts, *(MODEL_COLUMNS if self.has_models else ()), *self.labels.columns]

    @property
    def is_labelled(self) -> bool:
        return self.format == "pairs" or bool(self.labels.columns)


class RawRow(NamedTuple):
    """One data row, its cells told apart but not yet trusted."""

    row: int  # 1-based number of the data row in its source
    id: str
    texts: tuple[Texts, Texts, Texts]  # turns of prompt, A, B
    cells: tuple[str, str, str]  # the same as they stand in the file
    target: Target | None
    soft_target: Target | None
    models: tuple[str, str] | None
    faults: tuple[Fault, ...]
    has_made_id: bool = False  # made of the content, so that equal rows would have equal ones
    has_non_text: bool = False


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
    labels = find_labels(path, columns, format) if with_labels else Labels()
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
        has_models=all(name in columns for name in MODEL_COLUMNS),
        order_seed=order_seed,
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
    nearest = [(name, difflib.get_close_matches(name, others, n=1)) for name in missing]
    hints = [f"Rename {near[0]!r} to {name!r}?" for name, near in nearest if near]
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        hints = ["The header has no comma: save the file with commas between the cells."]
    remedy = " ".join(hints) or (
        f"The file needs the columns {', '.join(needed)} and, where it is labelled, {', '.join(WINNER_COLUMNS)} "
        f"(or conversation_a and conversation_b, or chosen and rejected: see data.format)."
    )
    names = ", ".join(repr(name) for name in missing)
    return f"{path} lacks {len(missing)} column{'s' * (len(missing) > 1)}: {names} (it has {found}). {remedy}"


def list_unused(layout: Layout, columns: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that are not read, each with the known one that it may have been meant for."""
    known, used = set(known_columns()), set(layout.columns)
    absent = [name for name in known_columns() if name not in columns]
    unused = [name for name in columns if name not in used]
    # A key of JSON lines may hold half a surrogate pair, which no UTF-8 file can.
    shown = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in unused]
    return {
        name: None
        if name in known or number >= NUM_COLUMNS_COMPARED
        else next(iter(difflib.get_close_matches(name, absent, n=1, cutoff=0.75)), None)
        for number, name in enumerate(shown)
    }


def build_raw_row(number: int, record: Record, layout: Layout) -> RawRow:
    """Read one record by the layout. What cannot be read is a fault of the row, never an error."""
    try:
        row_id = "" if layout.id_column is None else render_id(record.cells.get(layout.id_column))
    except RecursionError:
        row_id = ""
    fault = record.fault
    if fault is None:
        try:
            return read_cells(number, row_id, record.cells, layout)
        except RecursionError:  # JSON that could just be read, and cannot be written
            fault = Fault("bad_line", "JSON that is nested too deeply")
    return RawRow(number, row_id, ([], [], []), ("", "", ""), None, None, None, (fault,))


def read_cells(number: int, row_id: str, cells: Mapping[str, Any], layout: Layout) -> RawRow:
    match layout.format:
        case "arena":
            row = read_arena(number, row_id, cells)
        case "pairs":
            row = read_pair(number, row_id, cells, layout.order_seed)
        case _:
            row = read_columns_of_text(number, row_id, cells, layout.format == "lmsys")
    if layout.id_column is None and layout.format != "pairs":
        row = row._replace(id=make_id(row.texts), has_made_id=True)
    if layout.labels.columns:
        target, soft_target, faults = parse_labels(cells, layout.labels)
        row = row._replace(target=target, soft_target=soft_target, faults=(*faults, *row.faults))
    if layout.has_models:
        model_a, model_b = (render_id(cells.get(name)) for name in MODEL_COLUMNS)
        row = row._replace(models=(model_a, model_b) if model_a and model_b else None)
    return row


def render_id(cell: Any) -> str:
    return "" if cell is None else str(cell)


def render_cell(cell: Any) -> str:
    """Return a text cell as a CSV file would hold it."""
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)


def read_columns_of_text(number: int, row_id: str, cells: Mapping[str, Any], are_lists: bool) -> RawRow:
    values = [cells.get(name) for name in TEXT_COLUMNS]
    columns: list[Texts] = []
    faults = []
    for name, cell in zip(TEXT_COLUMNS, values, strict=True):
        turns, problem = parse_json_turns(cell) if are_lists else parse_plain(cell)
        if problem is not None:
            faults.append(Fault("bad_json", f"{name}: {problem}: {shorten(render_cell(cell))!r}"))
        columns.append([render_cell(cell)] if turns is None else turns)
    prompt, a, b = map(render_cell, values)
    return RawRow(number, row_id, (columns[0], columns[1], columns[2]), (prompt, a, b), None, None, None, tuple(faults))


def parse_plain(cell: Any) -> tuple[Texts | None, str | None]:
    if cell is None or isinstance(cell, str):
        return [cell], None
    return None, f"{type(cell).__name__} where a text should be"


def read_arena(number: int, row_id: str, cells: Mapping[str, Any]) -> RawRow:
    a, b = (parse_conversation(cells.get(name), name) for name in CONVERSATION_COLUMNS)
    faults = [*a.faults, *b.faults]
    if not faults and a.prompts != b.prompts:
        faults.append(Fault("prompts_differ", "conversation_a and conversation_b do not hold the same prompts"))
    return build_from_turns(number, row_id, a.prompts, a.responses, b.responses, faults)._replace(
        has_non_text=a.has_non_text or b.has_non_text
    )


def read_pair(number: int, row_id: str, cells: Mapping[str, Any], order_seed: int) -> RawRow:
    """Read a chosen and a rejected conversation; a hash of the id decides which comes first, or it would tell."""
    chosen, rejected = (parse_dialogue(cells.get("prompt"), cells.get(name), name) for name in PAIR_COLUMNS)
    faults = [*chosen.faults, *rejected.faults]
    if not faults and chosen.prompts != rejected.prompts:
        faults.append(Fault("prompts_differ", "chosen and rejected do not hold the same prompts"))
    shown_id = row_id or make_id((chosen.prompts, chosen.responses, rejected.responses))
    first, second, target = chosen, rejected, A_WINS
    if is_swapped(shown_id, order_seed):
        first, second, target = rejected, chosen, B_WINS
    row = build_from_turns(number, shown_id, first.prompts, first.responses, second.responses, faults)
    return row._replace(
        target=target, has_made_id=not row_id, has_non_text=chosen.has_non_text or rejected.has_non_text
    )


def build_from_turns(number: int, row_id: str, prompts: Texts, a: Texts, b: Texts, faults: Sequence[Fault]) -> RawRow:
    cells = (render_cell(prompts), render_cell(a), render_cell(b))
    return RawRow(number, row_id, (prompts, a, b), cells, None, None, None, tuple(faults))


def make_id(texts: tuple[Texts, Texts, Texts]) -> str:
    """Return an id that is the content's own: it does not move when rows are added."""
    content = json.dumps(texts).encode("utf-8")
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def is_swapped(row_id: str, seed: int) -> bool:
    """Draw by the id whether the rejected response comes first; the same in every process."""
    word = int.from_bytes(hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return bool(int(mix64(np.uint64(word) ^ mix64(np.uint64(seed)))) & 1)

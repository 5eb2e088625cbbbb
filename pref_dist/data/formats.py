"""From a record to a raw row: the cells of each known layout told apart, nothing trusted yet."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pref_dist.data.conversations import Texts, parse_conversation, parse_dialogue, parse_json_turns, shorten
from pref_dist.data.layouts import CONVERSATION_COLUMNS, MODEL_COLUMNS, PAIR_COLUMNS, Layout
from pref_dist.data.mixing import mix64
from pref_dist.data.raw_labels import parse_labels
from pref_dist.data.records import Record
from pref_dist.data.rows import Target
from pref_dist.findings import Fault
from pref_dist.labels import TEXT_COLUMNS

A_WINS: Target = (1.0, 0.0, 0.0)
B_WINS: Target = (0.0, 1.0, 0.0)


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


def build_raw_row(number: int, record: Record, layout: Layout) -> RawRow:
    """Read one record by the layout. What cannot be read is a fault of the row, never an error."""
    cells = record.cells
    row_id = "" if layout.id_column is None else render_id(cells.get(layout.id_column))
    if record.fault is not None:
        return RawRow(number, row_id, ([], [], []), ("", "", ""), None, None, None, (record.fault,))
    match layout.format:
        case "arena":
            row = read_arena(number, row_id, cells)
        case "pairs":
            row = read_pair(number, row_id, cells, layout.order_seed)
        case _:
            row = read_columns_of_text(number, row_id, cells, layout.format == "lmsys")
    if layout.id_column is None and layout.order_seed is None:
        row = row._replace(id=str(number), has_made_id=True)
    elif layout.id_column is None and layout.format != "pairs":
        row = row._replace(id=make_id(row.texts), has_made_id=True)
    if layout.labels.columns:
        target, soft_target, faults = parse_labels(cells, layout.labels)
        row = row._replace(target=target, soft_target=soft_target, faults=(*faults, *row.faults))
    if layout.has_models:
        model_a, model_b = (render_id(cells.get(name)) for name in MODEL_COLUMNS)
        row = row._replace(models=(model_a, model_b) if model_a and model_b else None)
    return row


def render_id(cell: Any) -> str:
    """Return an id as text: 1 and 1.0, which Parquet makes of it, are the same; NaN, lists and the like are none."""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else str(int(cell)) if cell.is_integer() else str(cell)
    return str(cell) if isinstance(cell, str | int | float) and not isinstance(cell, bool) else ""


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


def read_pair(number: int, row_id: str, cells: Mapping[str, Any], order_seed: int | None) -> RawRow:
    """Read a chosen and a rejected conversation; a hash of the id decides which comes first, or it would tell."""
    chosen, rejected = (parse_dialogue(cells.get("prompt"), cells.get(name), name) for name in PAIR_COLUMNS)
    faults = [*chosen.faults, *rejected.faults]
    if not faults and chosen.prompts != rejected.prompts:
        faults.append(Fault("prompts_differ", "chosen and rejected do not hold the same prompts"))
    elif not faults and chosen.responses == rejected.responses and order_seed is not None:
        faults.append(Fault("unknown_winner", "chosen and rejected are the same text"))
    shown_id = row_id or make_id((chosen.prompts, chosen.responses, rejected.responses))
    first, second, target = chosen, rejected, A_WINS
    if order_seed is not None and is_swapped(shown_id, order_seed):
        first, second, target = rejected, chosen, B_WINS
    row = build_from_turns(number, shown_id, first.prompts, first.responses, second.responses, faults)
    return row._replace(
        target=None if order_seed is None else target,
        has_made_id=not row_id,
        has_non_text=chosen.has_non_text or rejected.has_non_text,
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

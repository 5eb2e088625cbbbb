"""Who won, as the files say it: one-hot columns, a word, or three probabilities."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pref_dist.data.conversations import shorten
from pref_dist.data.rows import Target
from pref_dist.errors import DataError
from pref_dist.findings import Fault
from pref_dist.labels import WINNER_COLUMNS

WINNER_COLUMN = "winner"
SOFT_COLUMNS = ("prob_model_a", "prob_model_b", "prob_tie")
LABEL_COLUMNS = (*WINNER_COLUMNS, WINNER_COLUMN, *SOFT_COLUMNS)
WORDS: dict[str, Target] = {
    "model_a": (1.0, 0.0, 0.0),
    "model_b": (0.0, 1.0, 0.0),
    "tie": (0.0, 0.0, 1.0),
    "tie (bothbad)": (0.0, 0.0, 1.0),
    "both_bad": (0.0, 0.0, 1.0),
    "both bad": (0.0, 0.0, 1.0),
    "bothbad": (0.0, 0.0, 1.0),
}
# Three probabilities that were rounded to four digits may miss 1 by so much.
LARGEST_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class Labels:
    """The columns of a source that hold labels; both empty: it is unlabelled (or is to be read so)."""

    winner_columns: tuple[str, ...] = ()
    soft_columns: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.winner_columns, *self.soft_columns)


def find_labels(path: object, columns: Sequence[str], format: str) -> Labels:
    """Return the label columns. Raises DataError if only some of three that belong together are there."""
    found = {}
    for names in (WINNER_COLUMNS, SOFT_COLUMNS):
        missing = [name for name in names if name not in columns]
        if 0 < len(missing) < len(names):
            raise DataError(
                f"{path} lacks {len(missing)} of the columns {', '.join(names)}: {', '.join(missing)}. Add "
                f"{'it' if len(missing) == 1 else 'them'}, or leave all three out."
            )
        found[names] = () if missing else names
    winner: tuple[str, ...] = found[WINNER_COLUMNS]
    has_word = WINNER_COLUMN in columns
    # An Arena file is labelled by its word, a Kaggle file by its three columns, where it has both.
    if has_word and (format == "arena" or not winner):
        winner = (WINNER_COLUMN,)
    return Labels(winner, found[SOFT_COLUMNS])


def parse_labels(cells: Mapping[str, Any], labels: Labels) -> tuple[Target | None, Target | None, list[Fault]]:
    """Return (target, soft target, faults): the winner where there is one, the probabilities where there are any."""
    soft, soft_faults = parse_soft([cells.get(name) for name in labels.soft_columns])
    winner_cells = [cells.get(name) for name in labels.winner_columns]
    if soft is not None and all(is_blank(cell) for cell in winner_cells):
        return soft, soft, []
    if not winner_cells:
        blank = [Fault("bad_soft_label", "the probabilities are empty")] if soft is None and not soft_faults else []
        return soft, soft, [*soft_faults, *blank]
    parse = parse_word if labels.winner_columns == (WINNER_COLUMN,) else parse_one_hot
    target, faults = parse(winner_cells)
    return target, soft, [*faults, *soft_faults]


def is_blank(cell: Any) -> bool:
    """Return whether a cell holds nothing; NaN is how pandas writes that into a Parquet column of numbers."""
    is_nan = isinstance(cell, float) and math.isnan(cell)
    return cell is None or is_nan or (isinstance(cell, str) and not cell.strip())


def parse_soft(cells: Sequence[Any]) -> tuple[Target | None, list[Fault]]:
    if all(is_blank(cell) for cell in cells):
        return None, []
    try:
        a, b, tie = (float(cell) for cell in cells)
    except (TypeError, ValueError, OverflowError):
        return None, [Fault("bad_soft_label", f"no numbers: {describe(cells)}")]
    total = a + b + tie
    if not (min(a, b, tie) >= 0 and abs(total - 1) <= LARGEST_SUM_ERROR):
        return None, [Fault("bad_soft_label", f"not three probabilities whose sum is 1: {describe(cells)}")]
    return (a / total, b / total, tie / total), []


def parse_one_hot(cells: Sequence[Any]) -> tuple[Target | None, list[Fault]]:
    try:
        a, b, tie = (float(cell) for cell in cells)
    except (TypeError, ValueError, OverflowError):
        a = b = tie = float("nan")
    target = (a, b, tie)
    if sorted(target) == [0.0, 0.0, 1.0]:
        return target, []
    hint = ""
    if min(target) >= 0 and abs(sum(target) - 1) <= LARGEST_SUM_ERROR:
        hint = f"; probabilities belong into {', '.join(SOFT_COLUMNS)}"
    return None, [Fault("winner_not_one_hot", f"winner_model_a, winner_model_b, winner_tie: {describe(cells)}{hint}")]


def parse_word(cells: Sequence[Any]) -> tuple[Target | None, list[Fault]]:
    word = str(cells[0]).strip().lower()
    if word in WORDS:
        return WORDS[word], []
    return None, [Fault("unknown_winner", f"winner: {shorten(repr(cells[0]))} (known: {', '.join(WORDS)})")]


def describe(cells: Sequence[Any]) -> str:
    return ", ".join(shorten(repr(cell), 30) for cell in cells)

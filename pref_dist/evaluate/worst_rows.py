"""The rows that cost most, with their texts: where to look first when a model disappoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.plan import Rows
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.files import write_json
from pref_dist.metrics import probabilities, row_log_losses

WORST_ROWS = "worst_rows.json"
NUM_WORST = 30
MAX_CHARACTERS = 4_000  # of one text
OMISSION = " […] "

Array = NDArray[np.float64]


def find_worst(logits: Array, targets: Array, num_rows: int = NUM_WORST) -> Rows:
    """Return the places (w,) of the rows with the highest log loss, worst first; of equal ones the first comes first.

    logits, targets: (n, 3).
    """
    return np.argsort(-row_log_losses(logits, targets), kind="stable")[:num_rows]


def list_worst_rows(table: TokenTable, rows: Rows, texts: Sequence[Row], logits: Array) -> list[dict[str, Any]]:
    """Return a record of each of these rows (w,), in their order.

    texts: of the rows. logits: (w, 3). A record holds row_id, file, row, loss (nats), target, probabilities, is_cut
    (whether the model saw only a part), turns and models (who wrote A and B, None if unknown).
    """
    targets, chances = table.targets[rows], probabilities(logits)
    losses, are_cut = row_log_losses(logits, targets), is_cut(table, rows)
    return [
        {
            "row_id": place["id"],
            "file": place["file"],
            "row": place["row"],
            "loss": float(losses[number]),
            "target": targets[number].tolist(),
            "probabilities": chances[number].tolist(),
            "is_cut": bool(are_cut[number]),
            "turns": [{key: shorten(text) for key, text in turn._asdict().items()} for turn in row.turns],
            "models": None if row.models is None else list(row.models),
        }
        for number, (row, place) in enumerate(zip(texts, map(table.describe, rows.tolist()), strict=True))
    ]


def is_cut(table: TokenTable, rows: Rows) -> NDArray[np.bool_]:
    """Return (n,) whether the model sees only a part of each row."""
    return np.asarray((table.kept_lengths[rows] < table.full_lengths[rows]).any(axis=1))


def shorten(text: str) -> str:
    """Return a text of at most MAX_CHARACTERS that can be written: of a longer one the beginning and the end."""
    if len(text) > MAX_CHARACTERS:
        half = (MAX_CHARACTERS - len(OMISSION)) // 2
        text = text[:half] + OMISSION + text[-half:]
    # JSON may bring half of a surrogate pair, which no file can hold.
    return text.encode("utf-8", "replace").decode("utf-8")


def write_worst_rows(folder: Path, records: list[dict[str, Any]]) -> None:
    write_json(folder / WORST_ROWS, records)
